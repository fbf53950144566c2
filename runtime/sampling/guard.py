"""Runs a server for as long as the program that wants it lives: `python guard.py COMMAND...`.

The program holds this one's standard input. When it closes it, or dies in whatever way, the whole process
group ends: the server and what it started. Started by path, so it must not import anything of ours.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

GRACE_S = 10.0  # how long a server may take to end when it is told to


def _end_with_owner(server: subprocess.Popen[bytes]) -> None:
    sys.stdin.buffer.read()  # to its end: nothing is ever written
    os.killpg(0, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S
    while server.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(0, signal.SIGKILL)  # its workers, and this process


def main(command: list[str]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):  # meant for the owner, who decides
        signal.signal(number, lambda *_: None)  # not SIG_IGN, which the server would inherit
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    threading.Thread(target=_end_with_owner, args=(server,), daemon=True).start()
    print(f"the server ended with exit code {server.wait()}", flush=True)
    os.killpg(0, signal.SIGKILL)  # what it left behind


if __name__ == "__main__":
    main(sys.argv[1:])
