"""FLOPs of training, against torch's own counter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from runtime.training.data import Example, Tokens
from runtime.training.flops import Rates, Work, flops, mfu, rates_of, work_of
from runtime.training.layers import arrange
from runtime.training.lora import adapt
from runtime.training_config import TrainingConfig


def tiny(tied: bool) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=100, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, tie_word_embeddings=tied, attn_implementation="eager",
    )  # fmt: skip
    return LlamaForCausalLM(config)


def counted(lm: Any, rows: int, length: int, keep: int) -> int:
    """What torch counts in a pass forward and backward, with the logits of the last `keep` places only."""
    ids = torch.arange(rows * length).view(rows, length) % 100
    with FlopCounterMode(display=False) as counter:
        lm(input_ids=ids, logits_to_keep=keep, use_cache=False).logits.sum().backward()
    return int(counter.get_total_flops())


@pytest.mark.parametrize("tied", [False, True])
def test_all_matrix_products_are_counted(tied: bool) -> None:
    """Eager attention multiplies with what it must not see, too: length² instead of length(length + 1)/2.

    What is left is the product of positions and rotary frequencies, which is no weight.
    """
    lm = tiny(tied)
    rows, length, keep = 2, 24, 5
    rates = rates_of(lm)
    assert rates is not None
    ours = flops(rates, Work(rows * length, rows * keep, rows * length**2))
    assert counted(lm, rows, length, keep) == pytest.approx(ours, rel=1e-3)


def test_frozen_weights_have_no_gradient_of_their_own() -> None:
    lm = tiny(False)
    whole = rates_of(lm)
    for name, weight in lm.named_parameters():
        weight.requires_grad = "embed_tokens" in name
    frozen = rates_of(lm)
    assert whole is not None and frozen is not None
    assert frozen == replace(whole, token=whole.token * 2 // 3, supervised=whole.supervised * 2 // 3)
    ours = flops(frozen, Work(24, 5, 24**2))
    assert counted(lm, 1, 24, 5) == pytest.approx(ours, rel=1e-3)


def test_adapters_on_a_literal_table() -> None:
    """In the lowest layer no gradient goes on through what reads the embeddings: queries, keys, values."""
    lm = tiny(False)
    told = {"kind": "sft", "epochs": 1, "learning_rate": 1.0, "lora": {"rank": 4}}
    adapt(lm, TrainingConfig.model_validate(told))
    queries, keys, inner = 32 * 64, 32 * 32, 32 * 64  # weights of a projection; there are four and three
    layer = 2 * queries + 2 * keys + 3 * inner
    adapters = 4 * (2 * (32 + 64) + 2 * (32 + 32) + 3 * (32 + 64))
    first = queries + 2 * keys + 4 * (3 * 32)  # what reads the embeddings, the A of adapters among it
    assert rates_of(lm) == Rates(
        token=3 * (4 * layer + 6 * adapters) - 2 * first, supervised=4 * 32 * 100, seen=12 * 3 * 64
    )
    ours = flops(rates_of(lm), Work(48, 10, 2 * 24**2))  # type: ignore[arg-type]
    assert counted(lm, 2, 24, 5) == pytest.approx(ours, rel=1e-3)
    arrange(lm, TrainingConfig.model_validate({**told, "activation_checkpointing": True}))
    assert flops(rates_of(lm), Work(48, 10, 2 * 24**2)) == ours  # type: ignore[arg-type]


def sequence(prompt: int, completion: int) -> Tokens:
    return Tokens(np.zeros(prompt + completion, np.int32), prompt)


@pytest.mark.parametrize(
    ("sequences", "work"),
    [
        ([(1, 1)], Work(1, 1, 1)),
        ([(3, 2)], Work(4, 2, 10)),  # four inputs, which see 1 + 2 + 3 + 4
        ([(3, 2), (3, 4)], Work(4 + 3, 6, 10 + 4 + 5 + 6)),  # the prompt is not computed again
    ],
)
def test_what_examples_need(sequences: list[tuple[int, int]], work: Work) -> None:
    assert work_of([Example("a", tuple(sequence(*told) for told in sequences))]) == work


def test_utilisation_is_a_share_of_all_devices() -> None:
    assert mfu(989e12, 2.0, "NVIDIA H200", 1) == 0.5
    assert mfu(989e12, 2.0, "NVIDIA H200", 4) == 0.125
    assert mfu(989e12, 2.0, "cpu", 1) is None
    assert mfu(989e12, 0.0, "NVIDIA H200", 1) is None
