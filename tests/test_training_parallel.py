"""Several processes: the same training as with one, one story where a rank fails, and no orphans."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from runtime.run_job import Outcome, run_job
from runtime.store import Store
from runtime.training import state
from runtime.training.parallel import open_backend
from runtime.training_config import TrainingConfig
from tests.support import made, run, scratch
from tests.tiny import (
    curve,
    demonstrations,
    digest,
    dpo,
    failure,
    in_child,
    outcome,
    preferences,
    sft,
    summary,
)


def parallel(processes: int = 2, deepspeed: str | None = None) -> dict[str, Any]:
    return {"parallel": {"processes": processes, "deepspeed": deepspeed}}


def require_close(one: Path, other: Path) -> None:
    """The same curve and weights but for rounding."""
    for a, b in zip(curve(one), curve(other), strict=True):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-4)
    first, second = (load_file(folder / "model" / "model.safetensors") for folder in (one, other))
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.allclose(value, second[name], rtol=1e-3, atol=2e-4), name


def ranks_of(parent: int, count: int = 2) -> list[int]:
    """Waits for a job's ranks; their pids."""
    path = Path(f"/proc/{parent}/task/{parent}/children")
    while path.exists():
        pids = [int(pid) for pid in path.read_text().split()]
        if len(pids) == count:
            return pids
        time.sleep(0.02)
    raise AssertionError("the job ended before its ranks were seen")


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def eventually(found: Callable[[], object], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_silent_downgrade_is_refused() -> None:
    told = {"kind": "sft", "epochs": 1, "learning_rate": 1.0, **parallel(2)}
    with pytest.raises(RuntimeError, match=r"2 processes of .*MULTI_CPU were planned"):
        open_backend(TrainingConfig.model_validate(told))


@pytest.mark.slow
def test_ddp_trains_as_one_process_does(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "other")
    # 47 rows: the last batch of an epoch has one row, so that one rank has none.
    rows, told = demonstrations(47), {"batch_size": 23, "learning_rate": 1e-3, "micro_batch": 5}
    one, two = sft(store, rows, **told), sft(other, rows, **told, **parallel())
    assert one["key"] != two["key"]  # by `describe` of these tests; a recipe key leaves `parallel` out
    require_close(run(store, one), run(other, two))
    assert summary(other, two)["processes"] == 2
    starts = [made(one, "Model", "model"), made(two, "Model", "model")]
    pair = [
        dpo(s, m, learning_rate=1e-4, **p)
        for s, m, p in zip((store, other), starts, ({}, parallel()), strict=True)
    ]
    require_close(run(store, pair[0]), run(other, pair[1]))


@pytest.mark.slow
def test_ddp_killed_and_stopped_ends_with_the_same_bits(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Store(tmp_path / "other")
    told: dict[str, Any] = {"epochs": 6, "batch_size": 8, **parallel()}
    wanted = digest(run(other, sft(other, **told)))
    monkeypatch.setenv("ALIGNC_RESUME_EVERY_S", "0")
    job = sft(store, **told)
    folder = scratch(store, job)

    pid = in_child(store, job)  # the whole job is killed, and its ranks go with it
    ranks = ranks_of(pid)
    eventually(lambda: state.newest(folder))
    os.kill(pid, signal.SIGKILL)
    assert outcome(pid) == -signal.SIGKILL
    eventually(lambda: all(gone(rank) for rank in ranks), 30)

    pid = in_child(store, job)  # one rank is killed
    ranks = ranks_of(pid)
    before = state.newest(folder)
    eventually(lambda: state.newest(folder) not in (before, None))
    os.kill(ranks[1], signal.SIGKILL)
    assert outcome(pid) == Outcome.FAILED
    assert "rank 1 was killed by signal 9" in failure(store, job)["message"]

    pid = in_child(store, job)  # the job is warned, and tells its ranks
    ranks_of(pid)
    before = state.newest(folder)
    eventually(lambda: state.newest(folder) not in (before, None))
    os.kill(pid, signal.SIGUSR2)
    assert outcome(pid) == Outcome.WARNED

    monkeypatch.delenv("ALIGNC_RESUME_EVERY_S")
    assert len(curve(folder)) < 72, "there must be something left to do"
    assert digest(run(store, job)) == wanted


@pytest.mark.slow
def test_what_a_rank_refuses_is_told_as_it_said_it(store: Store) -> None:
    job = sft(store, demonstrations(8), learning_rate=1e30, batch_size=4, **parallel())
    assert run_job(store, job) is Outcome.REFUSED
    assert "the batch has the rows r" in failure(store, job)["message"]


@pytest.mark.deepspeed
def test_zero_trains_as_one_process_does(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "other")
    rows, told = demonstrations(47), {"batch_size": 23, "learning_rate": 1e-3, "micro_batch": 5}
    spread = {**parallel(2, "zero1"), "activation_checkpointing": True}
    require_close(run(store, sft(store, rows, **told)), run(other, sft(other, rows, **told, **spread)))


@pytest.mark.deepspeed
@pytest.mark.parametrize("stage", ["zero2", "zero3"])
def test_zero_trains_as_one_process_does_and_goes_on_where_it_was_stopped(
    store: Store, tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = sft(store, epochs=1)
    start = made(first, "Model", "model")
    run(store, first)
    other = Store(shutil.copytree(store.root, tmp_path / "other"))
    # 47 pairs: the last batch of an epoch has one pair, so that one rank has none.
    rows, told = preferences(47), {"epochs": 6, "batch_size": 23, "learning_rate": 1e-4, "micro_batch": 5}
    spread = {**parallel(2, stage), "activation_checkpointing": stage == "zero3"}
    whole = run(other, dpo(other, start, rows, **told, **spread))
    require_close(run(other, dpo(other, start, rows, **told)), whole)
    monkeypatch.setenv("ALIGNC_RESUME_EVERY_S", "0")
    job = dpo(store, start, rows, **told, **spread)
    folder = scratch(store, job)
    pid = in_child(store, job)
    eventually(lambda: state.newest(folder))
    os.kill(pid, signal.SIGTERM)
    assert outcome(pid) == Outcome.INTERRUPTED
    assert digest(run(store, job)) == digest(whole)
