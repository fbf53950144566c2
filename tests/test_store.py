"""The store and the job runner: artifacts exist whole or not at all, and every end is told."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import runtime.stage
from runtime.claims import owner_of, try_claim
from runtime.files import read_json, write_json
from runtime.run_job import Outcome, run_job
from runtime.store import Damaged, Store
from tests import support, toy

FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.stage, "_foreign_kinds", toy.known)


# ---------------------------------------------------------------- sealing


def filled(folder: Path, files: int = 12) -> Path:
    (folder / "sub").mkdir(parents=True)
    for number in range(files):
        (folder / ("sub" if number % 2 else ".") / f"file{number}").write_text("x" * 1000 * number)
    return folder


def test_a_sealed_artifact_verifies_and_damage_is_found(store: Store) -> None:
    store.seal("toy", "k", filled(store.work("k") / "out"), {"kind": "toy"})
    assert store.has("toy", "k") and store.sealed() == {"k"}
    assert len(store.manifest("toy", "k")["files"]) == 12
    store.verify("toy", "k", digests=True)
    changed = store.artifact("toy", "k") / "sub" / "file3"
    changed.write_text("y" * 3000)
    store.verify("toy", "k")
    with pytest.raises(Damaged, match="file3 has changed"):
        store.verify("toy", "k", digests=True)
    changed.write_text("y")
    with pytest.raises(Damaged, match="file3 is missing or has another size"):
        store.verify("toy", "k")


def test_the_first_seal_of_a_key_stays(store: Store, tmp_path: Path) -> None:
    for number in (1, 2):
        out = tmp_path / str(number)
        out.mkdir()
        (out / "data").write_text(str(number))
        store.seal("toy", "k", out, {})
    assert (store.artifact("toy", "k") / "data").read_text() == "1"


def test_discarded_work_is_gone_at_once(store: Store) -> None:
    filled(store.work("k") / "out")
    store.discard_work("k")
    store.discard_work("k")
    assert os.listdir(store.root / ".work") == []


def seal(store: Store, key: str, ready: Any) -> None:
    out = filled(store.work(key) / "out")
    ready.set()
    store.seal("toy", key, out, {})


def test_killed_at_any_moment_of_sealing_the_artifact_is_absent_or_whole(store: Store) -> None:
    ready = FORK.Event()
    whole = absent = 0
    started = time.monotonic()
    seal(store, "measured", ready)
    longest = 1.5 * (time.monotonic() - started)
    for number in range(40):
        ready.clear()
        sealer = FORK.Process(target=seal, args=(store, f"k{number}", ready))
        sealer.start()
        ready.wait()
        time.sleep(random.Random(number).random() * longest)
        sealer.kill()
        sealer.join()
        if f"k{number}" in store.sealed():
            store.verify("toy", f"k{number}", digests=True)
            whole += 1
        else:
            assert not store.has("toy", f"k{number}")
            absent += 1
    assert whole and absent


# ---------------------------------------------------------------- running


def described(store: Store, inputs: dict[str, Any] | None = None, **config: Any) -> dict[str, Any]:
    store.root.mkdir(exist_ok=True)
    return support.describe("toy", {"marks": str(store.root.parent / "marks"), **config}, inputs or {})


def started(store: Store, description: dict[str, Any], module: str = "tests.toy") -> subprocess.Popen[str]:
    path = store.root.parent / "description.json"
    write_json(path, description)
    words = [sys.executable, "-m", module, str(store.root), str(path)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def marks(store: Store) -> int:
    path = store.root.parent / "marks"
    return len(path.read_text().splitlines()) if path.exists() else 0


def until(true: Any, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_job_is_done_once_and_tells_how(store: Store) -> None:
    description = described(store)
    assert run_job(store, description) is Outcome.SEALED
    assert run_job(store, description) is Outcome.SEALED
    assert marks(store) == 1
    manifest = store.manifest("toy", description["key"])
    assert manifest["summary"] == {"tries": 1} and manifest["recipe"] == description["recipe"]
    assert manifest["resources"]["used"]["wall_s"] >= 0
    assert os.listdir(store.root / ".work") == []


def test_two_processes_with_one_key_do_the_work_once(store: Store) -> None:
    description = described(store, seconds=0.5)
    both = [started(store, description) for _ in range(2)]
    said = [process.communicate(timeout=30)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert marks(store) == 1 and "already sealed" in "".join(said)
    store.verify("toy", description["key"], digests=True)
    assert os.listdir(store.root / ".work") == []


def test_a_failure_is_recorded_with_its_traceback_until_the_job_succeeds(store: Store) -> None:
    description = described(store, does="fail")
    assert run_job(store, description) is Outcome.FAILED
    assert store.failures() == {description["key"]}
    record = read_json(store.failure(description["key"]))
    assert record["outcome"] == "failed" and record["message"] == "RuntimeError: the toy broke"
    assert "Traceback" in record["traceback"] and "in run" in record["traceback"]
    description["config"]["does"] = "work"
    assert run_job(store, description) is Outcome.SEALED
    assert store.failures() == frozenset()


def test_a_refusal_has_no_traceback(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    description = described(store, does="refuse")
    assert run_job(store, description) is Outcome.REFUSED
    record = read_json(store.failure(description["key"]))
    assert record["outcome"] == "refused" and record["traceback"] == ""
    assert capsys.readouterr().err == "the toy will not; give it another\n"


def test_a_stage_that_exits_has_failed(store: Store) -> None:
    description = described(store, does="exit")
    assert run_job(store, description) is Outcome.FAILED
    assert "SystemExit" in read_json(store.failure(description["key"]))["message"]


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_a_missing_or_damaged_input_blocks(store: Store, damage: str) -> None:
    first = described(store)
    if damage == "damaged":
        (support.run(store, first) / "data.jsonl").unlink()
    second = described(store, {"source": support.made(first, "Prompts", "data.jsonl")}, seconds=0.001)
    assert run_job(store, second) is Outcome.BLOCKED
    assert damage in read_json(store.failure(second["key"]))["message"] or "not there" in str(
        read_json(store.failure(second["key"]))["message"]
    )
    assert owner_of(store.claim_folder(second["key"])) is None


def test_a_blocked_job_ends_within_a_second(store: Store) -> None:
    source = {**described(store), "kind": "prepare"}
    inputs = {
        "model": support.made(source, "Model", "model"),
        "data": support.made(source, "Preferences", "x"),
    }
    config = {"epochs": 1, "learning_rate": 1e-4}
    took: list[float] = []
    while not took or (took[-1] >= 1.0 and len(took) < 5):  # a machine busy with other things may be late
        begun = time.monotonic()
        process = started(store, support.describe("dpo", config, inputs), "runtime.run_job")
        said = process.communicate(timeout=30)[0]
        took.append(time.monotonic() - begun)
        assert process.returncode == Outcome.BLOCKED == 4, said
        assert "is not there" in said and "Traceback" not in said
    assert took[-1] < 1.0, took


def test_a_job_that_is_asked_to_stop_is_interrupted_and_goes_on_later(store: Store) -> None:
    description = described(store, does="hang")
    process = started(store, description)
    until(lambda: marks(store) == 1)
    process.terminate()
    said = process.communicate(timeout=10)[0]
    assert process.returncode == Outcome.INTERRUPTED == 5, said
    record = read_json(store.failure(description["key"]))
    assert record["outcome"] == "interrupted" and "SIGTERM" in record["message"]
    assert (store.work(description["key"]) / "scratch" / "seen").exists()
    description["config"]["does"] = "work"
    assert run_job(store, description) is Outcome.SEALED
    assert store.failures() == frozenset()


def test_a_job_that_is_warned_says_so(store: Store) -> None:
    process = started(store, described(store, does="hang"))
    until(lambda: marks(store) == 1)
    process.send_signal(signal.SIGUSR2)
    said = process.communicate(timeout=10)[0]
    assert process.returncode == Outcome.WARNED == 6, said
    record = read_json(store.failure(described(store, does="hang")["key"]))
    assert record["outcome"] == "warned" and record["message"] == "warned by SIGUSR2 that its time ends"


def test_a_damaged_input_blocks_before_anything_is_claimed(store: Store) -> None:
    first = described(store)
    (support.run(store, first) / "manifest.json").write_text("{")
    second = described(store, {"source": support.made(first, "Prompts", "data.jsonl")}, seconds=0.001)
    claim = try_claim(store.claim_folder(second["key"]))  # else it would wait for this one
    assert claim is not None
    assert run_job(store, second) is Outcome.BLOCKED
    assert "manifest.json cannot be read" in read_json(store.failure(second["key"]))["message"]


def test_the_same_traceback_is_counted(store: Store) -> None:
    description = described(store, does="fail")
    for _ in range(3):
        run_job(store, description)
    assert read_json(store.failure(description["key"]))["repeats"] == 3


def test_a_job_that_waits_for_another_can_be_stopped(store: Store) -> None:
    description = described(store)
    claim = try_claim(store.claim_folder(description["key"]))
    assert claim is not None
    process = started(store, description)
    assert process.stdout is not None and "another process is at work" in process.stdout.readline()
    process.terminate()
    process.communicate(timeout=10)
    assert process.returncode == Outcome.INTERRUPTED
    assert claim.held() and marks(store) == 0


def test_the_work_of_a_killed_job_is_taken_up_at_once(store: Store) -> None:
    description = described(store, does="hang")
    process = started(store, description)
    until(lambda: marks(store) == 1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    description["config"]["does"] = "work"
    begun = time.monotonic()
    assert run_job(store, description) is Outcome.SEALED
    assert time.monotonic() - begun < 10  # a dead owner elsewhere is waited for, `STALE_S`


def test_a_job_that_was_taken_for_dead_seals_nothing(store: Store) -> None:
    description = described(store, does="hang")
    process = started(store, description)
    until(lambda: marks(store) == 1)
    process.send_signal(signal.SIGSTOP)
    stale = store.claim_folder(description["key"]) / "1"
    write_json(stale, {**read_json(stale), "host": "elsewhere"})
    os.utime(stale, (1, 1))
    description["config"]["does"] = "work"
    assert run_job(store, description) is Outcome.SEALED
    process.send_signal(signal.SIGCONT)
    said = process.communicate(timeout=30)[0]
    assert process.returncode == Outcome.SEALED, said  # somebody has sealed it
    assert store.failures() == frozenset()
    store.verify("toy", description["key"], digests=True)


def test_the_runner_leaves_signals_as_they_were(store: Store) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    run_job(store, described(store))
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
