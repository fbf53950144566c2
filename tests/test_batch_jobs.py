"""Jobs that ask in batches: the same artifact as live, one budget for all, turns of Slurm that wait."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compiler.commands.cancel import _tell_batches
from compiler.output.describe import describe_jobs, write_descriptions
from runtime import judging
from runtime.files import read_json, read_rows, write_json
from runtime.llms import batch
from runtime.llms.batch_log import BatchLog, batches_of
from runtime.run_job import Outcome, run_job
from runtime.slurm.requeue import IDLE_TURNS, idle_turns, take_another_turn
from runtime.spending import spent
from runtime.store import Store
from tests.batch_server import BatchServer, Call, CutOff
from tests.compiler.specs import compile_text

pytestmark = pytest.mark.sdk
PAIRS = 20
SPEC = """\
experiment: asked
axes: {{seed: [0, 1]}}
llms:
  strong: {{provider: simulated}}
  weak: {{provider: simulated, error_rate: 1.0}}
  judge: {{provider: openai, model: some-judge, base_url: "{url}", usd_per_million_input: 1000,
          usd_per_million_output: 1000, mode: {mode}}}
sources: {{tasks: {{kind: world, size: {pairs}}}}}
stages:
  prompts: {{kind: prepare, source: tasks}}
  right: {{kind: demonstrate, prompts: prompts, teacher: strong}}
  wrong: {{kind: demonstrate, prompts: prompts, teacher: weak, seed: "${{seed}}"}}
  labels: {{kind: label, critic: judge, a: right, b: wrong, coin_seed: "${{seed}}"}}
budget: {{usd: {usd}}}
"""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[BatchServer]:
    monkeypatch.setattr(batch, "FIRST_POLL_S", 0.002)
    monkeypatch.setattr(batch, "SILENCES", 2)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with BatchServer() as running:
        yield running


def prepared(folder: Path, server: BatchServer, mode: str, usd: float = 100) -> tuple[Store, dict[str, Any]]:
    """A store in which everything is made but the labels, and the jobs that make these."""
    folder.mkdir(exist_ok=True)
    program = compile_text(folder, SPEC.format(url=server.openai, mode=mode, pairs=PAIRS, usd=usd))
    store, jobs = Store(folder / "store"), list(describe_jobs(program))
    write_descriptions(store, program, set(program.keys))
    for job in jobs:
        if job["kind"] != "label":
            assert run_job(store, job) is Outcome.SEALED
    return store, {job["id"]: job for job in jobs if job["kind"] == "label"}


def test_live_and_batch_make_the_same_artifact(tmp_path: Path, server: BatchServer) -> None:
    made = {}
    for mode in ("live", "batch"):
        store, jobs = prepared(tmp_path / mode, server, mode)
        job = jobs["labels[seed=0]"]
        assert run_job(store, job) is Outcome.SEALED
        folder = store.artifact("label", job["key"])
        rows = [list(read_rows(folder / name)) for name in ("data.jsonl", "verdicts.jsonl")]
        made[mode] = job["key"], rows, read_json(folder / "manifest.json")["summary"]
    assert made["batch"][:2] == made["live"][:2] and len(server.batches) == 1
    told = made["batch"][2]
    assert told["dollars"] == pytest.approx(made["live"][2]["dollars"] / 2)
    assert told["dollars_per_preference"] == told["dollars"] / told["decided"]


def test_what_is_under_way_counts_against_the_budget(
    tmp_path: Path, server: BatchServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Room for one batch: while it is at work, no other job sends one, and nobody pays for it twice."""

    def script(call: Call) -> None:
        if call.method == "GET":
            raise CutOff

    server.script = script
    store, jobs = prepared(tmp_path, server, "batch", usd=5)
    one, two = jobs.values()
    assert run_job(store, one) is Outcome.REFUSED and len(server.batches) == 1
    program = compile_text(tmp_path, SPEC.format(url=server.openai, mode="batch", pairs=PAIRS, usd=5))
    _tell_batches(program, store, range(len(program.graph.nodes)))
    assert "batches of labels[seed=0] are still under way" in capsys.readouterr().out
    found = spent(store, "asked")
    assert found.usd == 0 and 2.5 < found.held_usd < 5
    assert run_job(store, two) is Outcome.REFUSED and len(server.batches) == 1
    assert "over budget: of $5.00" in read_json(store.failure(two["key"]))["message"]
    server.script = lambda call: None
    assert run_job(store, one) is Outcome.SEALED and len(server.batches) == 1
    found = spent(store, "asked")
    assert 0 < found.usd < 2.5 and found.held_usd == 0
    assert run_job(store, two) is Outcome.SEALED


def test_a_job_that_goes_on_live_keeps_all_answers_of_its_batch(
    tmp_path: Path, server: BatchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those of pairs that a live job would read later than the first."""

    def script(call: Call) -> None:
        if call.method == "GET":
            raise CutOff

    server.script = script
    store, jobs = prepared(tmp_path, server, "batch")
    job = jobs["labels[seed=0]"]
    assert run_job(store, job) is Outcome.REFUSED and len(server.batches) == 1
    server.script = lambda call: None
    monkeypatch.setattr(judging, "AT_ONCE", 6)
    again = prepared(tmp_path, server, "live")[1]["labels[seed=0]"]
    assert again["key"] == job["key"] and run_job(store, again) is Outcome.SEALED
    assert server.batches[0].cancelled and set(server.paid.values()) == {1}


def test_a_job_that_is_warned_leaves_its_batch_to_the_next_turn(tmp_path: Path, server: BatchServer) -> None:
    def script(call: Call) -> None:
        if call.method == "GET":
            os.kill(os.getpid(), signal.SIGUSR2)

    store, jobs = prepared(tmp_path, server, "batch")
    job = jobs["labels[seed=0]"]
    server.script = script
    assert run_job(store, job) is Outcome.WARNED
    assert len(batches_of(store, job["key"])) == 1
    server.script = lambda call: None
    assert run_job(store, job) is Outcome.SEALED and len(server.batches) == 1


def test_a_turn_that_waits_for_a_batch_is_not_idle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, asked = Store(tmp_path), {"key": "after-a-choice"}
    write_json(store.realised("after-a-choice"), {"key": "realised"})
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("PATH", "")  # Slurm refuses
    log = BatchLog(store.work("realised") / "scratch" / "batches.jsonl")
    made = log.meant("t", ["a"], 1.0)
    for _ in range(IDLE_TURNS + 1):
        take_another_turn(store, asked)
    assert idle_turns(store, "after-a-choice") == 1  # the first that is
    log.dropped(made)
    for _ in range(IDLE_TURNS - 1):
        take_another_turn(store, asked)
    assert not (store.work("after-a-choice") / "turns.json").exists()  # the third
