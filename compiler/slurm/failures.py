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
from functools import lru_cache
from pathlib import Path
from typing import Any

from runtime.files import read_json
from runtime.slurm.kinds import REPEATS, WORDS, Kind, first, kind_said
from runtime.store import Store

TAIL_BYTES = 1 << 20

# What is in a notice of Slurm -> kind; the first that is found holds.
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


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the last try of a job made nothing. `message` is its own, empty where it left none."""

    kind: Kind
    message: str = ""
    repeats: int = 1  # how often in a row it ended with this traceback
    time: float = 0.0  # when it was recorded, or that try began; 0 where nobody knows

    @property
    def words(self) -> str:
        return WORDS[self.kind]

    @property
    def line(self) -> str:
        """Its message in a line."""
        return (self.message.strip().splitlines() or [""])[0][:200]

    @property
    def advice(self) -> str:
        if self.kind is Kind.EXCEPTION and self.repeats >= REPEATS:
            return f"the same error {self.repeats} times: mend its cause, then `alignc retry`"
        return ADVICE[self.kind]


def kind_of(record: Mapping[str, Any] | None, *, state: str = "", output: str = "") -> Kind:
    """The kind of a job's end.

    record: the failure record of this very try, None where it left none. state: Slurm's word for the end,
    as squeue or sacct write it (`CANCELLED by 0`), empty where it is not known. output: what Slurm and
    the shell wrote into the job's output.
    """
    record = record or {}
    said = kind_said(record)
    if said is not None:
        return said
    notices = [line for line in output.splitlines() if first(NOTICES, line)]
    noticed = first(NOTICES, notices[-1]) if notices else None
    # Without cgroups Slurm calls a job that it killed for its memory FAILED, or CANCELLED.
    if noticed is Kind.MEMORY:
        return noticed
    word = (state.split() or [""])[0]
    left = Kind.STOPPED if record.get("outcome") == "interrupted" else Kind.KILLED
    return STATES.get(word) or noticed or left


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


def failure_of(store: Store, key: str, *, slurm_id: str = "", state: str = "", since: float = 0.0) -> Failure:
    """Why the last try of a job made nothing, as far as its files and Slurm's word tell.

    key: the one that its log is named by. slurm_id: `12` or `12_3`, to find its output by. since: records
    from before then are of an earlier submission (seconds since 1970).
    """
    record: dict[str, Any] | None
    try:
        record = read_json(store.failure(key))
    except (OSError, ValueError):
        record = None
    begun = _last_try(store, key)
    if record is not None and record.get("time", 0.0) < max(begun, since):
        record = None  # of an earlier try: this one was killed outright
    output = "" if record is not None and kind_said(record) else _output(store, slurm_id)
    kind, told = kind_of(record, state=state, output=output), record or {}
    time_ = float(told.get("time") or begun)
    return Failure(kind, str(told.get("message", "")), int(told.get("repeats", 1)), time_)


def _output(store: Store, slurm_id: str) -> str:
    """What Slurm and the shell wrote into a job's output; empty where there is none."""
    folder = store.root / ".logs" / "slurm"
    if not slurm_id or not folder.is_dir():
        return ""
    return "".join(map(_tail, _outputs(folder, folder.stat().st_mtime_ns).get(slurm_id, ())))


@lru_cache(1)
def _outputs(folder: Path, changed: int) -> dict[str, list[Path]]:
    """Slurm id -> outputs; one listing for all jobs, until the folder has changed."""
    found: dict[str, list[Path]] = {}
    for path in folder.glob("*.out"):
        found.setdefault(path.stem.rpartition("-")[2], []).append(path)
    return found
