"""Runs that share their first steps: a longer one goes on from a shorter one, with the same bits."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.run_job import Outcome, run_job
from runtime.store import Store
from runtime.training import loop
from tests.support import made, run, scratch
from tests.tiny import curve, demonstrations, digest, dpo, in_child, outcome, preferences, sft


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps that are really taken, in order."""
    taken: list[int] = []
    inner = loop.Run._step

    def noted(self: Any, step: int, *rest: Any) -> Any:
        taken.append(step)
        return inner(self, step, *rest)

    monkeypatch.setattr(loop.Run, "_step", noted)
    return taken


def test_a_longer_run_goes_on_from_a_shorter_one(store: Store, steps: list[int], tmp_path: Any) -> None:
    run(store, sft(store, epochs=1))
    assert steps == list(range(6))
    long = run(store, sft(store, epochs=3))
    assert steps == list(range(18)), "no step is taken twice"
    assert len(curve(long)) == 18
    other = Store(tmp_path / "other")
    assert digest(long) == digest(run(other, sft(other, epochs=3)))


def test_a_falling_schedule_is_shared_where_its_horizon_is(
    store: Store, steps: list[int], tmp_path: Any
) -> None:
    falling: dict[str, Any] = {"schedule": "cosine", "warmup_steps": 2, "horizon": 3}
    run(store, sft(store, epochs=1, **falling))
    long = run(store, sft(store, epochs=3, **falling))
    assert steps == list(range(18))
    other = Store(tmp_path / "other")
    whole = run(other, sft(other, epochs=3, schedule="cosine", warmup_steps=2))
    assert digest(long) == digest(whole)


def test_a_preference_run_goes_on_too(store: Store, tmp_path: Any) -> None:
    def chained(store: Store, *lengths: int) -> dict[str, str]:
        first = sft(store, epochs=1)
        run(store, first)
        start = made(first, "Model", "model")
        return [digest(run(store, dpo(store, start, preferences(20), epochs=n))) for n in lengths][-1]

    assert chained(store, 1, 2) == chained(Store(tmp_path / "other"), 2)


def test_a_shorter_run_after_a_longer_one_leaves_its_state_alone(store: Store, steps: list[int]) -> None:
    long = sft(store, epochs=2)
    run(store, long)
    kept = sorted(p.name for p in scratch(store, long).iterdir())
    short = run(store, sft(store, epochs=1))
    assert steps == [*range(12), *range(6)] and len(curve(short)) == 6
    assert sorted(p.name for p in scratch(store, long).iterdir()) == kept
    run(store, sft(store, epochs=3))
    assert steps[18:] == list(range(12, 18))


def test_a_run_that_stopped_where_a_shorter_one_ends_serves_it(store: Store, steps: list[int]) -> None:
    """A run to epoch 3 is killed after epoch 2; then a run to epoch 2 is asked for."""

    def die_in_epoch_3() -> None:
        import os
        import signal

        inner = loop.Run._step

        def fatal(self: Any, step: int, *rest: Any) -> Any:
            if step == 12:
                os.kill(os.getpid(), signal.SIGKILL)
            return inner(self, step, *rest)

        loop.Run._step = fatal  # type: ignore[method-assign]

    assert outcome(in_child(store, sft(store, epochs=3), die_in_epoch_3)) < 0
    folder = run(store, sft(store, epochs=2))
    assert steps == [] and len(curve(folder)) == 12


def test_two_runs_of_one_trajectory_take_turns(store: Store, tmp_path: Any) -> None:
    rows = demonstrations(48)
    pids = [in_child(store, sft(store, rows, epochs=n)) for n in (1, 2)]
    assert [outcome(pid) for pid in pids] == [Outcome.SEALED, Outcome.SEALED]
    other = Store(tmp_path / "other")
    for n in (1, 2):
        job = sft(store, rows, epochs=n)
        assert digest(store.artifact("sft", job["key"])) == digest(run(other, sft(other, rows, epochs=n)))


def test_a_kept_state_of_other_data_is_not_gone_on_from(store: Store) -> None:
    """Keys tell data apart; should a trajectory ever hold other data, the run says so."""
    job = sft(store, epochs=1)
    run(store, job)
    longer = sft(store, demonstrations(80), epochs=2)
    scratch(store, longer).parent.mkdir(parents=True)
    scratch(store, job).rename(scratch(store, longer))
    assert run_job(store, longer) is Outcome.REFUSED
