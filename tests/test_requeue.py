"""A warned job asks for another turn, while its turns get it further."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from runtime import run_task
from runtime.files import read_json, write_json
from runtime.run_job import Outcome
from runtime.signals import HEARD
from runtime.slurm.requeue import IDLE_TURNS, TURNS, idle_turns, take_another_turn
from runtime.slurm.task import slurm_id
from runtime.store import Store
from runtime.training.stops import Stop

IDS: list[tuple[dict[str, str], str | None]] = [
    ({}, None),
    ({"SLURM_JOB_ID": "7"}, "7"),
    # The last task of an array has the array's id: requeueing that would requeue all of them.
    ({"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}, "7_3"),
    ({"SLURM_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}, "7"),  # the index is that of an export's run.sh
]


@pytest.mark.parametrize(("environment", "expected"), IDS)
def test_the_id_of_this_very_task(environment: dict[str, str], expected: str | None) -> None:
    assert slurm_id(environment) == expected


def test_turns_are_idle_until_one_gets_further(store: Store) -> None:
    def turn(done: int) -> int:
        write_json(store.progress("k"), {"done": done})
        return idle_turns(store, "k")

    assert idle_turns(store, "k") == 1  # it told of no progress at all
    assert [turn(done) for done in (5, 5, 4, 6, 7, 7)] == [0, 1, 2, 0, 0, 1]
    assert idle_turns(store, "k", further=True) == 0  # another node of its task was made


@pytest.fixture
def described(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """A job that was warned, on a node without Slurm's commands."""
    write_json(store.failure("k"), {"outcome": "warned", "message": "warned"})
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    return {"key": "k", "id": "tune"}


def test_a_refusal_is_on_record(store: Store, described: dict[str, Any]) -> None:
    assert not take_another_turn(store, described)
    record = read_json(store.failure("k"))
    assert "warned; Slurm did not requeue it: " in record["message"] and "idle" not in record


def test_idle_turns_end_it_and_a_new_submission_begins_to_count_anew(
    store: Store, described: dict[str, Any]
) -> None:
    for _ in range(IDLE_TURNS):
        take_another_turn(store, described)
    record = read_json(store.failure("k"))
    assert f"{IDLE_TURNS} turns in a row got no further" in record["message"]
    assert record["idle"] == IDLE_TURNS
    assert not (store.work("k") / TURNS).exists()


def test_what_was_put_off_is_obeyed_before_the_next_job(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A training that is warned in its last step is sealed; the task's next one is not begun."""
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    before = signal.getsignal(signal.SIGUSR2)
    write_json(tmp_path / "job.json", {"tasks": [["missing.json"]]})
    write_json(tmp_path / "missing.json", {"key": "k", "kind": "toy"})
    monkeypatch.setattr(sys, "argv", ["run_task", str(store.root), str(tmp_path / "job.json")])
    try:
        with Stop():
            signal.raise_signal(signal.SIGUSR2)
        with pytest.raises(SystemExit) as ended:
            run_task.main()
    finally:
        HEARD.clear()
        signal.signal(signal.SIGUSR2, before)
    assert ended.value.code is Outcome.WARNED
