"""Claims: at most one live process works on a name, on any file system with atomic links.

A claim is a file `<folder>/<generation>`; the highest generation owns the name. Nothing is ever
deleted or renamed to take a claim over: the next generation is linked into place, which the file
system grants to one process only. No flock (it does not lock on many NFS mounts).

The folder may be removed once what it guards is done. Whoever claims a name must therefore look,
after claiming, whether that is so: the folder may have gone and come again meanwhile.

An owner shows that it lives by touching its file. It is taken for dead when it is a process of this
host that has gone, or when it has not touched its file for `STALE_S` seconds. `SILENT_S` are enough for a
later turn of the same Slurm task, since Slurm ends one turn before it begins the next. Slurm's word
alone is not: where a node was cut off, or only its slurmd died, the earlier turn may be at work yet.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.slurm.task import slurm_id, turn

STALE_S = 300.0
SILENT_S = 60.0
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


def _world() -> str:
    """What process ids mean something in: this boot of this kernel, and the namespace of our pids."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def owner_record() -> dict[str, Any]:
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "world": _world(),
        "pid": pid,
        "start": _start_time(pid),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "task": slurm_id(),
        "turn": turn(),
        "node": os.environ.get("SLURMD_NODENAME", ""),
        "since": time.time(),
    }


def is_here(owner: Mapping[str, Any]) -> bool:
    """Whether the owner's process id means something to this process."""
    return bool(owner) and owner["host"] == socket.gethostname() and owner["world"] == _world()


def _living(path: Path) -> dict[str, Any] | None:
    """The record of a claim whose owner lives, or None. Raises FileNotFoundError where it has gone.

    A file that cannot be read for another reason than its absence (a server that does not answer)
    is taken for a living owner's: waiting costs time, two owners cost results.
    """
    try:
        owner: dict[str, Any] = json.loads(path.read_text())
        age = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        raise
    except ValueError:
        return None  # half released
    except OSError:
        return {}
    if owner.get("released"):
        return None
    if is_here(owner):
        lives = bool(owner["start"]) and _start_time(owner["pid"]) == owner["start"]
    else:
        lives = age < STALE_S
    return owner if lives else None


def _begun_anew(owner: Mapping[str, Any]) -> bool:
    """Whether this process is a later turn of the Slurm task of an owner elsewhere."""
    task = slurm_id()
    same = task is not None and owner.get("task") == task and not is_here(owner)
    return same and turn() > int(owner.get("turn", 0))


def _generations(folder: Path) -> list[int]:
    try:
        return sorted(int(name) for name in os.listdir(folder) if name.isdigit())
    except FileNotFoundError:
        return []


def owner_of(folder: Path) -> dict[str, Any] | None:
    """The record of the live owner of a claim folder, or None."""
    generations = _generations(folder)
    try:
        return _living(folder / str(generations[-1])) if generations else None
    except FileNotFoundError:
        return None


def last_node(folder: Path) -> str:
    """The Slurm node on which a claim folder's last owner was, living or not; empty where nobody knows."""
    try:
        return str(json.loads((folder / str(_generations(folder)[-1])).read_text()).get("node", ""))
    except (OSError, ValueError, IndexError):
        return ""


@dataclass(slots=True)
class Claim:
    """A claim held by this process, kept alive by a thread until `release`."""

    folder: Path
    generation: int
    _stop: threading.Event

    @property
    def path(self) -> Path:
        return self.folder / str(self.generation)

    def held(self) -> bool:
        """Whether nobody has taken the claim over."""
        return _generations(self.folder)[-1:] == [self.generation]

    def check(self) -> None:
        """Raise ClaimLost where another process has taken the claim over."""
        if not self.held():
            raise ClaimLost(f"{self.folder} was taken over by another process")

    def release(self) -> None:
        self._stop.set()
        with contextlib.suppress(OSError), self.path.open("r+") as file:  # it may have gone with the work
            file.truncate()
            json.dump({**owner_record(), "released": True}, file)


def _beat(claim: Claim, stop: threading.Event, lost: Callable[[], object]) -> None:
    """Show that the owner lives, until it releases the claim or has lost it."""
    while not stop.wait(BEAT_S):
        with contextlib.suppress(OSError):  # one failed touch is no death: try again at the next beat
            if not claim.held():
                lost()
                return
            os.utime(claim.path)


def _link(draft: Path, target: Path) -> bool:
    """Give a draft its final name; False where the name is taken, or the folder has gone."""
    try:
        os.link(draft, target)
    except FileExistsError:
        # An NFS client that repeats a request whose answer was lost is told that its own link exists.
        return draft.stat().st_nlink == 2
    except FileNotFoundError:
        return False
    return True


def try_claim(folder: Path, lost: Callable[[], object] = lambda: None) -> Claim | None:
    """Claim a name for this process; None while a live process holds it, or was faster.

    `lost` is called, in another thread, when the claim turns out to have been taken over: possible
    only where this process stood still for more than `STALE_S`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, FileNotFoundError):
        return None  # it, or a folder above it, went while it was made
    generations = _generations(folder)
    generation = generations[-1] + 1 if generations else 1
    last = folder / str(generations[-1]) if generations else None
    draft = folder / f".{secrets.token_hex(8)}"
    try:
        owner = _living(last) if last else None
        if owner is not None and not _begun_anew(owner):
            return None
        draft.write_text(json.dumps(owner_record()))
        # Both times are the file server's, whatever the clocks of the two nodes say.
        if owner is not None and last and draft.stat().st_mtime - last.stat().st_mtime < SILENT_S:
            return None
        linked = _link(draft, folder / str(generation))
    except FileNotFoundError:
        return None  # the owner's work is done, and the folder went with it
    finally:
        draft.unlink(missing_ok=True)
    if not linked:
        return None
    stop = threading.Event()
    claim = Claim(folder, generation, stop)
    threading.Thread(target=_beat, args=(claim, stop, lost), daemon=True).start()
    return claim
