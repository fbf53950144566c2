"""Layers that are computed again on the way back, or compiled, give the same gradients."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from runtime.declare import Architecture
from runtime.job import JobError
from runtime.models import _initialise, load_model
from runtime.store import Store
from runtime.training.batches import Batch, lay_out
from runtime.training.data import Tokens
from runtime.training.layers import arrange
from runtime.training.scoring import Scorer
from runtime.training_config import TrainingConfig
from tests.support import made, run
from tests.tiny import MODEL, curve, dpo, sft


def config(**told: Any) -> TrainingConfig:
    return TrainingConfig.model_validate({"kind": "sft", "epochs": 1, "learning_rate": 1.0, **told})


def batch(lengths: Sequence[int], **how: bool) -> Batch:
    """Sequences of random tokens with a prompt of three."""
    draw = np.random.default_rng(0)
    ids = [draw.integers(0, 100, length).astype(np.int32) for length in lengths]
    for i in ids:
        i[:3] = ids[0][:3]
    return lay_out([Tokens(i, 3) for i in ids], **how)


BATCHES = {
    "flat": batch([10, 20, 30]),
    "pairs": batch([10, 20, 30, 12], pairs=True),
    "padded": batch([10, 20, 30], padded=True),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("model")
    _initialise(Architecture.model_validate(MODEL["init"]), ["abc"], made)
    return made


def gradient(scorer: Scorer, b: Batch) -> Tensor:
    scorer.zero_grad()
    scorer(b.ids, b.positions, b.picks, b.targets, b.layout).sum().backward()
    return torch.cat([p.grad.flatten() for p in scorer.parameters() if p.grad is not None])


def require_same(folder: Path, told: dict[str, bool], training: bool, names: Sequence[str]) -> list[int]:
    """The same gradients as without; returns how often the layers ran for each."""
    ran = 0

    def count(*_: Any) -> None:
        nonlocal ran
        ran += 1

    runs: list[int] = []
    for name in names:
        b = BATCHES[name]
        plain, ours = (Scorer(load_model(folder, torch.float32)).train(training) for _ in range(2))
        arrange(ours.lm, config(**told))
        wanted = gradient(plain, b)
        ran = 0
        handles = [layer.mlp.register_forward_pre_hook(count) for layer in ours.lm.model.layers]
        found = gradient(ours, b)
        for handle in handles:
            handle.remove()
        runs.append(ran)
        assert (found - wanted).norm() <= 1e-6 * wanted.norm(), name
        assert ours.state_dict().keys() == plain.state_dict().keys()
    return runs


@pytest.mark.parametrize("training", [True, False])  # DPO trains without dropout, so in evaluation mode
def test_layers_are_computed_again_with_their_layout(folder: Path, training: bool) -> None:
    runs = require_same(folder, {"activation_checkpointing": True}, training, list(BATCHES))
    assert runs == [4, 4, 4], "two layers, each computed twice"


@pytest.mark.slow
def test_compiled_layers_give_the_same_gradients(folder: Path) -> None:
    require_same(folder, {"compile": True, "activation_checkpointing": True}, False, ["flat", "pairs"])


def test_a_model_of_unknown_layers_is_refused() -> None:
    with pytest.raises(JobError, match="leave out `activation_checkpointing`"):
        arrange(nn.Linear(2, 2), config(activation_checkpointing=True))


def test_runs_take_the_same_steps(store: Store, tmp_path: Path) -> None:
    """From spec to checkpoint, SFT with dropout and DPO: the same curves but for rounding."""
    other = Store(tmp_path / "other")
    told = {"epochs": 1, "activation_checkpointing": True}
    first, second = sft(store, epochs=1), sft(other, **told)
    assert curve(run(store, first)) == curve(run(other, second))
    pair = (
        dpo(store, made(first, "Model", "model"), epochs=1),
        dpo(other, made(second, "Model", "model"), **told),
    )
    assert curve(run(store, pair[0])) == curve(run(other, pair[1]))
