"""A file of JSON lines that one process appends to, each line whole or not there."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runtime.llms.base import Fatal

SYNC_S = 1.0  # an fsync for each line would cost more than many replies do


@contextmanager
def unstored() -> Iterator[None]:
    """Raise Fatal where a line cannot be written."""
    try:
        yield
    except OSError as error:
        raise Fatal(
            f"an answer cannot be stored: {error}\nMake room and run again: what was stored before is kept."
        ) from error


class Lines:
    """Opened for appending, and made where it is not there, with its folder."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._synced = time.monotonic()

    def append(self, line: Mapping[str, Any]) -> int:
        """One write, so that a kill leaves a whole line or a torn last one. Returns where it begins.

        Raises OSError, and leaves no part of the line, where there is no room for it.
        """
        # With half a surrogate pair, as servers may send one, there is no other way to write it.
        raw = (json.dumps(line, ensure_ascii=False) + "\n").encode("utf-8", "replace")
        written = 0
        try:
            while written < len(raw):
                written += os.write(self._handle, raw[written:])
        except OSError:
            if written:  # of a full disk; the next line shall not begin in the middle of this one
                os.ftruncate(self._handle, self._end() - written)
            raise
        if time.monotonic() - self._synced > SYNC_S:
            self.sync()
        return self._end() - len(raw)

    def _end(self) -> int:
        """Where the last write ended, also where another process writes too."""
        return os.lseek(self._handle, 0, os.SEEK_CUR)

    def sync(self) -> None:
        os.fsync(self._handle)
        self._synced = time.monotonic()

    def close(self) -> None:
        self.sync()
        os.close(self._handle)
