"""Whether the file system of a store does what a store rests on: tried in a folder there, then removed."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from compiler.site.doctor import SKEW_S, Check
from runtime.files import sync, write_atomic

GROUP = "store"
FREE_GB = 20.0


@contextmanager
def trial_folder(root: Path) -> Iterator[Path]:
    """A new folder in the store, or where it will be. Raises OSError."""
    there = next(p for p in (root, *root.parents) if p.is_dir())
    folder = there / f".doctor.{secrets.token_hex(4)}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_disk(root: Path, folder: Path) -> Iterator[Check]:
    """Try what seals and claims need, in a folder of the store at `root`."""
    yield Check(GROUP, "ok", f"{root}: {_kind(folder)}")
    free_gb = shutil.disk_usage(folder).free / 2**30
    fix = "a checkpoint of 7e9 parameters takes 27 GiB; `alignc gc` removes what no spec needs"
    yield Check(GROUP, "ok" if free_gb > FREE_GB else "warning", f"{free_gb:.0f} GiB are free", fix)
    failed = {what: problem for what, trial in TRIALS.items() if (problem := _try(trial, folder))}
    for what, problem in failed.items():
        fix = "results could be lost or made twice here: put the store on another file system"
        yield Check(GROUP, "problem", f"it is no file system that {what}: {problem}", fix)
    if not failed:
        yield Check(GROUP, "ok", f"it {', '.join(TRIALS)}")
    skew = _skew_s(folder)
    if abs(skew) > SKEW_S:
        fix = "ask the site to set the clocks (NTP): who is silent for minutes is taken for dead"
        yield Check(GROUP, "warning", f"its clock differs from this machine's by {skew:+.0f} s", fix)
    locks = "works" if not _try(_flock, folder) else "does not work"
    yield Check(GROUP, "ok", f"flock {locks} (alignc does not use it)")


def _try(trial: Callable[[Path], None], folder: Path) -> str:
    """What went wrong; empty: nothing."""
    own = folder / trial.__name__
    own.mkdir()
    try:
        trial(own)
    except (OSError, AssertionError) as error:
        return str(error) or type(error).__name__
    return ""


def _renames(folder: Path) -> None:
    file = folder / "file"
    write_atomic(file, "old")
    with file.open() as reader:
        write_atomic(file, "new")
        assert reader.read() == "old", "who has a file open reads another one after a rename"
    assert file.read_text() == "new", "the old text is there after a rename"
    (folder / "full").mkdir()
    (folder / "full" / "file").touch()
    (folder / "other").mkdir()
    try:
        (folder / "other").rename(folder / "full")
    except OSError:
        return
    raise AssertionError("a folder takes the place of one that is not empty")


def _exclusive(folder: Path) -> None:
    (folder / "mine").touch()
    (folder / "folder").mkdir()
    os.link(folder / "mine", folder / "taken")
    ways: dict[str, Callable[[], object]] = {
        "a link": lambda: os.link(folder / "mine", folder / "taken"),
        "O_EXCL": lambda: os.close(os.open(folder / "taken", os.O_CREAT | os.O_EXCL)),
        "mkdir": (folder / "folder").mkdir,
    }
    for what, again in ways.items():
        try:
            again()
        except FileExistsError:
            continue
        raise AssertionError(f"{what} takes a name that is taken")


def _syncs(folder: Path) -> None:
    (folder / "file").write_text("x")
    sync(folder / "file")
    sync(folder)


def _touches(folder: Path) -> None:
    file = folder / "file"
    file.touch()
    os.utime(file, (1e9, 1e9))
    os.utime(file)
    assert time.time() - file.stat().st_mtime < 1e8, "the time of a file stays as it was"


def _flock(folder: Path) -> None:
    with (folder / "file").open("w") as one, (folder / "file").open("w") as two:
        fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        raise AssertionError("two hold one lock")


TRIALS: dict[str, Callable[[Path], None]] = {
    "renames at once": _renames,
    "gives a name to one only": _exclusive,
    "syncs files and folders": _syncs,
    "shows when a file was touched": _touches,
}


def _skew_s(folder: Path) -> float:
    """How far the clock of the file server is ahead."""
    (folder / "now").touch()
    return (folder / "now").stat().st_mtime - time.time()


def _kind(folder: Path) -> str:
    """The kind of file system, as the kernel names it."""
    best, kind = "", "unknown"
    try:
        lines = Path("/proc/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "a file system of unknown kind"
    for line in lines:
        _, mount, name, *_ = line.split(" ")
        inside = f"{folder.resolve()}/".startswith(f"{mount.rstrip('/')}/")
        if inside and len(mount) >= len(best):
            best, kind = mount, name
    return f"a file system of kind {kind}"
