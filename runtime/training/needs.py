"""Which package a training lacks on this machine, of those that only some settings need."""

from __future__ import annotations

from importlib.util import find_spec

from runtime.training_config import TrainingConfig


def lacking(config: TrainingConfig) -> str | None:
    """What is missing for what, and the way out; None where all is there."""
    asked = {
        "`optimizer_states: 8bit`": config.optimizer_states == "8bit",
        "`lora.quantize`": config.lora is not None and config.lora.quantize is not None,
    }
    named = " and ".join(name for name, wanted in asked.items() if wanted)
    if not named or find_spec("bitsandbytes"):
        return None
    return (
        f"{named}: the package bitsandbytes is not installed: pip install 'alignc[quantization]', "
        "or leave the setting out"
    )
