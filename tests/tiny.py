"""A tiny world for tests of training: 300 strings to reverse, models of about 25,000 parameters."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from runtime.files import read_json, read_rows, write_rows
from runtime.run_job import Outcome, run_job
from runtime.store import Store
from tests.support import declared, describe

# Bits depend on the number of threads, and OpenMP's threads do not survive a fork.
torch.set_num_threads(1)

SHAPE = {"hidden_size": 32, "layers": 2, "heads": 2, "intermediate_size": 64}
MODEL: dict[str, Any] = {"init": {**SHAPE, "vocab_size": 100, "max_positions": 96}}


def demonstrations(count: int = 96) -> list[dict[str, Any]]:
    """Rows of strings to reverse, with the right answers."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefgh", k=draw.randint(2, 6))) for _ in range(count)]
    return [{"id": f"r{i}", "prompt": f"reverse {w}", "completion": w[::-1]} for i, w in enumerate(words)]


def preferences(count: int = 40) -> list[dict[str, Any]]:
    """The right answer, and it with a letter too many."""
    return [
        {"id": r["id"], "prompt": r["prompt"], "chosen": r["completion"], "rejected": f"z{r['completion']}"}
        for r in demonstrations(count)
    ]


def given(store: Store, type_: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """An input record of a sealed artifact with these rows."""
    folder = store.root / ".made"
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "data.jsonl", rows)
    key = hashlib.sha256((folder / "data.jsonl").read_bytes()).hexdigest()
    if not store.has("prepare", key):
        store.seal("prepare", key, folder, {"kind": "prepare", "key": key})
    return {"type": type_, "name": "data", "kind": "prepare", "key": key, "path": "data.jsonl"}


def model() -> dict[str, Any]:
    """An input record of the tiny model."""
    return declared("models", MODEL, "Model")


def sft(store: Store, rows: Sequence[dict[str, Any]] | None = None, **config: Any) -> dict[str, Any]:
    """A description of a short `sft` job."""
    told = {"epochs": 2, "learning_rate": 3e-3, "batch_size": 16, "chat": "human_assistant", "max_length": 96}
    data = given(store, "Demonstrations", rows or demonstrations())
    return describe("sft", {"max_prompt_length": 64, **told, **config}, {"model": model(), "data": data})


def dpo(
    store: Store, start: dict[str, Any], rows: Sequence[dict[str, Any]] | None = None, **config: Any
) -> Any:
    """A description of a short `dpo` job that starts from a model input."""
    told = {"epochs": 2, "learning_rate": 1e-3, "batch_size": 8, "max_length": 96, "max_prompt_length": 64}
    data = given(store, "Preferences", rows or preferences())
    return describe("dpo", {**told, **config}, {"model": start, "data": data})


def summary(store: Store, description: dict[str, Any]) -> dict[str, Any]:
    return store.manifest(description["kind"], description["key"])["summary"]


def failure(store: Store, description: dict[str, Any]) -> dict[str, Any]:
    return read_json(store.failure(description["key"]))


def curve(folder: Path) -> list[dict[str, Any]]:
    return list(read_rows(folder / "training.jsonl"))


def digest(folder: Path) -> dict[str, str]:
    """Hashes of the weights and curves of an artifact."""
    found = [*folder.rglob("*.safetensors"), *folder.rglob("training.jsonl")]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(found)}


def in_child(store: Store, description: dict[str, Any], before: Callable[[], object] = lambda: None) -> int:
    """Start a job in a process of its own, `before` called there first; returns its pid."""
    pid = os.fork()
    if pid:
        return pid
    code: int = Outcome.FAILED
    try:
        before()
        code = run_job(store, description)
    finally:
        os._exit(code)


def outcome(pid: int) -> int:
    """The exit code of a child, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
