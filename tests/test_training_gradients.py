"""Splitting a batch over ranks or micro-batches changes nothing; neither does its neighbours' padding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from runtime.chat import Renderer
from runtime.declare import Architecture
from runtime.files import write_rows
from runtime.models import _initialise, load_model
from runtime.stages.dpo import Dpo
from runtime.training.batches import Batch, lay_out
from runtime.training.data import Cut, Lengths, read_examples, split
from runtime.training.dpo import Preference
from runtime.training.loop import Objective
from runtime.training.losses import sequence_sums
from runtime.training.scoring import Scorer
from runtime.training.sft import Imitation
from runtime.training_config import Reduction
from tests.tiny import MODEL, demonstrations, preferences

SPLITS = [(1, 1), (1, 3), (2, None), (2, 2), (3, 1), (5, None), (16, None)]  # (ranks, micro-batch)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("model")
    _initialise(Architecture.model_validate(MODEL["init"]), ["abc"], made)
    return made


@pytest.fixture(scope="module")
def scorer(folder: Path) -> Scorer:
    return Scorer(load_model(folder, torch.float64)).eval()


@pytest.fixture(scope="module")
def renderer(folder: Path) -> Renderer:
    from transformers import AutoTokenizer

    return Renderer("human_assistant", AutoTokenizer.from_pretrained(folder))


def examples(renderer: Renderer, path: Path, rows: list[dict[str, Any]], *fields: str) -> list[Any]:
    write_rows(path, rows)
    return read_examples(path, renderer, fields, Cut(Lengths(96, 64, "drop")))


def score(scorer: Scorer, batch: Batch) -> Tensor:
    return scorer(batch.ids, batch.positions, batch.picks, batch.targets, batch.layout)


def gradient(
    scorer: Scorer, objective: Objective, ranks: int, micro_batch: int | None
) -> tuple[Tensor, Tensor]:
    """[loss, *figures] and the flat gradient of one batch of all examples, ranks computed one by one."""
    scorer.zero_grad()
    batch = list(range(len(objective.examples)))
    weights = objective.weights(batch)
    parts = split(batch, [e.tokens for e in objective.examples], ranks, micro_batch)
    total = torch.zeros(1 + len(objective.names), dtype=torch.float64)
    for items in (micro for rank in parts for micro in rank):
        part = objective.part(items or batch[:1], weights if items else dict.fromkeys(batch, 0.0))
        loss, figures = objective.loss(score(scorer, part.batch), part)
        loss.backward()
        total += torch.cat([loss.detach().reshape(1), figures.detach()])
    return total, torch.cat([p.grad.flatten() for p in scorer.parameters() if p.grad is not None])


def require_same(scorer: Scorer, objective: Objective) -> None:
    figures, whole = gradient(scorer, objective, 1, None)
    for ranks, micro_batch in SPLITS:
        also, other = gradient(scorer, objective, ranks, micro_batch)
        assert torch.allclose(figures, also, rtol=1e-5, atol=1e-6), (ranks, micro_batch)
        assert (whole - other).norm() <= 1e-6 * whole.norm(), (ranks, micro_batch)


@pytest.mark.parametrize("reduction", ["example_sum", "token_mean", "example_mean"])
def test_sft(scorer: Scorer, renderer: Renderer, reduction: Reduction, tmp_path: Path) -> None:
    rows = examples(renderer, tmp_path / "rows", demonstrations(13), "completion")
    require_same(scorer, Imitation(rows, reduction))


@pytest.mark.parametrize("loss", ["sigmoid", "ipo", "ipo_mean", "apo_zero", "robust", "simpo"])
def test_dpo(scorer: Scorer, renderer: Renderer, loss: str, tmp_path: Path) -> None:
    rows = examples(renderer, tmp_path / "rows", preferences(13), "chosen", "rejected")
    reference = -torch.rand(13, 2, generator=torch.Generator().manual_seed(0)) * 10
    told = {"kind": "dpo", "model": "m", "data": "d", "epochs": 1, "learning_rate": 1.0, "loss": loss}
    require_same(scorer, Preference(rows, reference, Dpo.model_validate(told)))


def test_ipo_mean_divides_each_drift_by_its_own_answer(
    scorer: Scorer, renderer: Renderer, tmp_path: Path
) -> None:
    rows = examples(renderer, tmp_path / "rows", preferences(5), "chosen", "rejected")
    told = {"kind": "dpo", "model": "m", "data": "d", "epochs": 1, "learning_rate": 1.0, "loss": "ipo_mean"}
    objective = Preference(rows, torch.zeros(5, 2), Dpo.model_validate({**told, "beta": 0.5}))
    part = objective.part(range(5), objective.weights(range(5)))
    keep = part.batch.spans
    lengths = keep.sum(dim=1)
    assert (lengths[:5] != lengths[5:]).any(), "else sums would do as well"
    # chosen: -1 nat a token, rejected: -3 nats a token, so the margin is 2 whatever the lengths
    each = torch.tensor([-1.0] * 5 + [-3.0] * 5)[:, None].expand(keep.shape)[keep]
    assert objective.loss(each, part)[0].item() == pytest.approx((2 - 1 / (2 * 0.5)) ** 2)


def test_log_probabilities_are_those_of_the_whole_model(
    scorer: Scorer, renderer: Renderer, tmp_path: Path
) -> None:
    """Padding, the mask of positions and the missing last input token change no number."""
    rows = examples(renderer, tmp_path / "rows", demonstrations(9), "completion")
    sequences = [row.sequences[0] for row in rows]
    batch = lay_out(sequences)
    with torch.no_grad():
        found = sequence_sums(score(scorer, batch), batch.spans)
        for sequence, value in zip(sequences, found, strict=True):
            ids = torch.from_numpy(sequence.ids.astype("int64"))
            logps = scorer.lm(input_ids=ids[None]).logits[0].log_softmax(-1)
            wanted = logps[torch.arange(sequence.prompt - 1, len(ids) - 1), ids[sequence.prompt :]].sum()
            assert value.item() == pytest.approx(wanted.item(), rel=1e-6)
