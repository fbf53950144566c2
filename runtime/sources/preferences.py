"""Preference pairs that others made; see `runtime.interchange.preferences` for their forms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from runtime.declare import PreferencesSource
from runtime.interchange.preferences import pair_of
from runtime.sources import Row
from runtime.sources.records import Record, array_or_lines


def rows(declared: PreferencesSource, dropped: Counter[str]) -> Iterator[Row]:
    for where, record in _records(declared):
        columns = declared.prompt, declared.chosen, declared.rejected
        found = pair_of(record, where, columns, join=declared.turns == "joined")
        if isinstance(found, str):
            dropped[found] += 1
        else:
            yield found


def _records(declared: PreferencesSource) -> Iterator[tuple[str, Record]]:
    if declared.path is None or Path(declared.path).is_dir() or declared.path.endswith(".parquet"):
        from runtime.sources.datasets import records

        return records(declared)
    return array_or_lines(Path(declared.path))
