"""Ends of jobs are told apart by what they leave behind."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from compiler.slurm.failures import ADVICE, WORDS, Kind, failure_of, kind_of
from runtime.files import write_json
from runtime.store import Store

KILLED = "slurmstepd-n1: error: *** JOB 3 ON n1 CANCELLED AT 2026-11-21T07:51:01 "

# outcome, message or traceback, Slurm's state, what stands in the job's output -> kind
ENDS = [
    ("refused", "t.jsonl:1: not JSON", "FAILED", "", Kind.REFUSED),
    ("refused", "step 3: MemoryError in a text", "FAILED", "", Kind.REFUSED),
    ("blocked", "the input prepare/ab is not there", "FAILED", "", Kind.BLOCKED),
    ("failed", "RuntimeError: the toy broke", "FAILED", "", Kind.EXCEPTION),
    ("failed", "MemoryError: ", "FAILED", "", Kind.MEMORY),
    (
        "failed",
        "RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory",
        "",
        "",
        Kind.MEMORY,
    ),
    ("failed", "RuntimeError: rank 1 was killed by signal 9 (memory?)", "FAILED", "", Kind.MEMORY),
    ("failed", "OutOfMemoryError: CUDA out of memory. Tried to allocate", "", "", Kind.GPU_MEMORY),
    ("warned", "warned by SIGUSR2 that its time ends", "FAILED", "", Kind.TIMEOUT),
    ("interrupted", "stopped by SIGTERM", "TIMEOUT", KILLED + "DUE TO TIME LIMIT ***", Kind.TIMEOUT),
    ("interrupted", "stopped by SIGTERM", "CANCELLED by 0", KILLED + "***", Kind.CANCELLED),
    ("interrupted", "stopped by SIGTERM", "", KILLED + "***", Kind.CANCELLED),
    ("interrupted", "stopped by SIGTERM", "", KILLED + "DUE TO PREEMPTION ***", Kind.PREEMPTED),
    ("interrupted", "stopped by SIGTERM", "", KILLED + "DUE TO JOB REQUEUE ***", Kind.STOPPED),
    ("interrupted", "stopped by SIGINT", "", "", Kind.STOPPED),
    ("", "", "TIMEOUT", "", Kind.TIMEOUT),
    ("", "", "OUT_OF_MEMORY", "", Kind.MEMORY),
    ("", "", "FAILED", "slurmstepd: error: JobId=9 exceeded memory limit (300 > 200)", Kind.MEMORY),
    (
        "",
        "",
        "CANCELLED",
        "slurmstepd: error: Detected 1 oom_kill event in StepId=9.batch. Some of the step tasks",
        Kind.MEMORY,
    ),
    ("", "", "NODE_FAIL", "", Kind.NODE),
    ("", "", "", KILLED + "DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS ***", Kind.NODE),
    ("", "", "PREEMPTED", "", Kind.PREEMPTED),
    ("", "", "CANCELLED by 1000", "", Kind.CANCELLED),
    # A requeued job's output holds the notices of its earlier turns: the last one counts.
    ("", "", "", f"{KILLED}DUE TO TIME LIMIT ***\n{KILLED}DUE TO NODE FAILURE ***", Kind.NODE),
    ("", "", "FAILED", "", Kind.KILLED),
    ("", "", "SOMETHING_NEW", "", Kind.KILLED),
]


@pytest.mark.parametrize(("outcome", "message", "state", "output", "kind"), ENDS)
def test_kinds(outcome: str, message: str, state: str, output: str, kind: Kind) -> None:
    record = {"outcome": outcome, "message": message, "traceback": ""} if outcome else None
    assert kind_of(record, state=state, output=output) is kind


def test_turns_without_progress_are_another_kind_of_timeout() -> None:
    assert kind_of({"outcome": "warned", "message": "", "traceback": "", "idle": 2}) is Kind.IDLE


def test_every_kind_has_words_and_advice() -> None:
    assert set(ADVICE) == set(WORDS) == set(Kind)


def test_the_files_of_a_try(tmp_path: Path) -> None:
    store = Store(tmp_path)
    record = {"outcome": "failed", "message": "KeyError: 'x'", "traceback": "T", "repeats": 3}
    write_json(store.failure("k"), {**record, "time": time.time()})
    failure = failure_of(store, "k")
    assert (failure.kind, failure.message) == (Kind.EXCEPTION, "KeyError: 'x'")
    assert failure.advice == "the same error 3 times: mend its cause, then `alignc retry`"
    # Another try began after that record was written, and left none: it was killed.
    later = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time.time() + 5))
    store.log("k").parent.mkdir()
    store.log("k").write_text(f"== {later} score (n1, pid 7)\n")
    assert failure_of(store, "k").kind is Kind.KILLED
    (tmp_path / ".logs" / "slurm").mkdir()
    (tmp_path / ".logs" / "slurm" / "light.score-12_3.out").write_text(KILLED + "DUE TO NODE FAILURE ***\n")
    failure = failure_of(store, "k", slurm_id="12_3")
    assert (failure.kind, failure.message, failure.words) == (Kind.NODE, "", "its node failed")
