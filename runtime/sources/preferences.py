"""Preference pairs that others made; see `runtime.interchange.preferences` for their forms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from runtime.declare import PreferencesSource
from runtime.interchange.preferences import pair_of
from runtime.sources import Row
from runtime.sources.records import array_or_lines


def rows(declared: PreferencesSource, dropped: Counter[str]) -> Iterator[Row]:
    for where, record in array_or_lines(Path(declared.path)):
        found = pair_of(record, where)
        if isinstance(found, str):
            dropped[found] += 1
        else:
            yield found
