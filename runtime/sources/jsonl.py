"""JSON lines with a prompt and, where there is one, a completion or a list of messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from runtime.declare import JsonlSource
from runtime.sources import Row
from runtime.sources.pick import pick
from runtime.sources.records import lines


def rows(declared: JsonlSource, dropped: Counter[str]) -> Iterator[Row]:
    for where, record in lines(Path(declared.path)):
        yield pick(record, declared, where)
