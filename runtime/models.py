"""Finds, makes, loads, saves and re-checks causal language models with their tokenizers."""

from __future__ import annotations

import copy
import importlib.util
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from logging import ERROR, getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.chat import Renderer
from runtime.declare import PACKAGE, Architecture, ModelDecl
from runtime.files import read_json, write_json
from runtime.job import Input, JobError
from runtime.training.folders import whole_folder

if TYPE_CHECKING:
    import torch

MANIFEST = "alignc.json"
SCHEMA = "alignc.model/1"

# Largest difference of logits, relative to the largest logit, between a model and its reopened
# checkpoint: none is expected where the same kernels run; a GPU's kernels differ from the CPU's.
REOPEN_TOLERANCE = {"cpu": 1e-5, "cuda": 2e-2}


@dataclass(frozen=True, slots=True)
class Origin:
    """A model's Hugging Face folder, its own chat format, and the hash of what that format renders."""

    folder: Path
    chat: str | None = None
    golden: str | None = None


def locate(given: Input, scratch: Path, texts: Callable[[], Iterable[str]]) -> Origin:
    """The folder of a job's model; made below `scratch` where it is not a Hugging Face folder yet.

    texts: what a tokenizer is trained on, should the model have none (asked for only then).
    Raises JobError where a declared model cannot be found.
    """
    if given.declared is None:
        return _origin(given.path, None)
    quiet()
    declared: ModelDecl = given.declared
    if declared.init is None and declared.gguf is None:
        return _origin(_folder(declared), declared.chat)
    folder = scratch / "start"
    if not folder.is_dir():
        with whole_folder(folder) as draft:
            if declared.init is not None:
                _initialise(declared.init, texts(), draft)
            else:
                _convert_gguf(_folder(declared), str(declared.gguf), draft)
    return _origin(folder, declared.chat)


def _origin(folder: Path, chat: str | None) -> Origin:
    if not (folder / "config.json").is_file():
        raise JobError(f"{folder} is no Hugging Face model: it has no config.json")
    manifest = folder / MANIFEST
    told: Mapping[str, Any] = read_json(manifest) if manifest.is_file() else {}
    return Origin(
        folder, chat or told.get("chat"), told.get("golden") if chat in (None, told.get("chat")) else None
    )


def _folder(declared: ModelDecl) -> Path:
    """Where a declared model lies on this machine; fetched first, where it is on the hub."""
    if declared.hub is not None:
        return _fetch(declared.hub, declared.revision)
    path = str(declared.path)
    if not path.startswith(PACKAGE):
        return Path(path).expanduser()
    name = path.removeprefix(PACKAGE)
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise JobError(f"the model is inside the Python package {name!r}, which is not installed")
    return Path(next(iter(found.submodule_search_locations)))


def _fetch(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(name, revision=revision, ignore_patterns=["*.bin", "*.pth", "*.gguf", "*.onnx"])
        )
    except Exception as error:  # offline, gated, misspelt: the hub's own words tell which
        raise JobError(f"the model {name} cannot be had from the hub: {error}") from error


def _initialise(shape: Architecture, texts: Iterable[str], folder: Path) -> None:
    """Random fp32 weights and a tokenizer trained on `texts`: the same bits for the same arguments."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from runtime.training.tokenizer import train_tokenizer

    if shape.hidden_size % shape.heads:
        raise JobError(f"`hidden_size: {shape.hidden_size}` is no multiple of `heads: {shape.heads}`")
    tokenizer = train_tokenizer(texts, shape.vocab_size, shape.max_positions)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=shape.max_positions,
        tie_word_embeddings=shape.tie_embeddings,
        initializer_range=shape.init_std,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(shape.seed)
        model = LlamaForCausalLM(config).to(torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _convert_gguf(source: Path, name: str, folder: Path) -> None:
    """Unpack GGUF weights to a plain fp32 folder."""
    if not (source / name).is_file():
        raise JobError(f"there is no GGUF file {name} in {source}")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    read = AutoModelForCausalLM.from_pretrained(source, gguf_file=name, dtype=torch.float32)
    config = copy.deepcopy(read.config)
    if hasattr(
        config, "quantization_config"
    ):  # the weights are unpacked now, and could not be saved otherwise
        del config.quantization_config
    plain = type(read)(config)
    plain.load_state_dict(read.state_dict())
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source, gguf_file=name).save_pretrained(folder)


def quiet() -> None:
    """No progress bars or advice in a job's log."""
    import torch
    from transformers.utils import logging

    getLogger("bitsandbytes").setLevel(ERROR)  # on being imported it advises packages that it would fetch
    if not torch.cuda.is_available():
        os.environ.setdefault(
            "DS_ACCELERATOR", "cpu"
        )  # else DeepSpeed, when imported, says that it found none
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def open_renderer(origin: Origin, chat: str | None = None) -> Renderer:
    """The renderer of a model, in its own chat format or another.

    Raises JobError where there is no format, and where the model's own format no longer renders
    as it did when the model was trained.
    """
    from transformers import AutoTokenizer

    quiet()
    tokenizer = AutoTokenizer.from_pretrained(origin.folder)
    if origin.chat and origin.golden and Renderer(origin.chat, tokenizer).golden() != origin.golden:
        raise JobError(
            f"the chat format {origin.chat!r} renders otherwise than when {origin.folder} was trained: "
            "its template or the tokenizer has changed"
        )
    wanted = chat or origin.chat
    if wanted is None:
        raise JobError("the model has no chat format: declare its `chat`, or name one in the stage")
    return Renderer(wanted, tokenizer)


def load_model(folder: Path, dtype: torch.dtype) -> Any:
    """The causal language model of a Hugging Face folder; under ZeRO-3 a collective of all ranks."""
    from transformers import AutoModelForCausalLM

    quiet()
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


def longest(model_config: Any) -> int | None:
    """How many positions a model has; None where it does not say."""
    return getattr(model_config, "max_position_embeddings", None)


def head_size(model_config: Any) -> int:
    """Channels of an attention head."""
    return (
        getattr(model_config, "head_dim", None)
        or model_config.hidden_size // model_config.num_attention_heads
    )


def probe_logits(model: Any, ids: list[int]) -> torch.Tensor:
    """Logits [T, V] of one sequence of ids, fp32 on the CPU."""
    import torch

    device = next(model.parameters()).device
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids], device=device), use_cache=False).logits
    return logits[0].float().cpu()


def save_model(
    model: Any, weights: Mapping[str, torch.Tensor], renderer: Renderer, folder: Path, told: Mapping[str, Any]
) -> None:
    """Write a Hugging Face folder (safetensors) with its tokenizer and `alignc.json`."""
    model.save_pretrained(folder, state_dict=dict(weights))
    renderer.tokenizer.save_pretrained(folder)
    write_json(
        folder / MANIFEST, {"schema": SCHEMA, "chat": renderer.name, "golden": renderer.golden(), **told}
    )


def reopen(
    folder: Path,
    ids: list[int],
    wanted: torch.Tensor,
    tolerance: float,
    load: Callable[[Path, torch.dtype], Any] = load_model,
    probe: Callable[[Any, list[int]], torch.Tensor] = probe_logits,
) -> float:
    """Load a saved model afresh and compare its logits on a probe; returns the relative difference.

    wanted: logits [T, V] of the model that was saved. load, probe: how such a model is opened and asked.
    Raises RuntimeError for a checkpoint that is not the model: a defect, never the user's fault.
    """
    import torch

    model = load(folder, torch.float32).eval()
    empty = [
        name for name, value in model.named_parameters() if not value.numel() or not value.isfinite().all()
    ]
    if empty:
        raise RuntimeError(f"the checkpoint {folder} has empty or non-finite weights: {', '.join(empty[:5])}")
    found = probe(model, ids)
    if found.shape != wanted.shape:
        raise RuntimeError(
            f"the checkpoint {folder} gives logits {tuple(found.shape)}, not {tuple(wanted.shape)}"
        )
    difference = float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-6))
    if not difference <= tolerance:
        raise RuntimeError(
            f"the checkpoint {folder} gives other logits than the model it was saved from: they differ by "
            f"{difference:.1e} of the largest, and {tolerance:.0e} is allowed"
        )
    return difference
