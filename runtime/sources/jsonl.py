"""JSON lines with a prompt and, where there is one, a completion or a list of messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from runtime.declare import JsonlSource
from runtime.sources import Row
from runtime.sources.hub import local_file
from runtime.sources.pick import pick
from runtime.sources.records import lines


def rows(declared: JsonlSource, dropped: Counter[str]) -> Iterator[Row]:
    for where, record in lines(local_file(declared)):
        yield pick(record, declared, where)
