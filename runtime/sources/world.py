"""The built-in small world: verifiable tasks with their answers, or documents that state such facts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from runtime import world
from runtime.declare import WorldSource
from runtime.sources import Row


def rows(declared: WorldSource, dropped: Counter[str]) -> Iterator[Row]:
    families, size, seed = declared.families, declared.size, declared.seed
    if declared.what == "documents":
        yield from world.documents(families, size, seed)
    else:
        yield from world.tasks(families, size, seed, evaluation=declared.evaluation)
