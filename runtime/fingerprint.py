"""Fingerprints of files and folders by content, so that a recipe key tells data and not places.

A cache remembers the digests of large files by (real path, size, time of change), so that a file of
15 GB is read once. It is a folder with one small file for each digest: any number of processes may
share it, and what is lost or damaged in it costs time only.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path

from runtime.files import canonical, digest_file, digest_text, write_atomic

# A file changed within this time may change again without a new time stamp: its digest is not kept.
SETTLED_NS = 2_000_000_000
LARGE = 1 << 20  # bytes; smaller files are digested faster than remembered


def fingerprint(path: Path, cache: Path | None = None) -> str:
    """SHA-256 of a file's content, or of a folder's relative names and their digests.

    Links are followed. Hidden names and `__pycache__` inside a folder do not count. Raises OSError
    where something cannot be read.
    """
    if not path.is_dir():
        return _digest(path, cache)
    listed = {_printable(name): _digest(path / name, cache) for name in _names(path)}
    return digest_text(canonical(listed))


def _printable(name: str) -> str:
    """A file name as text, also where its bytes are not UTF-8."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _counts(name: str) -> bool:
    return not name.startswith(".") and name != "__pycache__"


def _names(folder: Path) -> list[str]:
    """Relative names of all files below a folder, sorted."""
    found: list[str] = []
    for where, folders, files in os.walk(folder, followlinks=True, onerror=_raise):
        folders[:] = filter(_counts, folders)
        found.extend((Path(where) / name).relative_to(folder).as_posix() for name in filter(_counts, files))
    return sorted(found)


def _raise(error: OSError) -> None:
    raise error


def _digest(path: Path, cache: Path | None) -> str:
    if cache is None or path.stat().st_size < LARGE:
        return digest_file(path)
    identity = _identity(path)
    entry = cache / digest_text(_printable(identity[0]))[:32]
    known = _recall(entry, identity)
    if known is not None:
        return known
    digest = digest_file(path)
    if time.time_ns() - identity[2] > SETTLED_NS and _identity(path) == identity:
        with contextlib.suppress(OSError):  # a full or read-only disk: the digest is right all the same
            write_atomic(entry, json.dumps([*identity, digest]), durable=False)
    return digest


def _identity(path: Path) -> tuple[str, int, int]:
    real = os.path.realpath(path)
    seen = os.stat(real)
    return real, seen.st_size, seen.st_mtime_ns


def _recall(entry: Path, identity: tuple[str, int, int]) -> str | None:
    """The digest that a cache entry gives for this state of a file."""
    try:
        *known, digest = json.loads(entry.read_text())
    except (OSError, ValueError, TypeError):
        return None
    return digest if tuple(known) == identity else None
