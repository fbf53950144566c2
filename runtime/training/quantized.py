"""What bitsandbytes does for a training: optimizer states of 8 bits, frozen weights of 4.

The package is optional: this module is imported only where it is used (`runtime.training.needs`).
"""

from __future__ import annotations

from typing import Any

import bitsandbytes
import torch
from torch import Tensor, nn

from runtime.job import JobError
from runtime.training_config import TrainingConfig

BLOCK = 64  # weights of 4 bits that have a scale of their own


def eight_bit(parameters: Any, config: TrainingConfig) -> torch.optim.Optimizer:
    """The optimizer of a config with states of 8 bits: blocks of 256 numbers with a scale each.

    States of tensors with fewer than 4096 numbers stay fp32.
    """
    if config.optimizer == "rmsprop":
        return bitsandbytes.optim.RMSprop8bit(parameters, lr=config.learning_rate)
    return bitsandbytes.optim.AdamW8bit(parameters, lr=config.learning_rate, betas=config.betas)


class _Linear(bitsandbytes.nn.Linear4bit):
    """Computes in what autocast says, else in what it is given; the weight is unpacked for the moment."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return bitsandbytes.matmul_4bit(x, self.weight, quant_state=self.weight.quant_state, bias=bias)


def four_bit(lm: Any) -> None:
    """Give a model linear layers of 4 bits (NF4, scales of 8 bits), but for the output or a reward head.

    They are rounded when the model is moved to its device. Raises JobError where there is none, and where
    rows are no whole blocks, which bitsandbytes 0.50 unpacks wrongly on CPUs.
    """
    kept = (lm.get_output_embeddings(), getattr(lm, "score", None))
    layers = [(name, layer) for name, layer in lm.named_modules() if type(layer) is nn.Linear]
    found = [(name, layer) for name, layer in layers if layer not in kept]
    if not found:
        raise JobError(f"{type(lm).__name__} has no linear layers of torch: leave out `lora.quantize`")
    for name, layer in found:
        if layer.in_features % BLOCK:
            raise JobError(
                f"the layer {name} has {layer.in_features} inputs, no multiple of {BLOCK}: "
                "leave out `lora.quantize`"
            )
        made = _Linear(layer.in_features, layer.out_features, bias=False, quant_type="nf4", device="meta")
        made.weight = bitsandbytes.nn.Params4bit(layer.weight.data, blocksize=BLOCK, quant_type="nf4")
        made.bias = layer.bias
        lm.set_submodule(name, made)


def unpacked(weight: Any) -> Tensor:
    """What a weight of 4 bits stands for, in fp32."""
    return bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state).float()
