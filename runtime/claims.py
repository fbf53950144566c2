"""Claims: at most one live process works on a name, on any file system with atomic links.

A claim is a file `<folder>/<generation>`; the highest generation owns the name. Nothing is ever
deleted or renamed to take a claim over: the next generation is linked into place, which the file
system grants to one process only. No flock (it does not lock on many NFS mounts).

An owner shows that it lives by touching its file. It is taken for dead when it is a process of this
host that has gone, or when it has not touched its file for `STALE_S` seconds.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STALE_S = 300.0
BEAT_S = 10.0


class ClaimLost(RuntimeError):
    """Another process took the claim over because this one seemed dead."""


def _start_time(pid: int) -> str:
    """The kernel's start time of a process, which tells a reused pid; empty where there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def owner_record() -> dict[str, Any]:
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "boot": _boot_id(),
        "pid": pid,
        "start": _start_time(pid),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "since": time.time(),
    }


def _alive(path: Path) -> bool:
    try:
        owner = json.loads(path.read_text())
        age = time.time() - path.stat().st_mtime
    except (OSError, json.JSONDecodeError):
        return False
    if owner.get("released"):
        return False
    if owner["host"] == socket.gethostname() and owner["boot"] == _boot_id():
        return bool(owner["start"]) and _start_time(owner["pid"]) == owner["start"]
    return age < STALE_S


def _generations(folder: Path) -> list[int]:
    try:
        return sorted(int(name) for name in os.listdir(folder) if name.isdigit())
    except FileNotFoundError:
        return []


def owner_of(folder: Path) -> dict[str, Any] | None:
    """The record of the live owner of a claim folder, or None."""
    generations = _generations(folder)
    if not generations:
        return None
    path = folder / str(generations[-1])
    return json.loads(path.read_text()) if _alive(path) else None


@dataclass(slots=True)
class Claim:
    """A claim held by this process, kept alive by a thread until `release`."""

    folder: Path
    generation: int
    _stop: threading.Event

    @property
    def path(self) -> Path:
        return self.folder / str(self.generation)

    def check(self) -> None:
        """Raise ClaimLost where another process has taken the claim over."""
        if _generations(self.folder)[-1:] != [self.generation]:
            raise ClaimLost(f"{self.folder} was taken over by another process")

    def release(self) -> None:
        self._stop.set()
        try:
            self.path.write_text(json.dumps({**owner_record(), "released": True}))
        except OSError:
            pass  # the folder went with the work it guarded


def _beat(path: Path, stop: threading.Event) -> None:
    while not stop.wait(BEAT_S):
        try:
            os.utime(path)
        except OSError:
            return


def try_claim(folder: Path) -> Claim | None:
    """Claim a name for this process; None while a live process holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    generations = _generations(folder)
    if generations and _alive(folder / str(generations[-1])):
        return None
    generation = generations[-1] + 1 if generations else 1
    draft = folder / f".{secrets.token_hex(8)}"
    target = folder / str(generation)
    try:
        draft.write_text(json.dumps(owner_record()))
        os.link(draft, target)
    except FileExistsError:
        return None
    finally:
        draft.unlink(missing_ok=True)
    stop = threading.Event()
    threading.Thread(target=_beat, args=(target, stop), daemon=True).start()
    return Claim(folder, generation, stop)
