"""How a model's layers are run: compiled, and computed again on the way back instead of kept."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from runtime.job import JobError
from runtime.training.attention import NAME, flat_attention
from runtime.training_config import TrainingConfig


def arrange(lm: Any, config: TrainingConfig) -> None:
    """Make the layers of a wrapped model run as the config wants; names and weights stay as they are.

    Transformers' own switch would act in training mode only, in which DPO, without dropout, never is.
    Raises JobError for a model whose layers transformers does not mark.
    """
    if not (config.activation_checkpointing or config.compile):
        return
    from transformers import AttentionInterface
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [module for module in lm.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise JobError(
            f"the layers of {type(lm).__name__} are not known: "
            "leave out `activation_checkpointing` and `compile`"
        )
    if config.compile:
        # Attention has its own kernels and the rows of a batch their own shapes: nothing to gain there.
        AttentionInterface.register(NAME, torch.compiler.disable(flat_attention))
    for layer in layers:
        if config.compile:
            layer.forward = torch.compile(layer.forward, dynamic=True)
        if config.activation_checkpointing:
            layer.forward = partial(torch.utils.checkpoint.checkpoint, layer.forward, use_reentrant=False)
