"""Answers that jobs share: asked once by all, and only where it is the same question."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from compiler.output.describe import describe_jobs, write_descriptions
from runtime.declare import LLM
from runtime.llms import client, shared
from runtime.llms.base import Failure, Message, Outcome, Reply, Request
from runtime.llms.client import ask_all
from runtime.llms.ledger import Ledger
from runtime.llms.shared import FOLDER, Shelf
from runtime.run_job import Outcome as End
from runtime.run_job import run_job
from runtime.store import Store
from tests.compiler.specs import compile_text
from tests.judge_server import JudgeServer, error

pytestmark = pytest.mark.sdk


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeServer]:
    monkeypatch.setattr(client, "BACKOFF_S", 0.01)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with JudgeServer(answer=lambda seen: f"re: {seen.text}") as running:
        yield running


def llm(server: JudgeServer, **more: Any) -> LLM:
    value = {"provider": "openai", "model": "judge-2024", "base_url": server.openai, **more}
    limits = {"concurrency": 4, "attempts": 2}
    prices = {"usd_per_million_input": 1, "usd_per_million_output": 1}
    return TypeAdapter[LLM](LLM).validate_python({"limits": limits, **prices, **value})


def requests(n: int, **more: Any) -> list[Request]:
    return [Request(f"r{i}", (Message("user", f"question {i}"),), **more) for i in range(n)]


def job(store: Path, name: str, declared: LLM, asked: list[Request], role: str = "label") -> Ledger:
    """What a job of this name asks in a store; returns its ledger."""
    shelf = Shelf(store / FOLDER, role, name)
    with Ledger(store / ".work" / name / "ledger.jsonl", None, shelf) as ledger:
        ask_all(declared, asked, ledger)
    return ledger


def lines(ledger: Ledger) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ledger.path.read_text().splitlines()]


def texts(ledger: Ledger) -> list[str]:
    def words(outcome: Outcome) -> str:
        return outcome.text if isinstance(outcome, Reply) else f"!{outcome.kind}"

    return [words(outcome) for outcome in ledger.outcomes.values()]


def test_a_larger_job_asks_only_what_is_new(server: JudgeServer, tmp_path: Path) -> None:
    first = job(tmp_path, "one", llm(server), requests(3))
    second = job(tmp_path, "two", llm(server), requests(5))
    assert Counter(seen.text for seen in server.seen) == {f"question {i}": 1 for i in range(5)}
    assert sorted(texts(second)) == [f"re: question {i}" for i in range(5)]
    assert (first.totals().shared, first.totals().replies) == (0, 3)
    assert (second.totals().shared, second.totals().replies) == (3, 2)
    (folder,) = (tmp_path / FOLDER).iterdir()
    (file,) = folder.glob("one.*")
    assert folder.name.startswith("judge-2024-")
    taken = [line for line in lines(second) if line["attempts"] == 0]
    assert [(line["cost_usd"], line["model"]) for line in taken] == [(0.0, "judge-2024-snapshot")] * 3
    assert all(line["raw"] == {"shared": f"{folder.name}/{file.name}"} for line in taken)
    with Ledger(second.path) as again:  # as a later try opens it
        assert again.totals() == second.totals()
    third = job(tmp_path, "three", llm(server), requests(5))
    assert len(server.seen) == 5 and third.totals().cost_usd == 0
    assert len(list(folder.iterdir())) == 2, "who got nothing new shares nothing"


SPEC = """\
experiment: {name}
llms: {{api: {{provider: openai, model: m, base_url: "{url}", usd_per_million_input: 0,
             usd_per_million_output: 1}}}}
sources: {{tasks: {{kind: world, size: 20}}}}
stages:
  prompts: {{kind: prepare, source: tasks, limit: {limit}}}
  answers: {{kind: demonstrate, prompts: prompts, teacher: api}}
"""


def test_a_second_experiment_pays_for_what_it_adds(server: JudgeServer, tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    for name, limit in (("small", 3), ("large", 5)):
        text = SPEC.format(name=name, url=server.openai, limit=limit)
        program = compile_text(tmp_path, text)
        write_descriptions(store, program, set(program.keys))
        for description in describe_jobs(program):
            assert run_job(store, description) is End.SEALED
    assert len(server.seen) == 5
    told = store.manifest("demonstrate", description["key"])["summary"]
    assert (told["requests"], told["shared"], told["answered"]) == (2, 3, 5)
    assert told["dollars"] == pytest.approx(2 * 4e-6)  # four tokens each


# What the second job does otherwise -> whether it asks anew.
OTHERWISE: dict[str, tuple[dict[str, Any], bool]] = {
    "nothing": ({}, False),
    "another role, greedy": ({"role": "evaluate"}, False),
    "sampled": ({"first": {"temperature": 1.0}, "asked": {"temperature": 1.0}}, False),
    "sampled, another role": (
        {"first": {"temperature": 1.0}, "asked": {"temperature": 1.0}, "role": "evaluate"},
        True,
    ),
    "sampled, another draw": (
        {"first": {"temperature": 1.0}, "asked": {"temperature": 1.0, "seed": 1}},
        True,
    ),
    "greedy, another repeat": ({"asked": {"seed": 1}}, True),
    "another temperature": ({"asked": {"temperature": 0.5}}, True),
    "another length": ({"asked": {"max_tokens": 7}}, True),
    "another model": ({"llm": {"model": "judge-2025"}}, True),
    "another system prompt": ({"llm": {"system": "Be brief."}}, True),
    "not to be shared": ({"llm": {"shared": False}}, True),
    "other limits and prices": ({"llm": {"limits": {"concurrency": 1}, "usd_per_million_input": 9}}, False),
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_what_is_the_same_question(server: JudgeServer, tmp_path: Path, name: str) -> None:
    told, anew = OTHERWISE[name]
    job(tmp_path, "one", llm(server), requests(2, **told.get("first", {})))
    asked = requests(2, **told.get("asked", {}))
    job(tmp_path, "two", llm(server, **told.get("llm", {})), asked, told.get("role", "label"))
    assert len(server.seen) == (4 if anew else 2)


def test_another_address_or_store_is_asked_itself(server: JudgeServer, tmp_path: Path) -> None:
    job(tmp_path / "a", "one", llm(server), requests(2))
    job(tmp_path / "b", "two", llm(server), requests(2))
    job(tmp_path / "a", "three", llm(server, base_url=f"{server.openai}/"), requests(2))  # the same
    job(tmp_path / "a", "four", llm(server, base_url=f"http://localhost:{server.port}/v1"), requests(2))
    assert len(server.seen) == 6


def test_what_is_not_shared_is_not_given_either(server: JudgeServer, tmp_path: Path) -> None:
    job(tmp_path, "one", llm(server, shared=False), requests(2))
    assert not (tmp_path / FOLDER).exists()


def test_failures_and_empty_replies_are_asked_by_everybody(server: JudgeServer, tmp_path: Path) -> None:
    server.answer = lambda seen: " " if seen.text == "question 0" else "yes"
    server.script = lambda number, seen: error(500) if seen.text == "question 1" else None
    assert sorted(texts(job(tmp_path, "one", llm(server), requests(3)))) == [" ", "!server", "yes"]
    server.answer, server.script, before = (lambda seen: "now"), None, len(server.seen)
    assert sorted(texts(job(tmp_path, "two", llm(server), requests(3)))) == ["now", "now", "yes"]
    assert len(server.seen) - before == 2


def test_lines_in_the_making_and_damaged_ones_are_passed_over(server: JudgeServer, tmp_path: Path) -> None:
    job(tmp_path, "one", llm(server), requests(2))
    (file,) = (tmp_path / FOLDER).glob("*/*.jsonl")
    first, second = file.read_bytes().splitlines(keepends=True)
    damaged = first.replace(b'"reply"', b'"x"') + first.replace(b"}", b"") + b"\xff\n\n[]\n"
    file.write_bytes(damaged + second[:-5])
    shelf = Shelf(tmp_path / FOLDER, "label", "two")
    todo = [(request.content_key(), request) for request in requests(2)]
    answers = shelf.of(llm(server), todo)
    assert answers is not None and [answers.take(key) for key, _ in todo] == [None, None]
    with file.open("ab") as other:  # the other process goes on writing
        other.write(second[-5:] + first)
    answers._due = 0.0
    found = [answers.take(key) for key, _ in todo]
    assert sorted(reply.text for reply in found if reply) == ["re: question 0", "re: question 1"]


def test_two_jobs_at_once(server: JudgeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both get every answer; what one has, the other does not ask, though it began without it."""
    monkeypatch.setattr(shared, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(shared, "LOOK_SHARE", 0.0)
    server.latency = 0.01
    ledgers: list[Ledger] = []

    def run(name: str, asked: list[Request]) -> None:
        ledgers.append(job(tmp_path, name, llm(server), asked))

    asked = requests(60)
    both = [
        threading.Thread(target=run, args=("one", asked)),
        threading.Thread(target=run, args=("two", asked[::-1])),
    ]
    for each in both:
        each.start()
    for each in both:
        each.join(60)
    assert [sorted(texts(ledger)) for ledger in ledgers] == [
        sorted(f"re: question {i}" for i in range(60)) for _ in range(2)
    ]
    totals = [ledger.totals() for ledger in ledgers]
    assert sum(each.replies for each in totals) == len(server.seen) < 90
    assert [each.replies + each.shared for each in totals] == [60, 60]


def test_free_models_share_nothing(tmp_path: Path) -> None:
    declared = TypeAdapter[LLM](LLM).validate_python({"provider": "simulated"})
    asked = [Request("r0", (Message("user", "x"),), context={"task": "complete", "prompt": "x"})]
    job(tmp_path, "one", declared, asked)
    assert not (tmp_path / FOLDER).exists()


def test_all_shared_needs_no_key(
    server: JudgeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is asked, so nobody has to let us in."""
    monkeypatch.setenv("SOME_KEY", "k")
    job(tmp_path, "one", llm(server, api_key_env="SOME_KEY"), requests(2))
    monkeypatch.setenv("SOME_KEY", "\u2026")
    outcomes = job(tmp_path, "two", llm(server, api_key_env="SOME_KEY"), requests(2)).outcomes
    assert not any(isinstance(outcome, Failure) for outcome in outcomes.values())
