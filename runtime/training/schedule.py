"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from runtime.training_config import TrainingConfig


def learning_rate(config: TrainingConfig, step: int, total: int) -> float:
    """Learning rate of step `step` of `total`, counted from 0; never 0, so no step is wasted.

    Warm-up climbs linearly over `warmup_steps`, to reach the peak at the first step after it. Then
    `constant` stays, `linear` and `cosine` fall towards 0, which they would reach at step `total`.
    """
    warmup = config.warmup_steps
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, total - warmup)
    if config.schedule == "linear":
        return config.learning_rate * (1 - done)
    if config.schedule == "cosine":
        return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
    return config.learning_rate
