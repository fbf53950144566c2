"""Rows of a JSON-lines file by key, read when they are asked for: memory holds only where they begin."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from runtime.files import json_object

T = TypeVar("T")
MARK = 16  # bytes of a digest that stand for a key


class RowsOnDisk(Mapping[str, T]):
    """Rows of a file by one of their fields, each as `read` takes it; in the order in which they came.

    A key of any length takes some 50 bytes: a digest, a place, and slots of a hash table (a dict of texts
    takes 200 and more).
    """

    def __init__(self, path: Path, field: str, read: Callable[[dict[str, Any]], T]) -> None:
        self._file = path.open("rb")
        self._field, self._read = field, read
        self._marks = bytearray()  # a digest of each key
        self._places = array("q")  # where its row begins, in bytes
        self._slots = array("q", [-1]) * 8  # number of a key, at the first free slot from its digest on

    def place(self, key: str, place: int) -> None:
        """A key's row begins here; the row before it, if any, counts no more."""
        mark = _mark(key)
        slot = self._slot(mark)
        number = self._slots[slot]
        if number >= 0:
            self._places[number] = place
            return
        self._slots[slot] = len(self._places)
        self._places.append(place)
        self._marks += mark
        if 3 * len(self._places) > 2 * len(self._slots):
            self._grow()

    def _grow(self) -> None:
        self._slots = array("q", [-1]) * (2 * len(self._slots))
        for number in range(len(self._places)):
            self._slots[self._slot(self._marks[number * MARK : (number + 1) * MARK])] = number

    def _slot(self, mark: bytes | bytearray) -> int:
        """The slot with the number of this mark, or the one that is free for it."""
        slot = int.from_bytes(mark[:8], "little") % len(self._slots)
        while (number := self._slots[slot]) >= 0 and not self._marks.startswith(mark, number * MARK):
            slot = (slot + 1) % len(self._slots)
        return slot

    def _row(self, place: int) -> dict[str, Any]:
        self._file.seek(place)
        return json_object(self._file.readline())

    def __getitem__(self, key: str) -> T:
        number = self._slots[self._slot(_mark(key))]
        if number < 0:
            raise KeyError(key)
        row = self._row(self._places[number])
        if row[self._field] != key:
            raise RuntimeError(f"{self._file.name} has changed: another row stands where {key!r} did")
        return self._read(row)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._slots[self._slot(_mark(key))] >= 0

    def __iter__(self) -> Iterator[str]:
        return (self._row(place)[self._field] for place in self._places)

    def __len__(self) -> int:
        return len(self._places)


def _mark(key: str) -> bytes:
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=MARK).digest()


def placed_rows(path: Path) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """(line, its place in bytes, row) of a JSON-lines file that is not packed; raises as `numbered_rows`."""
    place = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                if line.strip():
                    yield number, place, json_object(line.decode())
            except ValueError as error:
                raise ValueError(f"{path}:{number}: {error}") from error
            place += len(line)
