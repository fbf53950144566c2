"""Budgets while jobs run: dollars are held before each request, GPU-hours before each job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from compiler.output.describe import describe_jobs, write_descriptions
from compiler.program import Program
from runtime.files import read_json, write_json
from runtime.llms.base import Fatal
from runtime.llms.purse import Purse
from runtime.run_job import Outcome, run_job
from runtime.spending import spent
from runtime.store import Store
from tests.commands import alignc, artifacts
from tests.compiler.specs import compile_text
from tests.judge_server import Fault, JudgeServer, Seen, openai_reply

PAIRS = 40
SPEC = """\
experiment: asked
axes: {seed: SEEDS}
llms:
  strong: {provider: simulated}
  weak: {provider: simulated, error_rate: 1.0}
  judge: {provider: openai, model: some-judge, base_url: "URL", usd_per_million_input: 1,
          usd_per_million_output: 1, limits: {concurrency: 1}}
sources: {tasks: {kind: world, size: PAIRS}}
stages:
  prompts: {kind: prepare, source: tasks}
  right: {kind: demonstrate, prompts: prompts, teacher: strong}
  wrong: {kind: demonstrate, prompts: prompts, teacher: weak, seed: "${seed}"}
  labels: {kind: label, critic: judge, a: right, b: wrong, coin_seed: "${seed}"}
budget: {usd: 1}
"""


def expensive(number: int, seen: Seen) -> Fault:
    """A reply that costs ten cents at a dollar for a million tokens, far more than anybody expects."""
    body = {**openai_reply(seen, "Output (a)"), "usage": {"prompt_tokens": 100_000, "completion_tokens": 0}}
    return Fault(200, body=body)


def write_spec(folder: Path, server: JudgeServer, seeds: str = "[0]") -> None:
    text = SPEC.replace("SEEDS", seeds).replace("URL", server.openai).replace("PAIRS", str(PAIRS))
    (folder / "asked.yaml").write_text(text)


@pytest.mark.sdk
def test_dollars_are_held_before_each_request(tmp_path: Path) -> None:
    with JudgeServer(script=expensive) as server:
        write_spec(tmp_path, server)
        text = alignc("run", "asked.yaml", "--store", "s", cwd=tmp_path, code=1)
        assert "REFUSED labels[seed=0]: over budget: of $1.00 the experiment has spent $1.0000" in text
        assert len(server.seen) == 10
        # What was spent counts at the next start, and what was answered is not asked again.
        text = alignc("run", "asked.yaml", "--store", "s", cwd=tmp_path, code=2)
        assert "AC503" in text and "$1.00 spent" in text and len(server.seen) == 10
        alignc("run", "asked.yaml", "--store", "s", "--set", "budget.usd=20", cwd=tmp_path)
        assert len(server.seen) == PAIRS and "label" in artifacts(tmp_path / "s").values()
    found = spent(Store(tmp_path / "s"), "asked")
    assert found.usd == pytest.approx(0.1 * PAIRS) and not found.unsealed_usd
    alignc("run", "asked.yaml", "--store", "s", cwd=tmp_path)  # nothing is left to pay for
    told = json.loads(
        alignc("plan", "asked.yaml", "--store", "s", "--format", "json", cwd=tmp_path, errors=False)
    )
    assert told["cost"]["budget"]["usd"] == {
        "limit": 1.0,
        "spent": pytest.approx(4.0),
        "likely": 0,
        "over": False,
    }


@pytest.mark.sdk
def test_jobs_side_by_side_share_the_budget(tmp_path: Path) -> None:
    with JudgeServer(script=expensive, latency=0.1) as server:
        write_spec(tmp_path, server, "[0, 1]")
        server.script = lambda n, seen: Fault(slow=0.1) if n % 2 else expensive(n, seen)
        text = alignc("run", "asked.yaml", "--store", "s", cwd=tmp_path, code=1)
        assert text.count("REFUSED labels") == 2
        # Every second reply is dear. Either job looks what the other has spent about twice a second.
        assert 18 <= len(server.seen) <= 34


def test_purses_of_two_jobs_never_exceed_one_limit(tmp_path: Path) -> None:
    store, jobs = prepared(tmp_path)
    keys = [jobs[name]["key"] for name in ("one", "two")]
    for key in keys:
        (store.work(key) / "scratch").mkdir(parents=True)
    first, second = (Purse(store, "gpus", key, limit=1.0) for key in keys)
    first.take(0.6, "request", ahead=0.1)
    with pytest.raises(Fatal, match=r"has spent \$0.0000, \$0.7000 is on its way"):
        second.take(0.4, "batch")
    second.take(0.3, "batch")
    first.take(0.1, "request")  # what it went ahead for; no look at the other is needed
    with pytest.raises(Fatal, match="over budget"):
        first.take(0.1, "request")
    assert spent(store, "gpus").held_usd == pytest.approx(1.0)
    first.give_back(0.7)
    first.own = 0.2
    first.close()
    assert first.words == " (all jobs: $0.20 of $1.00)"
    second.take(0.5, "batch")
    second.close()  # its batches are under way, and nobody has written down a reply yet
    assert spent(store, "gpus").held_usd == pytest.approx(0.2 + 0.8)
    again = Purse(store, "gpus", keys[1], limit=1.0)
    again.owe(0.8)
    with pytest.raises(Fatal, match="over budget"):
        again.take(0.01, "request")
    exact = Purse(store, "another", keys[0], limit=0.3)
    for _ in range(3):  # more than 0.3 by rounding
        exact.take(0.1, "request")
    with pytest.raises(Fatal, match="over budget"):
        exact.take(0.001, "request")


@pytest.mark.sdk
def test_a_budget_without_a_price_is_refused(tmp_path: Path) -> None:
    with JudgeServer() as server:
        write_spec(tmp_path, server)
        gone = ("--set", "llms.judge.usd_per_million_input=null")
        text = alignc("run", "asked.yaml", *gone, cwd=tmp_path, code=2)
        assert "nobody knows the price of judge (some-judge)" in text and "asked.yaml:14:15" in text
        assert not server.seen


# ---------------------------------------------------------------- GPU-hours


def program_with_gpus(folder: Path) -> Program:
    text = "experiment: gpus\nsources: {s: {kind: world, size: 9}}\nbudget: {gpu_hours: 3}\nstages:\n"
    text += "  one: {kind: prepare, source: s, resources: {gpus: 2}}\n"
    text += "  two: {kind: prepare, source: s, limit: 5, resources: {gpus: 2}}\n"
    return compile_text(folder, text + "  three: {kind: prepare, source: s, limit: 4}\n")


def prepared(folder: Path) -> tuple[Store, dict[str, dict[str, Any]]]:
    program, store = program_with_gpus(folder), Store(folder / "s")
    write_descriptions(store, program, set(program.keys))
    return store, {job["id"]: job for job in describe_jobs(program)}


def test_gpu_hours_are_held_before_each_job(tmp_path: Path) -> None:
    store, jobs = prepared(tmp_path)
    assert run_job(store, jobs["one"]) is Outcome.SEALED
    manifest = store.artifact("prepare", jobs["one"]["key"]) / "manifest.json"
    told = read_json(manifest)
    assert told["resources"]["gpu_hours"] == 2 * told["resources"]["used"]["wall_s"] / 3600
    told["resources"]["gpu_hours"] = 3.5
    write_json(manifest, told)
    assert run_job(store, jobs["two"]) is Outcome.REFUSED
    assert (
        "has spent 3.5 GPU-hours, and its budget is 3"
        in read_json(store.failure(jobs["two"]["key"]))["message"]
    )
    assert run_job(store, jobs["three"]) is Outcome.SEALED  # needs no GPU


def test_tries_that_came_to_nothing_count(tmp_path: Path) -> None:
    store, jobs = prepared(tmp_path)
    broken = {**jobs["two"], "version": 99}
    assert run_job(store, broken) is Outcome.REFUSED
    record = read_json(store.failure(jobs["two"]["key"]))
    assert record["gpu_hours"] > 0
    write_json(store.failure(jobs["two"]["key"]), {**record, "gpu_hours": 1.0})
    assert (
        spent(store, "gpus").gpu_hours == 1.0 == spent(store, "gpus").unsealed_gpu_hours[jobs["two"]["key"]]
    )
    assert run_job(store, jobs["two"]) is Outcome.SEALED
    assert 1.0 < spent(store, "gpus").gpu_hours < 1.1


def test_what_sealed_jobs_cost_is_remembered(tmp_path: Path) -> None:
    store, jobs = prepared(tmp_path)
    assert run_job(store, jobs["three"]) is Outcome.SEALED
    spent(store, "gpus")
    assert not (store.experiment("gpus") / "spent.json").exists()  # a plan writes nothing
    spent(store, "gpus", remember=True)
    remembered = store.experiment("gpus") / "spent.json"
    assert list(read_json(remembered)) == [jobs["three"]["key"]]
    write_json(remembered, {jobs["three"]["key"]: [7.0, 8.0]})
    found = spent(store, "gpus")
    assert (found.gpu_hours, found.usd) == (7.0, 8.0)
    assert spent(store, "another").gpu_hours == 0


def test_only_what_is_new_of_a_ledger_is_read(tmp_path: Path) -> None:
    store, jobs = prepared(tmp_path)
    ledger = store.work(jobs["one"]["key"]) / "scratch" / "ledger.jsonl"
    ledger.parent.mkdir(parents=True)
    ledger.write_text('{"cost_usd": 1.5}\n{"cost_usd": null}\nnonsense\n{"cost_u')
    tails: dict[Path, tuple[int, float]] = {}
    assert spent(store, "gpus", tails=tails).usd == 1.5
    ledger.write_text(ledger.read_text() + 'sd": 2}\n')
    assert spent(store, "gpus", tails=tails).usd == 3.5
    ledger.write_text('{"cost_usd": 0.25}\n')  # repaired: it is shorter than before
    assert spent(store, "gpus", tails=tails).usd == 0.25
    assert spent(store, "gpus", without=jobs["one"]["key"]).usd == 0
