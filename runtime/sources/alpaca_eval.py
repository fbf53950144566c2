"""Outputs in AlpacaEval's form: `instruction` is the prompt, `output` the completion."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from runtime.declare import AlpacaEvalSource, JsonlSource
from runtime.sources import Row
from runtime.sources.hub import local_file
from runtime.sources.pick import pick
from runtime.sources.records import array_or_lines


def rows(declared: AlpacaEvalSource, dropped: Counter[str]) -> Iterator[Row]:
    names = JsonlSource(kind="jsonl", path="", prompt="instruction", completion="output")
    for where, record in array_or_lines(local_file(declared)):
        yield pick(record, names, where)
