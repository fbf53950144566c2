"""Sequences end to end: no neighbour is seen, no number changes, and a model that cannot is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from runtime.job import JobError
from runtime.stages.sft import Sft
from runtime.store import Store
from runtime.training.batches import Batch, lay_out
from runtime.training.data import Tokens
from runtime.training.isolation import require_isolation
from runtime.training.parallel import open_backend
from runtime.training.scoring import Scorer, token_logps
from tests.support import declared
from tests.test_training_sft import run
from tests.tiny import MODEL, curve, dpo, sft, summary

VOCABULARY = 50
SMALL = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL |= {"intermediate_size": 32, "max_position_embeddings": 256, "pad_token_id": 0}


def llama(dtype: torch.dtype = torch.float64) -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SMALL, num_key_value_heads=2)).to(dtype).eval()


def sequences(lengths: list[int], seed: int = 0) -> list[Tokens]:
    draw = np.random.default_rng(seed)
    return [Tokens(draw.integers(0, VOCABULARY, n).astype(np.int32), max(1, n // 3)) for n in lengths]


def pairs(lengths: list[tuple[int, int, int]]) -> list[Tokens]:
    """All first, then all second completions of prompts: (prompt, first, second) tokens."""
    draw = np.random.default_rng(0)
    found: list[list[Tokens]] = [[], []]
    for prompt, *rest in lengths:
        head = draw.integers(0, VOCABULARY, prompt)
        for side, length in zip(found, rest, strict=True):
            ids = np.concatenate([head, draw.integers(0, VOCABULARY, length)])
            side.append(Tokens(ids.astype(np.int32), prompt))
    return [*found[0], *found[1]]


def score(scorer: Scorer, batch: Batch) -> Tensor:
    return scorer(batch.ids, batch.positions, batch.picks, batch.targets, batch.layout)


def values_and_gradient(scorer: Scorer, batch: Batch) -> tuple[Tensor, Tensor]:
    scorer.zero_grad()
    logps = score(scorer, batch)
    (logps * torch.linspace(0.5, 1.5, len(logps), dtype=logps.dtype)).sum().backward()
    return logps.detach(), torch.cat([p.grad.flatten() for p in scorer.parameters() if p.grad is not None])


@pytest.mark.parametrize(
    ("given", "twins", "groups"),
    [
        (sequences([9, 4, 2, 13]), False, 1),
        (sequences([200, 150, 8, 7, 6, 5, 9, 40, 41, 3, 3, 3, 3, 3, 3]), False, 2),
        (pairs([(3, 4, 1), (1, 1, 1), (20, 2, 9)]), True, 1),
        (pairs([(90, 100, 90), (4, 3, 2), (5, 6, 7), (8, 9, 9), (3, 3, 3), (7, 2, 2), (2, 9, 1)]), True, 2),
    ],
    ids=["few", "unlike lengths", "pairs", "unlike pairs"],
)
def test_end_to_end_gives_the_numbers_and_gradients_of_padding(
    given: list[Tokens], twins: bool, groups: int
) -> None:
    flat, padded = Scorer(llama()), Scorer(llama(), flat=False)
    batch = lay_out(given, pairs=twins)
    assert batch.layout is not None and len(batch.layout.shapes) == groups
    values, gradient = values_and_gradient(flat, batch)
    wanted, wanted_gradient = values_and_gradient(padded, lay_out(given, padded=True))
    assert torch.allclose(values, wanted, atol=1e-6)  # norms and rotations are fp32 inside
    assert (gradient - wanted_gradient).norm() <= 1e-6 * wanted_gradient.norm()
    assert batch.ids.numel() == sum(len(s.ids) - 1 for s in given) - twins * sum(
        s.prompt for s in given[len(given) // 2 :]
    )


def test_another_document_changes_no_bit() -> None:
    scorer = Scorer(llama(torch.float32))
    first, *rest = sequences([17, 30, 4])
    others = sequences([17, 30, 4], seed=1)[1:]
    with torch.no_grad():
        one, two = (score(scorer, lay_out([first, *beside]))[: first.supervised] for beside in (rest, others))
    assert torch.equal(one, two)


@pytest.mark.parametrize("room", [1, 4 * VOCABULARY, 4 * VOCABULARY * 7, 4 * VOCABULARY * 100])
def test_chunks_of_logits_change_no_gradient(room: int) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(23, 16, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(VOCABULARY, 16, dtype=torch.float64, requires_grad=True)
    targets, pull = torch.randint(0, VOCABULARY, (23,)), torch.randn(23, dtype=torch.float64)
    wanted = torch.autograd.grad(
        ((hidden @ weight.T).log_softmax(1).gather(1, targets[:, None])[:, 0] * pull).sum(), (hidden, weight)
    )
    found = torch.autograd.grad((token_logps(hidden, weight, targets, room) * pull).sum(), (hidden, weight))
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_small_terms_survive_in_bf16() -> None:
    """4,000 chunks whose gradients are alike: a sum in bf16 would stop growing at 256 of them."""
    hidden = torch.ones(4000, 4, dtype=torch.bfloat16)
    weight = torch.zeros(8, 4, dtype=torch.bfloat16, requires_grad=True)
    targets = torch.zeros(4000, dtype=torch.long)
    token_logps(hidden, weight, targets, room=1).sum().backward()
    assert weight.grad is not None
    assert weight.grad[0, 0].item() == pytest.approx(4000 * 7 / 8, rel=0.01)


def backend_of(lm: Any, **told: Any) -> Any:
    config = Sft.model_validate(
        {"kind": "sft", "model": "m", "data": "d", "epochs": 1, "learning_rate": 1.0, **told}
    )
    backend = open_backend(config)
    backend.wrap(lm)
    return backend


def made(kind: str, **told: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**SMALL, **told}))


@pytest.mark.parametrize(
    ("kind", "told", "direct"),
    [
        ("llama", {}, True),
        ("mistral", {"sliding_window": 64, "num_key_value_heads": 2}, True),
        ("qwen3", {"head_dim": 4, "num_key_value_heads": 2}, True),
        ("gpt2", {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64}, True),
        ("gpt_neox", {}, True),
        ("cohere", {"logit_scale": 0.0625}, False),  # its logits are scaled, so it makes them itself
    ],
)
def test_families_that_keep_sequences_apart(kind: str, told: dict[str, Any], direct: bool) -> None:
    backend = backend_of(made(kind, **told))
    require_isolation(backend)
    assert backend.scorer.direct is direct


@pytest.mark.parametrize(
    ("kind", "told", "why"),
    [
        ("mistral", {"sliding_window": 8, "num_key_value_heads": 2}, "sliding window of 8"),
        ("bloom", {"n_layer": 2, "n_head": 4}, "padding: true"),
        ("mamba", {"state_size": 4}, "padding: true"),
    ],
)
def test_families_that_cannot_are_refused_and_can_be_padded(
    kind: str, told: dict[str, Any], why: str
) -> None:
    with pytest.raises(JobError, match=why):
        require_isolation(backend_of(made(kind, **told)))
    backend = backend_of(made(kind, **told), padding=True)
    short = sequences([6, 4])
    alone = [backend.score(lay_out([s], padded=True)) for s in short]
    assert torch.allclose(backend.score(lay_out(short, padded=True)), torch.cat(alone), atol=1e-4)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_token_budgets_and_padding_change_nothing_but_speed(store: Store, tmp_path: Path) -> None:
    told: list[dict[str, Any]] = [{}, {"micro_tokens": 60}, {"padding": True}]
    curves = []
    for number, config in enumerate(told):
        place = Store(tmp_path / str(number))
        job = sft(place, **config)
        curves.append(curve(run(place, job)))
        assert (summary(place, job)["padding_share"] > 0) is config.get("padding", False)
    for other in curves[1:]:
        for a, b in zip(curves[0], other, strict=True):
            assert a == pytest.approx(b, rel=1e-3, abs=1e-5)


def test_parts_and_padding_are_the_same_preference_training(tmp_path: Path) -> None:
    start = declared("models", {**MODEL, "chat": "human_assistant"}, "Model")
    told: list[dict[str, Any]] = [{}, {"micro_batch": 3}, {"micro_batch": 3, "padding": True}]
    places = [Store(tmp_path / str(number)) for number in range(len(told))]
    curves = [curve(run(s, dpo(s, start, epochs=1, **t))) for s, t in zip(places, told, strict=True)]
    assert curves[0][-1]["margin"] > 0
    for other in curves[1:]:
        for a, b in zip(curves[0], other, strict=True):
            assert a == pytest.approx(b, rel=1e-3, abs=1e-5)


def test_bins_are_what_a_batch_counts(store: Store) -> None:
    job = sft(store, packing="bins", batch_size=2, epochs=2)
    rows = curve(run(store, job))
    assert len(rows) < 2 * 48  # 96 rows in pairs would be 48 steps an epoch
    assert all(row["tokens"] <= 2 * 96 for row in rows)
    first, second = (sum(r["tokens"] for r in rows if r["epoch"] == epoch) for epoch in (1, 2))
    assert first == second  # each epoch sees every row
