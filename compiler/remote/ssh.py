"""One connection to a login host, by the user's own ssh: run a command there, copy files there and back.

A password or a second factor is asked for once.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import TemporaryDirectory

from compiler.errors import UsageError
from compiler.remote.login import Login, Mirror, in_shell
from runtime import __version__

ABSENT = 90  # exit code where the spec is not on the host: none of alignc's
BROKEN = 255  # exit code of ssh where it failed itself
OPTIONS = ("-o", "ConnectTimeout=20", "-o", "ServerAliveInterval=30")
# Places are kept, links followed. What is hidden in a folder does not count, as for its fingerprint.
COPY = ("rsync", "-rLtR", "--exclude=.*", "--exclude=__pycache__", "--out-format=%i %l %n")
_ITEM = re.compile(r"(\S+) +(\d+) (.*)")


@dataclass(frozen=True, slots=True)
class Item:
    """What rsync did or would do with a file there: its own word for that, the place, bytes."""

    what: str
    place: str
    size: int

    @property
    def is_new(self) -> bool:
        """Whether it is a file whose content is sent."""
        return self.what.startswith("<f")


@dataclass(frozen=True, slots=True)
class Host:
    """A login host within reach; `ssh` begins every command line that uses the connection.

    Everything raises UsageError where the connection fails.
    """

    login: Login
    mirror: Mirror
    ssh: tuple[str, ...]

    def greet(self) -> None:
        """See that the host is reached, and has the same alignc."""
        name, alignc = self.login.host, self.login.alignc
        line = self.line(f"{in_shell(alignc)} --version")
        done = subprocess.run(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode == BROKEN:
            way = shlex.join(["ssh", *self.login.options, name])
            raise UsageError(f"{name} cannot be reached; `{way}` has to work first")
        told = re.search(r", version (\S+)$", done.stdout, re.MULTILINE)
        if told is None:
            way = "install it there, and say where: `alignc: ~/venv/bin/alignc` in `login` of the profile"
            raise UsageError(f"`{alignc}` does not run on {name}; {way}")
        if told[1] != __version__:
            way = "install the same version on both"
            raise UsageError(f"alignc is {told[1]} on {name}, and {__version__} here; {way}")

    def run(self, spec: str, words: Sequence[str]) -> int:
        """Run alignc there, on this terminal and from the current folder's place; returns its exit code."""
        terminal = ["-t"] if sys.stdin.isatty() and sys.stdout.isatty() else []
        code = subprocess.call(self.line(self.script(spec, words), "-o", "LogLevel=ERROR", *terminal))
        if code == BROKEN:
            way = "what was submitted stays submitted, and the command may be given again"
            raise UsageError(f"the connection to {self.login.host} was lost; {way}")
        if code == ABSENT:
            raise UsageError(f"{spec} was never copied to {self.login.host}; `alignc submit` does that")
        return code

    def push(self, sources: Sequence[str], *options: str) -> list[Item]:
        """Copy each `base/./place` to its place in the login's folder; returns what differed there."""
        line = self.rsync([*COPY, *options], [*sources, f"{self.login.host}:./"])
        done = subprocess.run(
            line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace", check=False
        )
        if done.returncode:
            way = "nothing was started there; given again, the command copies what is left"
            raise UsageError(
                f"copying to {self.login.host} failed (exit code {done.returncode} of rsync); {way}"
            )
        found = filter(None, map(_ITEM.fullmatch, done.stdout.splitlines()))
        return [Item(m[1], m[3], int(m[2])) for m in found]

    def fetch(self, folder: str, into: str) -> None:
        """Copy what is in a folder there, named from the current one, into one here."""
        os.makedirs(into, exist_ok=True)
        place = self.mirror.place(os.path.abspath(folder))
        code = subprocess.call(self.rsync(["rsync", "-rt"], [f"{self.login.host}:./{place}/", f"{into}/"]))
        if code:
            way = "given again, the command fetches what is left"
            raise UsageError(f"fetching from {self.login.host} failed (exit code {code} of rsync); {way}")

    def script(self, spec: str, words: Sequence[str]) -> str:
        """What the host's shell does to run alignc from the current folder's place."""
        found = f"cd {self._here} 2> /dev/null && test -e {shlex.quote(spec)} || exit {ABSENT}"
        return f"{found}; exec {in_shell(self.login.alignc)} {shlex.join(words)}"

    def line(self, script: str, *options: str) -> list[str]:
        """The command line that runs a script there as after a login, with the user's PATH."""
        return [*self.ssh, *options, self.login.host, f"bash -lc {shlex.quote(script)}"]

    def rsync(self, words: Sequence[str], places: Sequence[str]) -> list[str]:
        """The command line of a copy; places there are seen from the login's folder."""
        begin = f"mkdir -p {self._here} && cd {in_shell(self.login.folder)} && rsync"
        return [*words, "-e", shlex.join(self.ssh), f"--rsync-path={begin}", *places]

    @property
    def _here(self) -> str:
        """The place there of the current folder, as a word of the shell."""
        return in_shell(os.path.normpath(f"{self.login.folder}/{self.mirror.place(os.getcwd())}"))


@contextmanager
def connected(login: Login, mirror: Mirror) -> Iterator[Host]:
    """A connection for all that is done in the block: one that the user's ssh keeps open, else our own."""
    ssh = ("ssh", *login.options, *OPTIONS)
    if _quiet([*ssh, "-O", "check", login.host]) == 0:
        yield Host(login, mirror, ssh)
        return
    with TemporaryDirectory(prefix="alignc-") as folder:
        ssh = (*ssh, "-o", "ControlMaster=auto", "-o", f"ControlPath={folder}/s", "-o", "ControlPersist=60")
        try:
            yield Host(login, mirror, ssh)  # whoever uses it first opens it
        finally:
            _quiet([*ssh, "-O", "exit", login.host])


def _quiet(line: Sequence[str]) -> int:
    null = subprocess.DEVNULL
    return subprocess.run(line, stdin=null, stdout=null, stderr=null, check=False).returncode
