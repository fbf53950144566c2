"""QLoRA: frozen linear layers in 4 bits, adapters beside them, and a plain checkpoint of both."""

from __future__ import annotations

from math import log
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from runtime.files import read_json
from runtime.models import load_model, probe_logits
from runtime.run_job import Outcome, run_job
from runtime.store import Store
from runtime.training import state
from runtime.training.quantized import four_bit
from runtime.training_config import TrainingConfig
from tests.support import declared, made, run, scratch
from tests.test_training_reward import reward
from tests.test_training_states import WIDE, stop_at, wide
from tests.tiny import curve, digest, dpo, failure, preferences, sft, summary

QLORA: dict[str, Any] = {
    "lora": {"rank": 4, "alpha": 8.0, "targets": ["q_proj", "v_proj"], "quantize": "nf4"}
}


def packed(folder: Path) -> Any:
    """A model of a folder with its layers in 4 bits."""
    lm = load_model(folder, torch.float32)
    four_bit(lm)
    return lm.to("cpu")  # rounds them


def test_what_was_trained_on_4_bits_is_kept_whole(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Preferences on a model, stopped on the way, whose reference has 4 bits too."""
    from peft import PeftModel

    first = wide(store, epochs=1)
    base = run(store, first) / "model"
    start, other = made(first, "Model", "model"), Store(tmp_path / "other")
    run(other, wide(other, epochs=1))
    told = {**QLORA, "learning_rate": 1e-2, "activation_checkpointing": True}
    whole = run(other, dpo(other, start, preferences(), **told))
    job = dpo(store, start, preferences(), **told)
    with monkeypatch.context() as broken:
        stop_at(5, broken)
        assert run_job(store, job) is Outcome.FAILED
    sealed = state.newest(scratch(store, job))
    assert sealed is not None
    kept = torch.load(sealed / "state.pt", weights_only=True)["model"]
    assert len(kept) == 2 * 2 * 2 and all(".lora_" in name for name in kept)
    assert digest(run(store, job)) == digest(whole)
    rows = curve(whole)
    assert rows[0]["loss"] == pytest.approx(log(2), abs=1e-5)
    assert rows[-1]["margin"] > 0.01

    before, after = (load_file(f / "model.safetensors") for f in (base, whole / "model"))
    assert before.keys() == after.keys()
    assert "quantization_config" not in read_json(whole / "model" / "config.json")
    for name, value in before.items():
        error = float((after[name] - value).norm() / value.norm())
        assert after[name].dtype == torch.float32
        if "q_proj" in name or "v_proj" in name:
            assert error > 0.1, name  # what was learnt
        else:  # what rounding to 4 bits takes from numbers that are normally distributed
            assert error == pytest.approx(0.092, abs=0.004) if "_proj" in name else error == 0.0, name
    ours = load_model(whole / "model", torch.float32).eval()
    theirs = PeftModel.from_pretrained(packed(base), whole / "adapter").eval()
    ids = list(range(3, 30))
    assert torch.allclose(probe_logits(ours, ids), probe_logits(theirs, ids), atol=1e-5)


def test_in_bf16_and_with_dropout_it_stays_near_fp32(store: Store, tmp_path: Path) -> None:
    half, plain = Store(tmp_path / "half"), Store(tmp_path / "plain")
    told: dict[str, Any] = {"lora": {**QLORA["lora"], "dropout": 0.1}, "learning_rate": 1e-2, "epochs": 1}
    job, full = wide(store, **told), wide(plain, **{**told, "lora": {**told["lora"], "quantize": None}})
    exact, rough = curve(run(store, job)), curve(run(half, wide(half, **told, precision="bf16")))
    assert exact[-1]["loss"] < exact[0]["loss"]
    assert rough[-1]["loss"] == pytest.approx(exact[-1]["loss"], rel=0.02)
    assert rough != exact
    run(plain, full)
    for figure in ("parameters", "model_flops"):  # packed weights are counted whole
        assert summary(store, job)[figure] == summary(plain, full)[figure]


def test_a_reward_model_keeps_its_head(store: Store) -> None:
    from runtime.reward_models import load_reward_model

    start = declared("models", {**WIDE, "chat": "human_assistant"}, "Model")
    folder = run(store, reward(store, start=start, epochs=3, **QLORA))
    assert curve(folder)[-1]["accuracy"] == 1.0
    assert load_reward_model(folder / "model", torch.float32).score.weight.dtype == torch.float32


def test_rows_that_are_no_whole_blocks_are_refused(store: Store) -> None:
    job = sft(store, **QLORA)
    assert run_job(store, job) is Outcome.REFUSED
    assert "q_proj has 32 inputs, no multiple of 64" in failure(store, job)["message"]


def test_compiled_it_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"`compile` does not go with `lora\.quantize`"):
        TrainingConfig.model_validate(
            {"kind": "sft", "epochs": 1, "learning_rate": 1.0, **QLORA, "compile": True}
        )
