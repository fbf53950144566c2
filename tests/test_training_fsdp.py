"""FSDP2: the same training as with one process, and a resume state for any number of them."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from runtime.store import Store
from runtime.training import state
from runtime.training_config import Parallel
from tests.support import made, run, scratch
from tests.test_training_parallel import eventually, gone, ranks_of, require_close
from tests.tiny import curve, digest, dpo, in_child, outcome, preferences, sft, summary

FSDP2: dict[str, Any] = {"parallel": {"processes": 2, "sharding": "fsdp2"}}
AGAIN: dict[str, Any] = {**FSDP2, "activation_checkpointing": True}


@pytest.mark.parametrize(
    ("told", "way_out"),
    [
        ({"processes": 1, "sharding": "fsdp2"}, "leave it out for one process"),
        ({"processes": 2, "sharding": "fsdp2", "deepspeed": "zero3"}, "leave one of them out"),
    ],
)
def test_what_makes_no_sense_is_refused(told: dict[str, Any], way_out: str) -> None:
    with pytest.raises(ValidationError, match=way_out):
        Parallel.model_validate(told)


@pytest.mark.slow
def test_fsdp2_trains_as_one_process_does_and_goes_on_after_a_kill(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each job also reopens its checkpoint and compares its logits, as every training does.

    Layers are computed again; states of the optimizer are bf16, which are rounded to the same bits.
    """
    first = sft(store, epochs=1)
    start = made(first, "Model", "model")
    run(store, first)
    one, killed, moved = (
        Store(shutil.copytree(store.root, tmp_path / n)) for n in ("one", "killed", "moved")
    )
    # 47 pairs: the last batch of an epoch has one pair, so that one rank has none.
    rows = preferences(47)
    told: dict[str, Any] = {"epochs": 6, "batch_size": 23, "learning_rate": 1e-4, "micro_batch": 5}
    told["optimizer_states"] = "bf16"
    alone, spread = dpo(one, start, rows, **told), dpo(store, start, rows, **told, **AGAIN)
    whole = run(store, spread)
    require_close(run(one, alone), whole)
    assert (summary(one, alone)["processes"], summary(store, spread)["processes"]) == (1, 2)
    assert summary(one, alone)["parameters"] == summary(store, spread)["parameters"]

    monkeypatch.setenv("ALIGNC_RESUME_EVERY_S", "0")
    job = dpo(killed, start, rows, **told, **AGAIN)
    folder = scratch(killed, job)
    pid = in_child(killed, job)
    ranks = ranks_of(pid)
    eventually(lambda: state.newest(folder))
    os.kill(pid, signal.SIGKILL)
    assert outcome(pid) == -signal.SIGKILL
    eventually(lambda: all(gone(rank) for rank in ranks), 30)
    monkeypatch.delenv("ALIGNC_RESUME_EVERY_S")
    assert len(curve(folder)) < 18, "there must be something left to do"

    single = dpo(moved, start, rows, **told)  # one process goes on from the state of two
    shutil.copytree(folder, scratch(moved, single))
    assert digest(run(killed, job)) == digest(whole)
    require_close(run(moved, single), whole)
    assert summary(moved, single)["went_on_from_step"] > 0
