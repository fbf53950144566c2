"""Killed at any moment and started again, a run ends with the same bits."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from runtime.files import read_json, write_json
from runtime.run_job import Outcome, run_job
from runtime.slurm.again import read_again, write_again
from runtime.slurm.kinds import Kind, kind_said
from runtime.slurm.policy import Again
from runtime.store import Store
from runtime.training import loop, state
from tests.support import made, run, scratch
from tests.tiny import curve, demonstrations, digest, dpo, failure, in_child, outcome, preferences, sft


def save_always() -> None:
    """Seal a resume state after every step."""
    loop.RESUME_EVERY_S = 0.0


def die_at(operation: int) -> None:
    """Kill this process at its n-th operation that makes something durable or visible."""
    save_always()
    left = [operation]

    def fatal(inner: Any) -> Any:
        def counted(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                signal.raise_signal(signal.SIGKILL)
            return inner(*args, **kwargs)

        return counted

    os.fsync = fatal(os.fsync)
    os.link = fatal(os.link)
    shutil.rmtree = fatal(shutil.rmtree)
    Path.rename = fatal(Path.rename)  # type: ignore[method-assign]
    Path.replace = fatal(Path.replace)  # type: ignore[method-assign]


def jobs(store: Store) -> dict[str, dict[str, Any]]:
    """An sft job and a dpo job that starts from another one, with everything they need."""
    first = sft(store, epochs=1)
    run(store, first)
    return {
        "sft": sft(store, demonstrations(48), batch_size=7, chat="plain"),
        "dpo": dpo(store, made(first, "Model", "model"), preferences(20), batch_size=6),
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    store = Store(tmp_path_factory.mktemp("undisturbed") / "store")
    return {kind: digest(run(store, job)) for kind, job in jobs(store).items()}


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_killed_at_file_operations(store: Store, kind: str, undisturbed: dict[str, dict[str, str]]) -> None:
    """One job is killed again and again, later each time, until a try comes through."""
    job, kills, operation = jobs(store)[kind], 0, 1
    while (code := outcome(in_child(store, job, partial(die_at, operation)))) != Outcome.SEALED:
        assert code == -signal.SIGKILL
        kills, operation = kills + 1, operation + random.Random(operation).randint(5, 40)
    assert kills >= 3
    assert digest(store.artifact(kind, job["key"])) == undisturbed[kind]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_killed_at_any_time(store: Store, kind: str, undisturbed: dict[str, dict[str, str]]) -> None:
    job, draw, kills = jobs(store)[kind], random.Random(kind), 0
    while True:
        pid = in_child(store, job, save_always)
        time.sleep(draw.uniform(0.0, 0.4) * (1 + kills / 10))
        os.kill(pid, signal.SIGKILL)
        if outcome(pid) == Outcome.SEALED:
            break
        kills += 1
    assert digest(store.artifact(kind, job["key"])) == undisturbed[kind]


def test_asked_to_stop_it_saves_its_step_and_goes_on(
    store: Store, undisturbed: dict[str, dict[str, str]]
) -> None:
    job = jobs(store)["sft"]

    def ask_at_step_5() -> None:
        inner = loop.Run._step

        def stopping(self: Any, step: int, *rest: Any) -> Any:
            if step == 5:
                signal.raise_signal(signal.SIGTERM)
            return inner(self, step, *rest)

        loop.Run._step = stopping  # type: ignore[method-assign]

    assert outcome(in_child(store, job, ask_at_step_5)) == Outcome.INTERRUPTED
    sealed = state.newest(scratch(store, job))
    assert sealed is not None
    # The sixth step had begun; the ranks of a run agree on a request to stop within the next one.
    assert read_json(sealed / state.POSITION)["position"]["step"] == 7
    assert digest(run(store, job)) == undisturbed["sft"]


def interrupted(store: Store) -> tuple[dict[str, Any], Path]:
    """A job that was killed with a sealed state, and the folder of that state."""
    job = jobs(store)["sft"]
    assert outcome(in_child(store, job, lambda: die_at(90))) == -signal.SIGKILL
    sealed = state.newest(scratch(store, job))
    assert sealed is not None
    return job, sealed


def test_another_launch_shape_is_refused_with_the_way_out(store: Store) -> None:
    job, sealed = interrupted(store)
    told = read_json(sealed / state.POSITION)
    write_json(sealed / state.POSITION, {**told, "launch": {"zero": 2, "processes": 4}})
    assert run_job(store, job) is Outcome.REFUSED
    message = failure(store, job)["message"]
    assert "begun as ZeRO-2 on 4 processes and cannot go on as plain training" in message
    assert f"remove {sealed}" in message


def test_a_missing_piece_is_an_error_not_another_result(store: Store) -> None:
    job, sealed = interrupted(store)
    (sealed / "state.pt").unlink()
    assert run_job(store, job) is Outcome.FAILED


def test_a_finished_run_that_was_not_sealed_is_not_trained_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = jobs(store)["sft"]
    from runtime.training import launch

    with monkeypatch.context() as broken:
        broken.setattr(launch, "_deliver", lambda job: 1 / 0)
        assert run_job(store, job) is Outcome.FAILED
    monkeypatch.setattr(loop.Run, "_step", lambda *a: pytest.fail("all steps were done"))
    assert len(curve(run(store, job))) == 14


def test_a_run_goes_on_with_smaller_micro_batches(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU is too small for is computed in more parts: the same steps, and it is on record."""
    whole = run(Store(store.root.parent / "whole"), sft(Store(store.root.parent / "whole")))
    inner = loop.Run._gradients

    def limited(self: loop.Run, parts: Any, rate: float, step: int) -> Any:
        if step == 7 and self.config.micro_batch != 8:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return inner(self, parts, rate, step)

    monkeypatch.setattr(loop.Run, "_gradients", limited)
    monkeypatch.setattr(loop, "RESUME_EVERY_S", 0.0)
    job = sft(store, micro_batch=None)
    assert run_job(store, job) is Outcome.FAILED
    assert kind_said(read_json(store.failure(job["key"]))) is Kind.GPU_MEMORY
    write_again(store, job["key"], Again(tries={"out_of_gpu_memory": 1}, micro_batch=8, why="again"))
    artifact = run(store, job)
    manifest = read_json(artifact / "manifest.json")
    assert manifest["config"]["micro_batch"] == manifest["again"]["micro_batch"] == 8
    assert manifest["recipe"] == job["recipe"]
    losses = [[step["loss"] for step in curve(folder)] for folder in (artifact, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert read_again(store, job["key"]) == Again()  # gone with the work
