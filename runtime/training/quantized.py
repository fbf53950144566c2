"""What bitsandbytes does for a training: optimizer states of 8 bits.

The package is optional: this module is imported only where it is used (`runtime.training.needs`).
"""

from __future__ import annotations

import logging
from typing import Any

import torch

from runtime.training_config import TrainingConfig

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it tells of kernels that it would fetch

import bitsandbytes  # noqa: E402


def eight_bit(parameters: Any, config: TrainingConfig) -> torch.optim.Optimizer:
    """The optimizer of a config with states of 8 bits: blocks of 256 numbers with a scale each.

    States of tensors with fewer than 4096 numbers stay fp32.
    """
    if config.optimizer == "rmsprop":
        return bitsandbytes.optim.RMSprop8bit(parameters, lr=config.learning_rate)
    return bitsandbytes.optim.AdamW8bit(parameters, lr=config.learning_rate, betas=config.betas)
