"""Outputs in AlpacaEval's form: `instruction` is the prompt, `output` the completion."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from runtime.declare import AlpacaEvalSource, JsonlSource
from runtime.sources import Row
from runtime.sources.pick import pick
from runtime.sources.records import array_or_lines


def rows(declared: AlpacaEvalSource, dropped: Counter[str]) -> Iterator[Row]:
    names = JsonlSource(kind="jsonl", path=declared.path, prompt="instruction", completion="output")
    for where, record in array_or_lines(Path(declared.path)):
        yield pick(record, names, where)
