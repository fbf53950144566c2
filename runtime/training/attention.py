"""Attention over sequences that lie end to end: none sees another, whatever the device's kernel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from runtime.job import JobError
from runtime.training.batches import Layout

NAME = "alignc_flat"


class _Spread(torch.autograd.Function):
    """[H, T, D] by token -> [H, P, D] by place. Its gradient is gathered: the same bits each time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, places: Tensor, shared: Tensor, again: Tensor) -> Tensor:
        ctx.save_for_backward(places, shared, again)
        return x.index_select(1, rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        places, shared, again = ctx.saved_tensors
        found = gradient.index_select(1, places)
        if len(shared):
            found.index_add_(1, shared, gradient.index_select(1, again))
        return found, None, None, None, None


class _Collect(torch.autograd.Function):
    """[P, ...] by place -> [T, ...] by token. No place is read twice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.count = len(x)
        return x.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (places,) = ctx.saved_tensors
        spread = gradient.new_zeros(ctx.count, *gradient.shape[1:])
        return spread.index_copy_(0, places, gradient), None


def flat_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    layout: Layout | None = None,
    sliding_window: int | None = None,
    **told: Any,
) -> tuple[Tensor, None]:
    """An attention function of transformers: query [1, heads, T, D], key and value [1, kv heads, T, D].

    Each sequence is a row of its own in torch's causal kernel (a flash kernel, where the device has
    one). Only there is anything padded: all other layers see the T real tokens. Without a layout it
    is transformers' `sdpa`. Raises JobError where a sequence is longer than the model's window.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if layout is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, sliding_window=sliding_window, **told
        )
    longest = max(width for _, width in layout.shapes)
    if sliding_window is not None and longest > sliding_window:
        raise JobError(
            f"a sequence of {longest} tokens is longer than the model's sliding window of {sliding_window}: "
            "lower `max_length`, or set `padding: true`"
        )
    spread = [_Spread.apply(x[0], *layout[1:]) for x in (query, key, value)]
    outputs: list[Tensor] = []
    at = 0
    for count, width in layout.shapes:
        part = [x[:, at : at + count * width].unflatten(1, (count, width)).transpose(0, 1) for x in spread]
        output, _ = sdpa_attention_forward(module, *part, None, **told)  # [count, width, heads, D]
        outputs.append(output.flatten(0, 1))
        at += count * width
    return _Collect.apply(torch.cat(outputs), layout.places)[None], None


def take_over(lm: Any) -> str:
    """Make a model attend by layout where one is given; returns the name of its own attention."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, flat_attention)
    own = str(lm.config._attn_implementation)
    lm.set_attn_implementation(NAME)
    return own
