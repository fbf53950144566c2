"""What a training must compute: FLOPs of its forward and backward passes, and the share of a peak they reach.

A weight that a token is multiplied with costs 2 FLOPs forward, 2 for the gradient that goes on and 2 for
its own. A frozen one has none of its own, and below the first trained one no gradient goes on: so adapters
save a third and a little more. Where a token attends to another, each layer costs 4 FLOPs a channel forward
and 8 backward. Not counted is what could have been left out: filler, logits that no loss reads, the second
time that a pair's prompt is computed, anything computed anew to save memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from runtime.models import head_size
from runtime.training.data import Example

# Dense bf16 peaks in FLOP/s, as the makers state them.
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}


@dataclass(frozen=True, slots=True)
class Rates:
    """FLOPs of training a model: for a token, for a supervised one, for a token and one that it sees."""

    token: int
    supervised: int
    seen: int


@dataclass(frozen=True, slots=True)
class Work:
    """What a pass over examples must compute; `seen` counts pairs of a token and one that it attends to."""

    tokens: int
    supervised: int
    seen: int


def rates_of(lm: Any) -> Rates | None:
    """The rates of a Hugging Face model; None for stacked experts, of which a token meets only some."""
    tables = {id(p) for m in lm.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    head = getattr(lm.get_output_embeddings(), "weight", None)
    passing = _passing(lm)
    token = 0
    for weight in lm.parameters():
        shape = whole_shape(weight)
        if len(shape) > 2:
            return None
        if len(shape) == 2 and weight is not head and id(weight) not in tables:
            token += _cost(weight, passing)
    config = lm.config
    width = config.num_attention_heads * head_size(config)
    supervised = 0 if head is None else _cost(head, passing)
    return Rates(token, supervised, 12 * config.num_hidden_layers * width)


def _passing(lm: Any) -> set[int] | None:
    """Ids of weights whose input wants a gradient too, found by one token; None where all are trained."""
    if all(weight.requires_grad for weight in lm.parameters()):
        return None
    found: set[int] = set()

    def note(module: nn.Module, given: tuple[Any, ...]) -> None:
        if any(isinstance(value, Tensor) and value.requires_grad for value in given):
            found.update(id(weight) for weight in module.parameters(recurse=False))

    hooks = [module.register_forward_pre_hook(note) for module in lm.modules()]
    try:
        with torch.enable_grad(), torch.compiler.set_stance("force_eager"):  # compiled layers see no hooks
            lm(input_ids=torch.zeros(1, 1, dtype=torch.long, device=lm.device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def whole_shape(weight: Any) -> tuple[int, ...]:
    """The shape of a weight that may be spread by ZeRO-3, or packed into 4 bits."""
    packed = getattr(weight, "quant_state", None)
    return tuple(getattr(weight, "ds_shape", weight.shape) if packed is None else packed.shape)


def _cost(weight: Any, passing: set[int] | None) -> int:
    goes_on = passing is None or id(weight) in passing
    return 2 * (1 + goes_on + weight.requires_grad) * math.prod(whole_shape(weight))


def work_of(examples: Iterable[Example]) -> Work:
    """What one pass over the examples must compute, under causal attention. A pair's prompt counts once."""
    tokens = supervised = seen = 0
    for example in examples:
        tokens += example.computed
        supervised += example.supervised
        for number, sequence in enumerate(example.sequences):
            length, known = len(sequence.ids) - 1, sequence.prompt if number else 0
            seen += (length * (length + 1) - known * (known + 1)) // 2
    return Work(tokens, supervised, seen)


def flops(rates: Rates, work: Work) -> int:
    return rates.token * work.tokens + rates.supervised * work.supervised + rates.seen * work.seen


def mfu(done: float, seconds: float, device: str, processes: int) -> float | None:
    """The share of the devices' stated peak that `done` FLOPs took; None where the peak is not known."""
    peak = next((peak for name, peak in PEAKS.items() if name in device), None)
    return round(done / (seconds * peak * processes), 4) if peak and seconds else None
