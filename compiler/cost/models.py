"""What is known of declared models without loading them: parameters, and characters per token."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from compiler.cost.amounts import Range, exactly
from compiler.cost.counts import Memory, file_facts
from runtime.declare import Architecture, ModelDecl

PACKAGE = "package:"

# Characters per token. English text under a tokenizer of 32,000 entries and more is near 4; a small
# vocabulary, trained on the spot, has shorter tokens.
GUESSED = Range(3.0, 4.0, 5.0)
SMALL_VOCABULARY, GUESSED_SMALL = 2000, Range(1.0, 2.0, 3.5)

# Bits that a weight takes in a GGUF file, scales included, by the name of its quantisation.
GGUF_BITS = {
    "F32": 32.0,
    "BF16": 16.0,
    "F16": 16.0,
    "Q8": 8.5,
    "Q6": 6.6,
    "Q5": 5.7,
    "Q4_1": 5.0,
    "Q4": 4.7,
    "Q3": 3.7,
    "Q2": 2.8,
}


@dataclass(frozen=True, slots=True)
class Size:
    """Parameters: `active` ones take part in a token's computation, `total` ones are read and written."""

    active: float
    total: float
    basis: str


# ---------------------------------------------------------------- parameters


def size_of(declared: ModelDecl) -> Size | None:
    """Parameters of a declared model; None where nothing at hand tells."""
    if declared.parameters is not None:
        return Size(declared.parameters, declared.parameters, "stated")
    if declared.init is not None:
        made = _of_shape(declared.init)
        return Size(made, made, "its shape")
    folder = folder_of(declared)
    if folder is not None and declared.gguf:
        return _of_gguf(folder / declared.gguf)
    found = _of_folder(folder) if folder is not None else None
    return found or (_of_name(declared.hub) if declared.hub else None)


def folder_of(declared: ModelDecl) -> Path | None:
    """Where a model's files are on this machine; None where they are not."""
    if declared.hub is not None:
        return _cached(declared.hub, declared.revision)
    path = declared.path or ""
    if not path.startswith(PACKAGE):
        return Path(path) if path and Path(path).is_dir() else None
    found = importlib.util.find_spec(path.removeprefix(PACKAGE))
    return Path(found.origin).parent if found and found.origin else None


def _cached(name: str, revision: str | None) -> Path | None:
    """The newest snapshot of a hub model in the hub's cache."""
    home = os.environ.get("HF_HOME", "~/.cache/huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE", f"{home}/hub")).expanduser()
    found = list((cache / f"models--{name.replace('/', '--')}" / "snapshots").glob(f"{revision or '*'}"))
    return max(found, key=lambda p: p.stat().st_mtime, default=None)


def _of_shape(shape: Architecture) -> float:
    """A Llama without grouped queries: attention, gated feed-forward layers, norms, embeddings."""
    h = shape.hidden_size
    block = 4 * h * h + 3 * h * shape.intermediate_size + 2 * h
    embeddings = shape.vocab_size * h * (1 if shape.tie_embeddings else 2)
    return shape.layers * block + h + embeddings


def _of_folder(folder: Path) -> Size | None:
    config = _json(folder / "config.json")
    shards = sorted(folder.glob("*.safetensors"))
    if shards:
        count = float(sum(map(_of_header, shards)))
        return Size(count * _active_share(config), count, "its safetensors headers") if count else None
    weights = sum(p.stat().st_size for p in folder.glob("pytorch_model*.bin"))
    if weights:
        count = weights / (2 if "16" in str(config.get("torch_dtype", config.get("dtype", ""))) else 4)
        return Size(count * _active_share(config), count, "the size of its weights")
    return None


def _of_header(shard: Path) -> int:
    """Numbers that a safetensors file holds, from its header alone."""
    try:
        with shard.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length < 100 << 20 else {}
        return sum(prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _active_share(config: dict[str, Any]) -> float:
    """The share of a mixture's parameters that one token uses; 1 for any other model."""
    experts = config.get("num_local_experts") or config.get("num_experts") or 0
    used = config.get("num_experts_per_tok") or experts
    if not experts:
        return 1.0
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size")
    h, inner, layers, vocabulary = (float(config.get(name) or 0) for name in names)
    expert = 3.0 * h * inner * layers
    rest = 2.5 * h * h * layers + 2.0 * h * vocabulary
    return (rest + used * expert) / (rest + experts * expert) if expert else 1.0


def _of_gguf(file: Path) -> Size | None:
    bits = next((b for name, b in GGUF_BITS.items() if name in file.name.upper()), None)
    if bits is None or not file.is_file():
        return None
    count = file.stat().st_size * 8 / bits
    return Size(count, count, f"the file's size at {bits:g} bits a weight")


def _of_name(name: str) -> Size | None:
    """`7b`, `135M`, `8x7B` in a model's name; two experts of a mixture are taken to work at a time."""
    found = re.search(r"(?:^|[-_/])(?:(\d+)x)?(\d+(?:\.\d+)?)([bm])(?![a-z0-9])", name.lower())
    if found is None:
        return None
    one = float(found[2]) * (1e9 if found[3] == "b" else 1e6)
    if found[1]:  # attention and embeddings are shared by the experts, hence less than the product
        return Size(1.85 * one, 0.83 * int(found[1]) * one, "its name")
    return Size(one, one, "its name")


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


# ---------------------------------------------------------------- tokens


def characters_per_token(declared: ModelDecl, texts: Sequence[str], memory: Memory) -> tuple[Range, str]:
    """Measured with the model's own tokenizer where both it and texts are at hand, else a guess."""
    folder = folder_of(declared)
    file = folder / "tokenizer.json" if folder is not None else None
    if file is not None and file.is_file() and texts:
        measured = _measured(file, texts, memory)
        if measured:
            return exactly(measured), f"{measured:.2f} characters a token, measured with its tokenizer"
    if declared.init is not None and declared.init.vocab_size < SMALL_VOCABULARY:
        guess = GUESSED_SMALL
    else:
        guess = GUESSED
    return guess, f"{guess.likely:g} characters a token, a guess"


def _measured(file: Path, texts: Sequence[str], memory: Memory) -> float | None:
    facts = [file_facts(file), "\0".join(texts)]
    known = memory.recall(*facts)
    if known is not None:
        return float(known)
    try:
        from tokenizers import Tokenizer

        encoded = Tokenizer.from_file(str(file)).encode_batch(list(texts), add_special_tokens=False)
    except Exception:  # not installed, or a file of another version: the guess will do
        return None
    tokens = sum(len(e.ids) for e in encoded)
    if not tokens:
        return None
    memory.keep(sum(map(len, texts)) / tokens, *facts)
    return sum(map(len, texts)) / tokens
