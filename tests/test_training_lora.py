"""LoRA: only adapters are trained and kept, and what comes out is a model as any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from runtime.models import load_model, probe_logits
from runtime.run_job import Outcome, run_job
from runtime.stages.dpo import Dpo
from runtime.store import Store
from runtime.training import loop, state
from runtime.training_config import TrainingConfig
from tests.support import made, run, scratch
from tests.test_training_parallel import parallel, require_close
from tests.tiny import curve, demonstrations, digest, dpo, failure, preferences, sft

LORA = {"rank": 4, "alpha": 8.0}


def test_the_weights_stay_and_the_adapter_is_the_difference(store: Store) -> None:
    from peft import PeftModel

    first = sft(store, epochs=1)
    base = run(store, first) / "model"
    job = dpo(store, made(first, "Model", "model"), preferences(), lora=LORA)
    told = run(store, job)
    before, after = load_file(base / "model.safetensors"), load_file(told / "model" / "model.safetensors")
    assert before.keys() == after.keys(), "merged, by the names of the model itself"
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {n for n in before if n.endswith("_proj.weight")}
    assert curve(told)[-1]["margin"] > curve(told)[0]["margin"], "it learns"

    ours = load_model(told / "model", torch.float32).eval()
    theirs = PeftModel.from_pretrained(load_model(base, torch.float32), told / "adapter").eval()
    ids = list(range(3, 30))
    assert torch.allclose(probe_logits(ours, ids), probe_logits(theirs, ids), atol=1e-5)


def test_stopped_it_goes_on_with_the_same_bits_from_adapters_alone(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, Any] = {"lora": {**LORA, "dropout": 0.1, "targets": ["q_proj", "v_proj"]}}
    other = Store(tmp_path / "other")
    wanted = digest(run(other, sft(other, **told)))
    job = sft(store, **told)
    inner = loop.Run._step

    def failing(self: Any, step: int, *rest: Any) -> Any:
        if step == 7:
            raise RuntimeError("the machine broke")
        return inner(self, step, *rest)

    with monkeypatch.context() as broken:
        broken.setattr(loop.Run, "_step", failing)
        broken.setattr(loop, "RESUME_EVERY_S", 0.0)
        assert run_job(store, job) is Outcome.FAILED
    sealed = state.newest(scratch(store, job))
    assert sealed is not None
    kept = torch.load(sealed / "state.pt", weights_only=True)
    assert kept["model"] and all(".lora_" in name for name in kept["model"])
    assert len(kept["optimizer"]["state"]) == len(kept["model"]) == 2 * 2 * 2  # layers, targets, A and B
    assert digest(run(store, job)) == wanted


@pytest.mark.slow
def test_ddp_trains_as_one_process_does(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "other")
    told: dict[str, Any] = {"epochs": 1, "batch_size": 23, "lora": LORA, "activation_checkpointing": True}
    rows = demonstrations(47)
    require_close(run(store, sft(store, rows, **told)), run(other, sft(other, rows, **told, **parallel())))


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("w_proj", "no module 'w_proj'; its linear layers are down_proj, gate_proj, "),
        ("embed_tokens", "'embed_tokens' is no linear layer"),
    ],
)
def test_targets_that_are_no_layers_are_refused(store: Store, target: str, told: str) -> None:
    job = sft(store, lora={**LORA, "targets": [target]})
    assert run_job(store, job) is Outcome.REFUSED
    assert told in failure(store, job)["message"]


@pytest.mark.parametrize(
    ("model", "told", "why"),
    [
        (TrainingConfig, {"kind": "sft", **parallel(2, "zero2")}, "leave sharding out of `parallel`"),
        (Dpo, {"kind": "dpo", "model": "m", "data": "d", "lora": {**LORA, "dropout": 0.1}}, "must be 0"),
    ],
)
def test_what_does_not_go_with_it_is_refused(model: type[TrainingConfig], told: Any, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        model.model_validate({"epochs": 1, "learning_rate": 1.0, "lora": LORA, **told})
