"""Readers of declared sources: one module for each kind, named like it.

A new kind is a declaration in `runtime.declare` and a module here with

    rows(declared, dropped) -> Iterator[Row]

which yields what the source holds and counts in `dropped` what it leaves out, and why. It raises
JobError for what the user can mend, with the place, the cause and the way out.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from typing import Any

# {prompt[, completion][, answer]} or {prompt, chosen, rejected}, and whatever else a source tells in
# text (`family`).
Row = dict[str, str]


def row_id(row: Row) -> str:
    """The same for the same prompt in every source; of plain text without a prompt, that text's.

    A prompt may have several preference pairs, so theirs is that of all three texts.
    """
    text = row["prompt"] or row.get("completion", "")
    if "chosen" in row:
        text = "\0".join((text, row["chosen"], row["rejected"]))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read(declared: Any, dropped: Counter[str]) -> Iterator[Row]:
    """The rows of a declared source, each with its `id` first; duplicates are still among them."""
    reader = import_module(f"{__name__}.{declared.kind}")
    for row in reader.rows(declared, dropped):
        yield {"id": row_id(row), **row}


def unique(rows: Iterator[Row], dropped: Counter[str]) -> Iterator[Row]:
    """The first row of each id; the others are counted as `duplicate`."""
    seen = set[str]()
    for row in rows:
        if row["id"] in seen:
            dropped["duplicate"] += 1
        else:
            seen.add(row["id"])
            yield row
