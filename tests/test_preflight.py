"""Preflight: its figures on literal tables, against the training itself, and what the command prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from runtime.job import open_job
from runtime.store import Store
from runtime.training import preflight
from runtime.training.batches import lay_out, lay_out_pairs
from runtime.training.data import Counts, Example, Tokens, order, split
from runtime.training.preflight import Bar, Batches, Fate, Memory, Shape, look
from runtime.training.scoring import Scorer
from runtime.training_config import TrainingConfig
from tests.commands import alignc
from tests.golden import check_golden
from tests.support import made, run
from tests.tiny import curve, demonstrations, dpo, preferences, sft, summary


def config(**told: Any) -> TrainingConfig:
    return TrainingConfig.model_validate({"kind": "x", "epochs": 3, "learning_rate": 1.0, **told})


def example(name: str, prompt: int, *lengths: int) -> Example:
    """A row whose sequences have `lengths` tokens, `prompt` of them the prompt's."""
    return Example(name, tuple(Tokens(np.arange(n, dtype=np.int32), prompt) for n in lengths))


# ---------------------------------------------------------------- figures on tables


@pytest.mark.parametrize(
    ("lengths", "told", "bars"),
    [
        ([7], (7, 7, 7), [(7, 7, 1)]),
        ([3, 4, 4, 9], (4, 9, 9), [(n, n, {3: 1, 4: 2, 9: 1}.get(n, 0)) for n in range(3, 10)]),
        ([10, 11, 20, 100], (11, 100, 100), [(1 + 10 * n, 10 + 10 * n, [1, 2, 0, 0, 0, 0, 0, 0, 0, 1][n])
                                             for n in range(10)]),
    ],
)  # fmt: skip
def test_lengths_are_spread_over_round_bars(lengths: list[int], told: tuple[int, ...], bars: Any) -> None:
    found = preflight.spread(lengths)
    assert (found.median, found.percentile_95, found.longest) == told
    assert found.bars == tuple(Bar(*bar) for bar in bars)


def test_samples_are_the_first_one_that_was_cut_and_the_longest() -> None:
    whole, prompt, end = Fate(5, False, False, 0), Fate(9, False, True, 0), Fate(8, False, True, 1)
    assert preflight.chosen([whole, prompt, end], 3) == [
        (2, "cut, its EOS is lost"),
        (0, "the first"),
        (1, "the longest"),
    ]
    assert preflight.chosen([whole, prompt], 1) == [(1, "its prompt is cut")]
    assert preflight.chosen([whole] * 4, 3) == [(0, "the first"), (1, ""), (2, "")]
    assert preflight.chosen([whole, prompt], 0) == []


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        (Counts(rows=100, kept=95, dropped=5, completions_cut=9), []),
        (Counts(rows=100, kept=94, dropped=6), ["6.0 % of the rows are dropped"]),
        (Counts(rows=100, kept=100, completions_cut=11), ["5.5 % of the completions lose their end"]),
    ],
)
def test_more_than_a_twentieth_lost_is_a_warning(counts: Counts, words: list[str]) -> None:
    found = list(preflight.warnings(counts, 2))
    assert len(found) == len(words) and all(w in text for w, text in zip(words, found, strict=True))


def test_batches_on_a_literal_table() -> None:
    """Two pairs at once. Of 7 + 5 and 3 + 3 computed tokens, prompts are 2 and 2 in the second sequence."""
    pairs = [example("a", 2, 8, 6), example("b", 2, 4, 4)]
    assert preflight.batches(pairs, config(batch_size=2)) == Batches(
        steps_per_epoch=1,
        steps=3,
        supervised_tokens=6 + 4 + 2 + 2,
        padded_real=18 / 28,  # four rows of 7
        prompts_saved=4 / 18,
        largest_tokens=14,
        largest_supervised=14,
    )
    one = preflight.batches(pairs, config(batch_size=2, micro_batch=1))
    assert (one.padded_real, one.largest_tokens, one.largest_supervised) == (18 / 20, 10, 10)
    assert preflight.batches(pairs, config(batch_size=2, padding=True)).largest_tokens == 28


def test_batches_are_those_that_training_lays_out() -> None:
    draw = np.random.default_rng(0)
    pairs = [
        example(str(i), p := int(draw.integers(1, 9)), *(p + draw.integers(1, 30, 2))) for i in range(50)
    ]
    told = config(batch_size=8, micro_batch=3, seed=4)
    ordered, (real, computed, flat) = order(4, 0, 50), (0, 0, 0)
    for first in range(0, 50, 8):
        batch = ordered[first : first + 8]
        (parts,) = split(batch, [pairs[i].tokens for i in batch], 1, 3, padded=True)
        for part in parts:
            padded = lay_out_pairs(pairs, part, padded=True)
            real, computed = real + padded.real, computed + padded.ids.numel()
            flat += lay_out_pairs(pairs, part, padded=False).real
    found = preflight.batches(pairs, told)
    assert (found.padded_real, found.prompts_saved) == (real / computed, 1 - flat / real)


SHAPE = Shape(parameters=1000, layers=2, hidden=8, inner=16, queries=8, keys=4, vocabulary=100, linear=400)
BATCHES = Batches(1, 1, 1, 1.0, 0.0, largest_tokens=10, largest_supervised=5)


@pytest.mark.parametrize(
    ("told", "expected"),
    [  # master, weights, gradients, optimizer
        ({}, (4000, 0, 4000, 8000)),
        ({"precision": "bf16", "optimizer": "rmsprop"}, (4000, 2000, 4000, 4000)),
        ({"precision": "bf16", "parallel": {"processes": 4}}, (4000, 2000, 4000, 8000)),
        ({"precision": "bf16", "parallel": {"processes": 4, "deepspeed": "zero1"}}, (1000, 2000, 2000, 2000)),
        ({"precision": "bf16", "parallel": {"processes": 4, "deepspeed": "zero2"}}, (1000, 2000, 500, 2000)),
        ({"precision": "bf16", "parallel": {"processes": 4, "deepspeed": "zero3"}}, (1000, 500, 500, 2000)),
        ({"precision": "bf16", "parallel": {"processes": 4, "sharding": "fsdp2"}}, (1000, 0, 1000, 2000)),
        ({"precision": "bf16", "lora": {}}, (4000, 2000, 0, 0)),
        ({"precision": "bf16", "lora": {"quantize": "nf4"}}, (2606.34765625, 1200, 0, 0)),
        ({"optimizer_states": "bf16"}, (4000, 0, 4000, 4000)),
        ({"optimizer_states": "8bit"}, (4000, 0, 4000, 2031.25)),
    ],
)
def test_memory_on_a_literal_table(told: dict[str, Any], expected: tuple[float, ...]) -> None:
    found = preflight.memory(SHAPE, config(**told), BATCHES)
    width = 2 if "precision" in told else 4
    layer = 2 * (8 + width) * 8 + width * (3 * 8 + 4 * 4 + 4 * 16)
    assert found == Memory(*expected, activations=2 * layer * 10, logits=5 * 100 * (width + 8))
    assert found.total == sum(expected) + 20 * layer + 500 * (width + 8)


def test_layers_that_are_computed_again_keep_only_what_goes_in() -> None:
    layer = 2 * 12 * 8 + 4 * (3 * 8 + 4 * 4 + 4 * 16)
    found = preflight.memory(SHAPE, config(activation_checkpointing=True), BATCHES)
    assert found.activations == (2 * 4 * 8 + layer) * 10


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("heads", [4, 2])
def test_activations_are_what_autograd_keeps(half: bool, heads: int) -> None:
    sizes = {"hidden_size": 128, "intermediate_size": 384, "vocab_size": 512, "num_hidden_layers": 4}
    shape = LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=heads)
    lm = LlamaForCausalLM(shape)
    batch = lay_out([Tokens(np.arange(60, dtype=np.int32), 20)] * 8)
    own = {p.untyped_storage().data_ptr() for p in lm.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=half),
    ):
        Scorer(lm)(batch.ids, batch.positions, batch.picks, batch.targets, batch.layout)
    real = sum(t.untyped_storage().nbytes() for at, t in kept.items() if at not in own)
    found = Batches(1, 1, 1, 1.0, 0.0, batch.real, len(batch.picks))
    sizes_of = preflight.shape_of(shape)
    told = preflight.memory(sizes_of, config(precision="bf16" if half else "fp32"), found)
    assert sizes_of.parameters == sum(p.numel() for p in lm.parameters())
    assert told.weights + told.activations + told.logits == pytest.approx(real, rel=0.15)


# ---------------------------------------------------------------- against the training


def test_it_finds_what_the_training_then_does(store: Store) -> None:
    rows = [*demonstrations(20), {"id": "long", "prompt": "reverse " + "a" * 70, "completion": "b" * 60}]
    job = sft(store, rows, truncation="keep_end")
    found = look(open_job(store, job))
    trained = run(store, job)
    told = summary(store, job)
    assert found.counts.told() == told["truncation"] and found.counts.cut == 1
    assert found.batches is not None and found.batches.steps == told["steps"] == 4
    assert 2 * found.batches.supervised_tokens == sum(line["supervised"] for line in curve(trained))
    cut, first, _ = found.samples
    assert (cut.id, cut.why) == ("long", "cut, its EOS is lost")
    assert first.texts[0].supervised == f"{demonstrations(1)[0]['completion']}<eos>"
    assert first.texts[0].prompt.rstrip().endswith("Assistant:")
    assert not cut.texts[0].supervised.endswith("<eos>")
    assert not found.refused and not found.warnings  # 1 of 21 is less than a twentieth

    pairs = dpo(store, made(job, "Model", "model"), preferences(10), batch_size=4)
    seen = look(open_job(store, pairs))
    assert seen.batches is not None and seen.batches.steps_per_epoch == 3
    assert seen.batches.prompts_saved > 0.2 and len(seen.samples[0].texts) == 2


@pytest.mark.parametrize(
    ("told", "rows", "message"),
    [
        ({"max_length": 6, "max_prompt_length": 2}, None, "nothing to train on: 96 rows"),
        ({"max_length": 200}, [{"id": "a", "prompt": "x" * 100, "completion": "y"}],
         "the row a has 1"),
    ],
)  # fmt: skip
def test_what_would_fail_is_refused(store: Store, told: dict[str, Any], rows: Any, message: str) -> None:
    found = look(open_job(store, sft(store, rows, **told)))
    assert len(found.refused) == 1 and found.refused[0].startswith(message)


def test_pairs_need_ids_of_their_own(store: Store) -> None:
    job = sft(store, epochs=1)
    run(store, job)
    pairs = dpo(store, made(job, "Model", "model"), [*preferences(3), *preferences(1)])
    (refused,) = look(open_job(store, pairs)).refused
    assert "ids repeat" in refused


# ---------------------------------------------------------------- the command

SPEC = """\
experiment: small
models:
  fresh: {init: {hidden_size: 32, layers: 1, heads: 2, intermediate_size: 64, max_positions: 128}}
llms:
  weak: {provider: simulated, knows: [copy]}
sources:
  tasks: {kind: world, size: 60}
stages:
  prompts: {kind: prepare, source: tasks}
  answers: {kind: demonstrate, prompts: prompts, teacher: weak}
  base: {kind: sft, model: fresh, data: answers, chat: human_assistant, epochs: 2, checkpoint_every: 1,
         learning_rate: 1e-3, max_length: 38, max_prompt_length: 20, truncation: keep_end,
         sweep: {seed: [0, 1]}}
"""
CLUSTER = """\
partition: gpu
partitions: {gpu: {gpus: 1, gpu_memory_gb: 0.0001, memory_gb: 64}}
resources: [{kind: sft, gpus: 1}]
"""


def test_the_command(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SPEC)
    (tmp_path / "cluster.yaml").write_text(CLUSTER)
    told = alignc("preflight", "small.yaml", cwd=tmp_path, code=2)
    assert "base[seed=0,epoch=2] and 3 like it: needs answers, not made yet: " in told
    assert "`alignc run small.yaml --select +answers` first" in told
    assert "is a training" in alignc("preflight", "small.yaml", "prompts", cwd=tmp_path, code=2)
    alignc("run", "small.yaml", "--select", "+answers", cwd=tmp_path)
    check_golden("preflight.txt", alignc("preflight", "small.yaml", "base", cwd=tmp_path))
    words = ("small.yaml", "base", "--format", "json", "--cluster", "cluster.yaml")
    told = json.loads(alignc("preflight", *words, cwd=tmp_path, code=1))
    (one,) = told["trainings"]
    assert one["alike"] == 3 and one["batches"]["steps"] == 2 * one["batches"]["steps_per_epoch"]
    assert one["memory"]["total"] > 9e5 and one["gpu_hours"]["likely"] > 0
    assert "and the GPU has 0.0001" in one["refused"][0] and not (tmp_path / ".alignc" / "sft").exists()
