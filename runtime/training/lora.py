"""Low-rank adapters: put into a model, saved as PEFT reads them, and merged into the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runtime.job import JobError
from runtime.training_config import TrainingConfig

_NAME = "default"


def adapt(lm: Any, config: TrainingConfig) -> None:
    """Freeze a model but for a reward head, and put adapters into it, which start as no change.

    Nothing without `lora`. All ranks draw the same. Raises JobError where the targets are no linear
    layers of the model.
    """
    if config.lora is None:
        return
    from peft import LoraConfig, inject_adapter_in_model

    lora, head = config.lora, getattr(lm, "score", None)  # the head of a reward model
    told = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets) if lora.targets else "all-linear",
        task_type="SEQ_CLS" if head else "CAUSAL_LM",
    )
    _require_linear(lm, lora.targets or ())
    if lora.quantize:
        from runtime.training.quantized import four_bit  # an optional package

        four_bit(lm)
        lm.is_loaded_in_4bit = True  # by which PEFT knows
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        inject_adapter_in_model(told, lm)
    if head:
        head.requires_grad_(True)  # it is new, and too small to need adapters


def _require_linear(lm: Any, targets: tuple[str, ...]) -> None:
    embeddings = lm.get_input_embeddings()
    for target in targets:
        found = [m for name, m in lm.named_modules() if f".{name}".endswith(f".{target}")]
        if not found:
            linear = {n.rpartition(".")[2] for n, m in lm.named_modules() if isinstance(m, torch.nn.Linear)}
            raise JobError(
                f"`lora.targets`: the model has no module {target!r}; its linear layers are "
                f"{', '.join(sorted(linear))}"
            )
        if not all(isinstance(m, torch.nn.Linear) and m.weight is not embeddings.weight for m in found):
            raise JobError(
                f"`lora.targets`: {target!r} is no linear layer, or shares its weight with the embeddings: "
                "leave it out"
            )


def trained_state(lm: Any) -> dict[str, Tensor]:
    """What training changes of a model's state: all of it, but for weights that are frozen."""
    frozen = _frozen(lm)
    return {name: value for name, value in _plain_state(lm).items() if name not in frozen}


def load_trained_state(lm: Any, state: dict[str, Tensor]) -> None:
    """Read what `trained_state` gave; RuntimeError where anything is missing, strange or of another shape."""
    missing, unexpected = lm.load_state_dict(state, strict=False)
    if unexpected or set(missing) - _frozen(lm):
        raise RuntimeError(f"the state has other weights than the model: {[*missing, *unexpected][:5]}")


def _frozen(lm: Any) -> set[str]:
    named = lm.named_parameters(remove_duplicate=False)
    return {name for name, parameter in named if not parameter.requires_grad}


def _plain_state(lm: Any) -> dict[str, Tensor]:
    """A model's state without what describes weights of 4 bits."""
    described = tuple(f"{name}." for name, weight in lm.named_parameters() if hasattr(weight, "quant_state"))
    return {name: value for name, value in lm.state_dict().items() if not name.startswith(described)}


def merged(lm: Any) -> dict[str, Tensor]:
    """The weights by the names of a model without adapters, each adapter added to its layer's.

    Weights of 4 bits are given as what they stand for, which is what was trained.
    """
    if not hasattr(lm, "peft_config"):
        return lm.state_dict()
    told = {
        name.replace(".base_layer.", "."): value
        for name, value in _plain_state(lm).items()
        if ".lora_" not in name
    }
    with torch.no_grad():
        for name, weight in lm.named_parameters():
            if hasattr(weight, "quant_state"):
                from runtime.training.quantized import unpacked

                told[name.replace(".base_layer.", ".")] = unpacked(weight)
        for name, layer in _adapted(lm):
            told[f"{name}.weight"] = told[f"{name}.weight"] + layer.get_delta_weight(_NAME)
    return told


def save_adapter(lm: Any, folder: Path) -> None:
    """Write the adapters of a model, if it has any, as `PeftModel.from_pretrained` reads them."""
    if not hasattr(lm, "peft_config"):
        return
    from safetensors.torch import save_file

    folder.mkdir()
    lm.peft_config[_NAME].save_pretrained(folder)
    weights = {
        f"base_model.model.{name.replace(f'.{_NAME}', '')}": value.contiguous()
        for name, value in lm.state_dict().items()
        if ".lora_" in name or name.startswith("score.")
    }
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _adapted(lm: Any) -> list[tuple[str, Any]]:
    return [(name, module) for name, module in lm.named_modules() if hasattr(module, "get_delta_weight")]
