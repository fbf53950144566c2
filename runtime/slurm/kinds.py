"""Kinds of ends of jobs that made nothing, and the kind that a job's own record tells."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

REPEATS = 3  # as often as this the same traceback, and another try is of no use


class Kind(StrEnum):
    """How a job ended that made nothing."""

    REFUSED = "refused"
    BLOCKED = "blocked"
    EXCEPTION = "exception"
    MEMORY = "out_of_memory"
    GPU_MEMORY = "out_of_gpu_memory"
    TIMEOUT = "timeout"
    IDLE = "timeout_without_progress"
    NODE = "node_failure"
    PREEMPTED = "preempted"
    CANCELLED = "cancelled"
    STOPPED = "stopped"
    KILLED = "killed"


WORDS: Mapping[Kind, str] = {
    Kind.REFUSED: "refused what it was given",
    Kind.BLOCKED: "an input is missing or damaged",
    Kind.EXCEPTION: "raised an error",
    Kind.MEMORY: "ran out of memory",
    Kind.GPU_MEMORY: "ran out of GPU memory",
    Kind.TIMEOUT: "reached its time limit",
    Kind.IDLE: "reached its time limit again and again and got no further",
    Kind.NODE: "its node failed",
    Kind.PREEMPTED: "made room for a more urgent job",
    Kind.CANCELLED: "was cancelled",
    Kind.STOPPED: "was asked to stop",
    Kind.KILLED: "was killed without a word",
}
# What is in a message or a traceback -> kind; the first that is found holds.
SAID: tuple[tuple[str, Kind], ...] = (
    (r"CUDA out of memory|torch\.OutOfMemoryError|CUBLAS_STATUS_ALLOC_FAILED", Kind.GPU_MEMORY),
    (r"\bMemoryError\b|can't allocate memory|Cannot allocate memory|signal 9 \(memory\?\)", Kind.MEMORY),
    (r"Unable to allocate .* for an array", Kind.MEMORY),
)
OUTCOMES: Mapping[str, Kind] = {
    "refused": Kind.REFUSED,
    "blocked": Kind.BLOCKED,
    "failed": Kind.EXCEPTION,
    "warned": Kind.TIMEOUT,
}


def first(patterns: tuple[tuple[str, Kind], ...], text: str) -> Kind | None:
    """The kind of the first pattern that a text holds."""
    return next((kind for pattern, kind in patterns if re.search(pattern, text)), None)


def kind_said(record: Mapping[str, Any]) -> Kind | None:
    """The kind that a failure record tells by itself; None where somebody else has to be asked."""
    outcome = str(record.get("outcome", ""))
    if outcome == "warned" and record.get("idle"):
        return Kind.IDLE
    if outcome == "failed":
        said = first(SAID, f"{record.get('message', '')}\n{record.get('traceback', '')}")
        return said or Kind.EXCEPTION
    return OUTCOMES.get(outcome)
