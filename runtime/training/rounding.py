"""Optimizers whose states are bf16, rounded up or down at random so that they are right on average.

Rounded to the nearest, a state that changes by less than a 512th of itself would stay as it is: with a
decay of 0.999 the second moment would stop at two fifths of its value. What is drawn follows from seed, step
and parameter, so that a run that goes on draws what it would have drawn. Weights are fp32, and each step is
computed in fp32 before its states are rounded.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from runtime.draws import generator_seed

CHUNK = 1 << 24  # numbers that are computed at a time: what a step needs of memory beside the states


def round_at_random(values: Tensor, generator: torch.Generator) -> Tensor:
    """fp32 numbers as bf16: one of the two neighbours, the nearer the likelier; the mean is the number."""
    noise = torch.randint(
        0, 1 << 16, values.shape, dtype=torch.int32, device=values.device, generator=generator
    )
    return (values.view(torch.int32) + noise).bitwise_and_(-1 << 16).view(torch.float32).bfloat16()


class _Rounded(torch.optim.Optimizer):
    """The part that is not of one rule: states, chunks, draws. `states` names a rule's states."""

    states: tuple[str, ...]

    def __init__(self, parameters: Any, seed: int, **defaults: Any) -> None:
        super().__init__(parameters, defaults)
        self.seed = seed

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        number = 0
        for group in self.param_groups:
            for parameter in group["params"]:
                number += 1
                if parameter.grad is not None:
                    self._update(parameter, group, number)

    def _update(self, parameter: Tensor, group: dict[str, Any], number: int) -> None:
        own = self.state[parameter]
        if not own:
            own["step"] = torch.tensor(0.0)
            own |= {name: torch.zeros_like(parameter, dtype=torch.bfloat16) for name in self.states}
        own["step"] += 1
        step = int(own["step"])
        generator = torch.Generator(parameter.device).manual_seed(
            generator_seed("rounding", self.seed, step, number)
        )
        tensors = (parameter, parameter.grad.contiguous(), *(own[name] for name in self.states))
        for weights, gradient, *kept in zip(*map(_chunks, tensors), strict=True):
            exact = [values.float() for values in kept]
            self._rule(weights, gradient, exact, group, step)
            for values, new in zip(kept, exact, strict=True):
                values.copy_(round_at_random(new, generator))

    def _rule(
        self, weights: Tensor, gradient: Tensor, states: list[Tensor], group: dict[str, Any], step: int
    ) -> None:
        """Bring fp32 states, then the weights, up to date in place; `step` counts from 1."""
        raise NotImplementedError

    def load_state_dict(self, state_dict: Any) -> None:
        super().load_state_dict(state_dict)
        for own in self.state.values():  # torch made them fp32, as the weights are
            own |= {name: own[name].bfloat16() for name in self.states}


class RoundedAdamW(_Rounded):
    """AdamW with the formula and the epsilon of `torch.optim.AdamW`."""

    states = ("exp_avg", "exp_avg_sq")

    def __init__(self, parameters: Any, seed: int, *, lr: float, betas: tuple[float, float]) -> None:
        super().__init__(parameters, seed, lr=lr, betas=betas, eps=1e-8, weight_decay=0.0)

    def _rule(
        self, weights: Tensor, gradient: Tensor, states: list[Tensor], group: dict[str, Any], step: int
    ) -> None:
        (first, second), (decay, slower) = states, group["betas"]
        first.lerp_(gradient, 1 - decay)
        second.mul_(slower).addcmul_(gradient, gradient, value=1 - slower)
        root = second.sqrt().div_((1 - slower**step) ** 0.5).add_(group["eps"])
        weights.mul_(1 - group["lr"] * group["weight_decay"])
        weights.addcdiv_(first, root, value=-group["lr"] / (1 - decay**step))


class RoundedRmsprop(_Rounded):
    """RMSprop with the formula and the defaults of `torch.optim.RMSprop`."""

    states = ("square_avg",)

    def __init__(self, parameters: Any, seed: int, *, lr: float) -> None:
        super().__init__(parameters, seed, lr=lr, alpha=0.99, eps=1e-8)

    def _rule(
        self, weights: Tensor, gradient: Tensor, states: list[Tensor], group: dict[str, Any], step: int
    ) -> None:
        (square,) = states
        square.mul_(group["alpha"]).addcmul_(gradient, gradient, value=1 - group["alpha"])
        weights.addcdiv_(gradient, square.sqrt().add_(group["eps"]), value=-group["lr"])


def _chunks(tensor: Any) -> tuple[Tensor, ...]:
    """Flat views of a tensor; of one that FSDP2 spreads over processes, of this one's part."""
    local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return local.view(-1).split(CHUNK)
