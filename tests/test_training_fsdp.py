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
from tests.tiny import curve, demonstrations, digest, dpo, in_child, outcome, sft, summary

FSDP2: dict[str, Any] = {"parallel": {"processes": 2, "sharding": "fsdp2"}}


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
def test_fsdp2_trains_as_one_process_does(store: Store, tmp_path: Path) -> None:
    """Both jobs also reopen their checkpoint and compare its logits, as every training does."""
    other = Store(tmp_path / "other")
    # 47 rows: the last batch of an epoch has one row, so that one rank has none.
    rows, told = demonstrations(47), {"batch_size": 23, "learning_rate": 1e-3, "micro_batch": 5}
    one, two = sft(store, rows, **told), sft(other, rows, **told, **FSDP2)
    require_close(run(store, one), run(other, two))
    assert [summary(*made_by)["processes"] for made_by in ((store, one), (other, two))] == [1, 2]
    counts = [summary(*made_by)["parameters"] for made_by in ((store, one), (other, two))]
    assert counts[0] == counts[1]
    starts = [made(one, "Model", "model"), made(two, "Model", "model")]
    pair = [
        dpo(s, m, learning_rate=1e-4, **p)
        for s, m, p in zip((store, other), starts, ({}, FSDP2), strict=True)
    ]
    require_close(run(store, pair[0]), run(other, pair[1]))


@pytest.mark.slow
def test_fsdp2_killed_goes_on_with_the_same_bits_and_on_one_process_too(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, Any] = {"epochs": 3, "batch_size": 8, "learning_rate": 1e-3}
    whole, alone = Store(tmp_path / "whole"), Store(tmp_path / "alone")
    wanted = run(whole, sft(whole, **told, **FSDP2))
    monkeypatch.setenv("ALIGNC_RESUME_EVERY_S", "0")
    job = sft(store, **told, **FSDP2)
    folder = scratch(store, job)
    pid = in_child(store, job)
    ranks = ranks_of(pid)
    eventually(lambda: state.newest(folder))
    os.kill(pid, signal.SIGKILL)
    assert outcome(pid) == -signal.SIGKILL
    eventually(lambda: all(gone(rank) for rank in ranks), 5)
    monkeypatch.delenv("ALIGNC_RESUME_EVERY_S")
    assert 0 < len(curve(folder)) < 36, "there must be something left to do"

    single = sft(alone, **told)
    shutil.copytree(folder, scratch(alone, single))
    assert digest(run(store, job)) == digest(wanted)
    require_close(run(alone, single), wanted)
    assert summary(alone, single)["went_on_from_step"] > 0
