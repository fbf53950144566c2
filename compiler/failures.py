"""How a job ended that made nothing: its kind, told apart by what it left behind, and what to do.

A job that could speak left a failure record (`runtime/run_job.py`). One that was killed outright left
none: then the scheduler's word tells, from squeue or accounting, or where there is neither, the last
notice that Slurm wrote into the job's own output.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from runtime.files import read_json
from runtime.store import Store

TAIL_BYTES = 1 << 20
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


# What is in a message, a traceback or a notice of Slurm -> kind; the first that is found holds.
SAID: tuple[tuple[str, Kind], ...] = (
    (r"CUDA out of memory|torch\.OutOfMemoryError|CUBLAS_STATUS_ALLOC_FAILED", Kind.GPU_MEMORY),
    (r"\bMemoryError\b|can't allocate memory|Cannot allocate memory|signal 9 \(memory\?\)", Kind.MEMORY),
)
NOTICES: tuple[tuple[str, Kind], ...] = (
    (r"exceeded memory limit|oom[-_ ]kill|Out Of Memory", Kind.MEMORY),
    (r"DUE TO TIME LIMIT", Kind.TIMEOUT),
    (r"DUE TO NODE FAILURE", Kind.NODE),
    (r"DUE TO PREEMPTION", Kind.PREEMPTED),
    (r"DUE TO JOB REQUEUE", Kind.STOPPED),
    (r"CANCELLED AT", Kind.CANCELLED),
)
STATES: Mapping[str, Kind] = {
    "OUT_OF_MEMORY": Kind.MEMORY,
    "TIMEOUT": Kind.TIMEOUT,
    "DEADLINE": Kind.TIMEOUT,
    "NODE_FAIL": Kind.NODE,
    "BOOT_FAIL": Kind.NODE,
    "PREEMPTED": Kind.PREEMPTED,
    "CANCELLED": Kind.CANCELLED,
}
OUTCOMES: Mapping[str, Kind] = {
    "refused": Kind.REFUSED,
    "blocked": Kind.BLOCKED,
    "failed": Kind.EXCEPTION,
    "warned": Kind.TIMEOUT,
}
ADVICE: Mapping[Kind, str] = {
    Kind.REFUSED: "mend what the message names, then submit again",
    Kind.BLOCKED: "make its input first: submit again, and what is missing is made too",
    Kind.EXCEPTION: "read the traceback with `alignc logs`; submit again when its cause is gone",
    Kind.MEMORY: "raise `resources: {memory_gb: ...}` of the stage, then submit again",
    Kind.GPU_MEMORY: "lower `micro_batch` (the result stays within rounding), or ask for larger GPUs",
    Kind.TIMEOUT: "submit again: it goes on from its last state; a longer time limit takes fewer turns",
    Kind.IDLE: "its turns are too short to get further: raise `resources: {minutes: ...}` of the stage",
    Kind.NODE: "submit again: it goes on from its last state, on another node",
    Kind.PREEMPTED: "submit again: it goes on from its last state",
    Kind.CANCELLED: "somebody wanted it to stop; submit again to go on",
    Kind.STOPPED: "submit again: it goes on from its last state",
    Kind.KILLED: "memory is the usual cause: look at `alignc logs`, then submit again",
}
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


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the last try of a job made nothing. `message` is its own, empty where it left none."""

    kind: Kind
    message: str = ""
    repeats: int = 1  # how often in a row it ended with this traceback

    @property
    def words(self) -> str:
        return WORDS[self.kind]

    @property
    def advice(self) -> str:
        if self.repeats >= REPEATS:
            return f"the same error {self.repeats} times: mend its cause before you submit again"
        return ADVICE[self.kind]


def advice(kind: Kind) -> str:
    """What a person can do about it."""
    return ADVICE[kind]


def _first(patterns: tuple[tuple[str, Kind], ...], text: str) -> Kind | None:
    return next((kind for pattern, kind in patterns if re.search(pattern, text)), None)


def kind_of(record: Mapping[str, Any] | None, *, state: str = "", output: str = "") -> Kind:
    """The kind of a job's end.

    record: the failure record of this very try, None where it left none. state: Slurm's word for the end,
    as squeue or sacct write it (`CANCELLED by 0`), empty where it is not known. output: what Slurm and
    the shell wrote into the job's output.
    """
    record = record or {}
    outcome = str(record.get("outcome", ""))
    if outcome == "warned" and record.get("idle"):
        return Kind.IDLE
    if outcome in OUTCOMES:
        said = f"{record.get('message', '')}\n{record.get('traceback', '')}"
        return (_first(SAID, said) if outcome == "failed" else None) or OUTCOMES[outcome]
    notices = [line for line in output.splitlines() if _first(NOTICES, line)]
    noticed = _first(NOTICES, notices[-1]) if notices else None
    # Without cgroups Slurm calls a job that it killed for its memory FAILED, or CANCELLED.
    if noticed is Kind.MEMORY:
        return noticed
    word = (state.split() or [""])[0]
    return STATES.get(word) or noticed or (Kind.STOPPED if outcome == "interrupted" else Kind.KILLED)


# ---------------------------------------------------------------- what a try left behind


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _last_try(store: Store, key: str) -> float:
    """When the last try of a job began, in seconds since 1970; 0 where its log does not tell."""
    begun = re.findall(r"^== (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) ", _tail(store.log(key)), re.MULTILINE)
    return time.mktime(time.strptime(begun[-1], "%Y-%m-%d %H:%M:%S")) if begun else 0.0


def failure_of(store: Store, key: str, *, slurm_id: str = "", state: str = "") -> Failure:
    """Why the last try of a job made nothing, as far as its files and Slurm's word tell.

    key: the one that its log is named by. slurm_id: `12` or `12_3`, to find its output by.
    """
    record: dict[str, Any] | None
    try:
        record = read_json(store.failure(key))
    except (OSError, ValueError):
        record = None
    if record is not None and record.get("time", 0.0) < _last_try(store, key):
        record = None  # of an earlier try: this one was killed outright
    outputs = (store.root / ".logs" / "slurm").glob(f"*-{slurm_id}.out") if slurm_id else ()
    kind = kind_of(record, state=state, output="".join(map(_tail, outputs)))
    message = str((record or {}).get("message", ""))
    return Failure(kind, message, int((record or {}).get("repeats", 1)))
