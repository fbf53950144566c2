"""Which package a training lacks on this machine, of those that only some settings need."""

from __future__ import annotations

from importlib.util import find_spec

from runtime.training_config import TrainingConfig


def lacking(config: TrainingConfig) -> str | None:
    """What is missing for what, and the way out; None where all is there."""
    if config.optimizer_states != "8bit" or find_spec("bitsandbytes"):
        return None
    return (
        "`optimizer_states: 8bit` needs the package bitsandbytes, which is not installed: "
        "pip install 'alignc[quantization]', or set `bf16`"
    )
