"""The `dpo` stage end to end: step 0, rewards, and reference log-probabilities computed once."""

from __future__ import annotations

from math import log
from typing import Any

import pytest

from runtime.files import read_rows
from runtime.run_job import Outcome, run_job
from runtime.store import Store
from runtime.training import dpo as dpo_module
from runtime.training import loop
from tests.support import describe, made, run, scratch
from tests.tiny import curve, digest, dpo, failure, preferences, sft, summary


@pytest.fixture
def start(store: Store) -> dict[str, Any]:
    """A model to start from."""
    job = sft(store, epochs=1)
    run(store, job)
    return made(job, "Model", "model")


def test_step_0_has_no_reward_and_the_margin_grows(store: Store, start: dict[str, Any]) -> None:
    job = dpo(store, start)
    folder = run(store, job)
    rows = curve(folder)
    assert rows[0]["loss"] == pytest.approx(log(2), abs=1e-5)
    assert rows[0]["reward_chosen"] == pytest.approx(0, abs=1e-5)
    assert rows[-1]["margin"] > 0.05 and rows[-1]["accuracy"] == 1.0 and rows[-1]["loss"] < log(2)
    assert {p.name for p in folder.iterdir()} >= {"model", "training.jsonl"}
    assert summary(store, job)["truncation"]["kept"] == 40
    assert not any(name.startswith("_") for name in rows[0])


@pytest.mark.parametrize("loss", ["ipo", "ipo_mean"])
def test_ipo_starts_at_its_own_value(store: Store, start: dict[str, Any], loss: str) -> None:
    rows = curve(run(store, dpo(store, start, loss=loss, beta=0.5, learning_rate=1e-4)))
    assert rows[0]["loss"] == pytest.approx(1.0, abs=1e-4)
    assert rows[-1]["loss"] < rows[0]["loss"]


@pytest.mark.parametrize(("told", "first"), [({"loss": "apo_zero"}, 1.0), ({"label_smoothing": 0.2}, log(2))])
def test_other_losses_start_at_their_own_value(
    store: Store, start: dict[str, Any], told: dict[str, Any], first: float
) -> None:
    rows = curve(run(store, dpo(store, start, **{"loss": "robust", **told})))
    assert rows[0]["loss"] == pytest.approx(first, abs=1e-4)
    assert rows[-1]["loss"] < rows[0]["loss"] and rows[-1]["margin"] > 0


def test_simpo_asks_no_reference(store: Store, start: dict[str, Any]) -> None:
    job = dpo(store, start, loss="simpo", beta=2.0, gamma=0.5)
    rows = curve(run(store, job))
    assert not (scratch(store, job) / dpo_module.REFERENCE).exists()
    assert rows[0]["margin"] != pytest.approx(0, abs=1e-3)
    assert rows[-1]["loss"] < rows[0]["loss"] and rows[-1]["margin"] > rows[0]["margin"]


def test_label_smoothing_changes_the_training(store: Store, start: dict[str, Any]) -> None:
    rows = [curve(run(store, dpo(store, start, label_smoothing=e)))[-1]["margin"] for e in (0.0, 0.3)]
    assert rows[1] < rows[0]


def test_a_wrong_reference_is_noticed(
    store: Store, start: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = dpo_module.reference_logps
    monkeypatch.setattr(dpo_module, "reference_logps", lambda *a: right(*a) + 0.1)
    job = dpo(store, start)
    assert run_job(store, job) is Outcome.FAILED
    assert "before the first step the policy must equal its reference" in failure(store, job)["message"]


def test_reference_is_computed_once(
    store: Store, start: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that failed after the reference finds it again, but for a torn last line."""
    scored: list[int] = []
    right = dpo_module._score_group

    def counted(group: Any, *rest: Any) -> Any:
        scored.append(len(group))
        return right(group, *rest)

    def fail(self: Any) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(dpo_module, "_score_group", counted)
    job = dpo(store, start)
    with monkeypatch.context() as broken:
        broken.setattr(loop.Run, "finish", fail)
        assert run_job(store, job) is Outcome.FAILED
    assert sum(scored) == 40
    path = scratch(store, job) / dpo_module.REFERENCE
    assert next(read_rows(path)).keys() == {"data"}
    path.write_text(path.read_text()[:-5])
    run(store, job)
    assert sum(scored) == 41


def test_repeated_ids_are_refused(store: Store, start: dict[str, Any]) -> None:
    job = dpo(store, start, [*preferences(3), *preferences(1)])
    assert run_job(store, job) is Outcome.REFUSED
    assert "ids repeat" in failure(store, job)["message"]


def test_a_reference_made_once_gives_the_same_bits(store: Store, start: dict[str, Any]) -> None:
    """Whether a run computes its reference itself or reads it is not seen in what comes out."""
    rows = preferences()
    alone = run(store, dpo(store, start, rows))
    told = dpo(store, start, rows)
    lengths = {name: told["config"][name] for name in ("max_length", "max_prompt_length", "batch_size")}
    inputs = {name: told["inputs"][name][0] for name in ("model", "data")}
    reference = describe("reference", lengths, inputs)
    run(store, reference)
    assert summary(store, reference) == {"pairs": 40}
    reading = {**inputs, "reference": made(reference, "ReferenceLogps", "reference.jsonl")}
    config = {k: v for k, v in told["config"].items() if k not in (*inputs, "kind")}
    assert digest(run(store, describe("dpo", config, reading))) == digest(alone)


def test_a_reference_of_other_pairs_is_refused(store: Store, start: dict[str, Any]) -> None:
    other = dpo(store, start, preferences(20))
    inputs = {name: other["inputs"][name][0] for name in ("model", "data")}
    reference = describe("reference", {"max_length": 96, "max_prompt_length": 64}, inputs)
    run(store, reference)
    told = dpo(store, start)
    told["inputs"]["reference"] = [made(reference, "ReferenceLogps", "reference.jsonl")]
    assert run_job(store, told) is Outcome.REFUSED
    assert "computed for other pairs" in failure(store, told)["message"]
