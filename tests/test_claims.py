"""Claims: one owner at a time, whatever races, dies or stands still."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from runtime import claims
from runtime.claims import ClaimLost, owner_of, owner_record, try_claim
from runtime.store import Store

FORK = multiprocessing.get_context("fork")
ROUNDS = 150


def folder(root: Path, number: int) -> Path:
    return root / str(number)


def leave_dead_claim(at: Path) -> None:
    """What a process of this host leaves that was killed while it held a claim."""
    at.mkdir(parents=True)
    (at / "1").write_text(json.dumps({**owner_record(), "pid": 1, "start": "another process's"}))


def race(root: Path, barrier: Any, told: Connection) -> None:
    held = []
    won: list[int] = []
    for number in range(ROUNDS):
        barrier.wait(60)
        claim = try_claim(folder(root, number))
        if claim is not None:
            won.append(number)
            held.append(claim)  # an owner that lives on
    told.send(won)
    barrier.wait(60)


def test_of_processes_that_claim_at_once_exactly_one_wins(tmp_path: Path) -> None:
    for number in range(1, ROUNDS, 2):
        leave_dead_claim(folder(tmp_path, number))
    barrier = FORK.Barrier(3)
    pipes = [FORK.Pipe(duplex=False) for _ in range(3)]
    racers = [FORK.Process(target=race, args=(tmp_path, barrier, tell)) for _, tell in pipes]
    for racer in racers:
        racer.start()
    won = [hear.recv() for hear, _ in pipes]
    for racer in racers:
        racer.join()
    assert sorted(number for numbers in won for number in numbers) == list(range(ROUNDS))
    for number in range(ROUNDS):
        assert all(name.isdigit() for name in os.listdir(folder(tmp_path, number)))


def hold(at: Path, told: Connection) -> None:
    claim = try_claim(at)
    told.send(claim is not None)
    time.sleep(600)


def test_a_killed_owner_is_followed_at_once(tmp_path: Path) -> None:
    hear, tell = FORK.Pipe(duplex=False)
    owner = FORK.Process(target=hold, args=(tmp_path, tell))
    owner.start()
    assert hear.recv() is True
    assert try_claim(tmp_path) is None
    assert (owner_of(tmp_path) or {})["pid"] == owner.pid
    assert owner.pid is not None
    os.kill(owner.pid, signal.SIGKILL)
    owner.join()
    assert owner_of(tmp_path) is None
    claim = try_claim(tmp_path)
    assert claim is not None and claim.generation == 2


def test_a_released_claim_is_free(tmp_path: Path) -> None:
    first = try_claim(tmp_path)
    assert first is not None and try_claim(tmp_path) is None
    first.release()
    assert owner_of(tmp_path) is None
    second = try_claim(tmp_path)
    assert second is not None and second.generation == 2
    assert not first.held() and second.held()


def test_an_owner_on_another_host_lives_as_long_as_it_touches_its_file(tmp_path: Path) -> None:
    path = tmp_path / "1"
    path.write_text(json.dumps({**owner_record(), "host": "elsewhere", "pid": 1}))
    assert try_claim(tmp_path) is None
    late = time.time() - claims.STALE_S - 1
    os.utime(path, (late, late))
    assert try_claim(tmp_path) is not None


@pytest.mark.parametrize("content", ["", '{"host": "cut o'])
def test_a_record_that_was_cut_off_is_nobodys(tmp_path: Path, content: str) -> None:
    (tmp_path / "1").write_text(content)
    assert owner_of(tmp_path) is None
    assert try_claim(tmp_path) is not None


def test_a_record_that_cannot_be_read_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()  # reading it is an OSError, as from a server that does not answer
    assert try_claim(tmp_path) is None


def test_an_owner_learns_that_it_lost_its_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "BEAT_S", 0.01)
    lost: list[bool] = []
    claim = try_claim(tmp_path, lost=lambda: lost.append(True))
    assert claim is not None
    claim.check()
    before = claim.path.stat().st_mtime_ns
    time.sleep(0.1)
    assert claim.path.stat().st_mtime_ns > before and not lost
    (tmp_path / "2").write_text(json.dumps(owner_record()))
    end = time.monotonic() + 5
    while not lost and time.monotonic() < end:
        time.sleep(0.01)
    assert lost == [True]
    with pytest.raises(ClaimLost):
        claim.check()
    claim.release()
    assert json.loads((tmp_path / "2").read_text()) == owner_record() | {
        "since": pytest.approx(time.time(), abs=60)
    }


KEYS = 60


def work_through(store: Store, barrier: Any) -> None:
    """What jobs of the same keys do: claim, look, work, seal, release, discard."""
    for number in range(KEYS):
        key = f"k{number}"
        barrier.wait(60)
        while not store.has("toy", key):
            claim = try_claim(store.claim_folder(key))
            if claim is None:
                continue
            if not store.has("toy", key):
                with (store.root.parent / "marks").open("a") as marks:
                    marks.write(f"{key}\n")
                out = store.work(key) / "out"
                out.mkdir()
                store.seal("toy", key, out, {})
            claim.release()
            store.discard_work(key)


def test_work_is_done_once_though_its_claim_goes_with_it(store: Store) -> None:
    barrier = FORK.Barrier(3)
    workers = [FORK.Process(target=work_through, args=(store, barrier)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert (store.root.parent / "marks").read_text().split() == [f"k{n}" for n in range(KEYS)]


# Task and turn of this process, seconds since the owner elsewhere was heard of -> whether it may follow it.
TURNS = [
    ("7", 1, 61, True),
    ("7", 1, 30, False),  # a node that was cut off, or lost its slurmd only, may be at work yet
    ("7", 0, 61, False),  # it is no later turn
    ("8", 1, 61, False),
    (None, 1, 61, False),
]


@pytest.mark.parametrize(("task", "turn", "silent", "follows"), TURNS)
def test_a_later_turn_of_a_slurm_task_follows_a_silent_one_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str | None, turn: int, silent: float, follows: bool
) -> None:
    path = tmp_path / "1"
    path.write_text(json.dumps({**owner_record(), "host": "n1", "node": "n1", "task": "7", "turn": 0}))
    then = time.time() - silent
    os.utime(path, (then, then))
    monkeypatch.setattr(claims, "slurm_id", lambda: task)
    monkeypatch.setattr(claims, "turn", lambda: turn)
    assert (try_claim(tmp_path) is not None) is follows
    assert sorted(os.listdir(tmp_path)) == (["1", "2"] if follows else ["1"])


def test_the_node_of_the_last_owner_is_known_when_that_is_dead(tmp_path: Path) -> None:
    assert claims.last_node(tmp_path) == ""
    leave_dead_claim(tmp_path / "k")
    assert claims.last_node(tmp_path / "k") == owner_record()["node"]
    (tmp_path / "2").write_text(json.dumps({"node": "n2"}))
    assert claims.last_node(tmp_path) == "n2"
