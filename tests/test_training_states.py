"""Optimizer states of fewer bits: right on average, resumed with the same bits, and near fp32."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from runtime.job import open_job
from runtime.run_job import Outcome, run_job
from runtime.store import Store
from runtime.training import loop, state
from runtime.training.parallel import make_optimizer
from runtime.training.preflight import look
from runtime.training.rounding import round_at_random
from runtime.training_config import TrainingConfig
from tests.support import declared, describe, run, scratch
from tests.test_training_parallel import parallel
from tests.tiny import MODEL, curve, digest, failure, sft

BF16, EIGHT = {"optimizer_states": "bf16"}, {"optimizer_states": "8bit"}
WIDE = {"init": {**MODEL["init"], "hidden_size": 64}}  # bitsandbytes keeps small tensors in fp32


def optimizer(weights: Tensor, **told: Any) -> torch.optim.Optimizer:
    """The optimizer of a model that has these weights only."""
    module = nn.Module()
    module.register_parameter("weights", nn.Parameter(weights))
    config = {"kind": "sft", "epochs": 1, "learning_rate": 5e-7, **told}
    return make_optimizer(module, TrainingConfig.model_validate(config), fused=False)


def weights_of(made: torch.optim.Optimizer) -> Tensor:
    return made.param_groups[0]["params"][0]


def take(made: torch.optim.Optimizer, steps: int, seed: int = 0) -> None:
    """Steps along a gradient of the same size everywhere and nearly the same direction."""
    draw = torch.Generator().manual_seed(seed)
    weights = weights_of(made)
    for _ in range(steps):
        weights.grad = 0.01 * (1 + 0.1 * torch.randn(weights.shape, generator=draw))
        made.step()


@pytest.mark.parametrize("value", [1 + 2**-10, -1 - 2**-10, 3.3e-30, 1.7e30])
def test_rounding_is_right_on_average(value: float) -> None:
    many = torch.full((100_000,), value)
    found = round_at_random(many, torch.Generator().manual_seed(0))
    assert found.dtype == torch.bfloat16
    assert len(found.unique()) == 2, "the two neighbours, nothing else"
    step = float(found.float().max() - found.float().min())
    assert abs(float(found.double().mean()) - float(many[0])) < 4 * 0.5 * step / len(many) ** 0.5


def test_what_bf16_has_is_left_alone() -> None:
    values = torch.tensor([0.0, -0.0, 1.0, -2.5, 1e-40, float("inf")]).bfloat16()
    assert torch.equal(
        round_at_random(values.float(), torch.Generator()).view(torch.int16), values.view(torch.int16)
    )


@pytest.mark.parametrize("states", [BF16, EIGHT], ids=["bf16", "8bit"])
@pytest.mark.parametrize("told", [{"weight_decay": 0.1, "learning_rate": 1e-2}, {"optimizer": "rmsprop"}])
def test_the_first_step_is_that_of_torch(told: dict[str, Any], states: dict[str, Any]) -> None:
    start = torch.randn(50, 100, generator=torch.Generator().manual_seed(1))
    exact, ours = optimizer(start.clone(), **told), optimizer(start.clone(), **told, **states)
    for made in (exact, ours):
        take(made, 1)
    assert type(exact).__module__.startswith("torch.") and type(ours) is not type(exact)
    assert torch.allclose(weights_of(ours), weights_of(exact), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["adamw", "rmsprop"])
def test_small_steps_and_slow_states_are_not_lost(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A learning rate of 5e-7 for 1500 steps, in which the second moment grows by ever smaller parts."""
    exact, ours = (optimizer(torch.full((40, 40), 0.05), optimizer=name, **told) for told in ({}, BF16))
    for made in (exact, ours):
        take(made, 1500)
    moved = [0.05 - weights_of(made).double().mean().item() for made in (exact, ours)]
    assert moved[1] == pytest.approx(moved[0], rel=2e-3)
    slow = "exp_avg_sq" if name == "adamw" else "square_avg"
    wanted, found = (made.state[weights_of(made)][slow].double().mean().item() for made in (exact, ours))
    assert ours.state[weights_of(ours)][slow].dtype == torch.bfloat16
    assert found == pytest.approx(wanted, rel=2e-3)
    if name == "adamw":  # what this is for: rounded to the nearest, the moment stops on its way
        monkeypatch.setattr("runtime.training.rounding.round_at_random", lambda v, _: v.bfloat16())
        nearest = optimizer(torch.full((40, 40), 0.05), **BF16)
        take(nearest, 1500)
        assert nearest.state[weights_of(nearest)][slow].double().mean().item() < 0.7 * wanted


def test_chunks_of_other_size_are_as_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.training.rounding.CHUNK", 7)
    exact, ours = (optimizer(torch.full((5, 5), 0.05), **told) for told in ({}, BF16))
    for made in (exact, ours):
        take(made, 20)
    assert torch.allclose(weights_of(ours), weights_of(exact), rtol=1e-5)


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make trainings fail at a step, with the state of the step before it sealed."""
    inner = loop.Run._step

    def failing(self: Any, now: int, *rest: Any) -> Any:
        if now == step:
            raise RuntimeError("the machine broke")
        return inner(self, now, *rest)

    monkeypatch.setattr(loop.Run, "_step", failing)
    monkeypatch.setattr(loop, "RESUME_EVERY_S", 0.0)


def wide(store: Store, **told: Any) -> dict[str, Any]:
    """A description of a short `sft` job of a model with larger tensors."""
    job = sft(store, **told)
    return describe("sft", job["config"], {**job["inputs"], "model": declared("models", WIDE, "Model")})


def tensors(told: Any) -> Iterator[Tensor]:
    """All tensors within dictionaries."""
    for value in told.values():
        yield from tensors(value) if isinstance(value, dict) else [value] if torch.is_tensor(value) else []


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The curve with states in fp32."""
    store = Store(tmp_path_factory.mktemp("exact") / "store")
    return curve(run(store, wide(store)))


@pytest.mark.parametrize(("told", "kept"), [(BF16, torch.bfloat16), (EIGHT, torch.uint8)])
def test_stopped_it_goes_on_with_the_same_bits_near_fp32(
    store: Store,
    tmp_path: Path,
    told: dict[str, Any],
    kept: torch.dtype,
    exact: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = Store(tmp_path / "other")
    whole = run(other, wide(other, **told))
    job = wide(store, **told)
    with monkeypatch.context() as broken:
        stop_at(7, broken)
        assert run_job(store, job) is Outcome.FAILED
    sealed = state.newest(scratch(store, job))
    assert sealed is not None
    states = torch.load(sealed / "state.pt", weights_only=True)["optimizer"]["state"]
    assert {tensor.dtype for tensor in tensors(states) if tensor.numel() >= 4096} == {kept}
    assert digest(run(store, job)) == digest(whole)
    assert curve(whole) != exact
    for ours, theirs in zip(curve(whole), exact, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=0.02)


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({**BF16, **parallel(2, "zero2")}, "DeepSpeed keeps `optimizer_states` in fp32"),
        ({**EIGHT, **parallel(2, "zero1")}, "DeepSpeed keeps `optimizer_states` in fp32"),
        ({**EIGHT, "parallel": {"processes": 2, "sharding": "fsdp2"}}, "set `bf16` or `fp32`"),
    ],
)
def test_what_keeps_its_own_states_is_refused(told: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        optimizer(torch.ones(2, 2), **told)


def test_without_the_package_the_job_and_preflight_say_so(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.training.needs.find_spec", lambda name: None)
    job = sft(store, **EIGHT)
    assert run_job(store, job) is Outcome.REFUSED
    way_out = "pip install 'alignc[quantization]', or leave the setting out"
    assert way_out in failure(store, job)["message"]
    assert way_out in look(open_job(store, job)).refused[0]
