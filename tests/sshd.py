"""A real login host on this machine: a server of OpenSSH with keys and settings of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

SERVER = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
# so that nothing but alignc's own restraint keeps variables from being sent
AcceptEnv *
"""

CLIENT = """\
Host mysite
  HostName 127.0.0.1
  Port {port}
  IdentityFile {folder}/key
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known_hosts
  StrictHostKeyChecking accept-new
"""

# What stands for the cluster's alignc: it keeps a note of how it was called.
ALIGNC = """\
#!/bin/bash
{environment}
printf '%q ' "$@" >> {folder}/called; echo >> {folder}/called
env > {folder}/environment
exec {python} -m compiler.cli "$@"
"""


@dataclass(frozen=True, slots=True)
class LoginHost:
    """`options` lead ssh to the host `mysite`; `alignc` is the command there."""

    folder: Path
    port: int

    @property
    def options(self) -> list[str]:
        return ["-F", str(self.folder / "config")]

    @property
    def alignc(self) -> Path:
        return self.folder / "alignc"

    def install(self, **environment: str) -> None:
        """Put alignc there, with this environment; forget how it was called."""
        lines = "\n".join(f"export {name}='{value}'" for name, value in environment.items())
        text = ALIGNC.format(environment=lines, folder=self.folder, python=sys.executable)
        self.alignc.write_text(text)
        self.alignc.chmod(0o755)
        (self.folder / "called").write_text("")

    def called(self) -> list[str]:
        """How alignc was called there, but for `--version`."""
        lines = (self.folder / "called").read_text().splitlines()
        return [line.strip() for line in lines if line != "--version "]

    def logins(self) -> int:
        return (self.folder / "log").read_text().count("Accepted publickey")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def login_host(folder: Path) -> Iterator[LoginHost]:
    """Start it, and end it; skips the test where OpenSSH or rsync is not installed."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    if missing := [name for name in ("sshd", "ssh", "rsync") if shutil.which(name, path=path) is None]:
        pytest.skip(f"not installed: {', '.join(missing)}")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd insists on it
    for key in ("host_key", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
    host = LoginHost(folder, _free_port())
    for name, text in (("sshd_config", SERVER), ("config", CLIENT)):
        (folder / name).write_text(text.format(port=host.port, folder=folder))
    sshd = [str(shutil.which("sshd", path=path)), "-D", "-f", folder / "sshd_config", "-E", folder / "log"]
    server = subprocess.Popen(sshd)
    try:
        _wait_for(host, server)
        yield host
    finally:
        server.terminate()
        server.wait(timeout=30)


def _wait_for(host: LoginHost, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", host.port), timeout=5).close()
            return
        except OSError:
            assert server.poll() is None and time.monotonic() < deadline, (host.folder / "log").read_text()
            time.sleep(0.05)
