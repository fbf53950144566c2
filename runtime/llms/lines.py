"""A file of JSON lines that one process appends to, each line whole or not there."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SYNC_S = 1.0  # an fsync for each line would cost more than many replies do


class Lines:
    """Opened for appending, and made where it is not there, with its folder."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._synced = time.monotonic()

    def append(self, line: Mapping[str, Any]) -> int:
        """One write, so that a kill leaves a whole line or a torn last one. Returns where it begins."""
        left = (json.dumps(line, ensure_ascii=False) + "\n").encode()
        size = len(left)
        while left:
            left = left[os.write(self._handle, left) :]
        if time.monotonic() - self._synced > SYNC_S:
            self.sync()
        return os.lseek(self._handle, 0, os.SEEK_CUR) - size

    def sync(self) -> None:
        os.fsync(self._handle)
        self._synced = time.monotonic()

    def close(self) -> None:
        self.sync()
        os.close(self._handle)
