"""Simulated teachers and critics: the stated faults at the stated rates, and nothing left to chance."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import ValidationError

from runtime.declare import SimulatedLLM
from runtime.llms.base import Message, Request, Skipped
from runtime.llms.simulated import UNKNOWN, SimulatedProvider, edits, slip
from runtime.world import tasks

ROWS = list(tasks(["copy", "reverse", "spell"], 1500, seed=3))


def provider(**fields: Any) -> SimulatedProvider:
    return SimulatedProvider(SimulatedLLM(provider="simulated", **fields))


def ask(model: SimulatedProvider, temperature: float = 0.0, seed: int | None = None, **context: str) -> str:
    request = Request("1", (Message("user", "x" * 8),), temperature=temperature, seed=seed, context=context)
    return asyncio.run(model.ask(request)).text


def complete(model: SimulatedProvider, prompt: str, **sampling: Any) -> str:
    return ask(model, task="complete", prompt=prompt, **sampling)


def judge(model: SimulatedProvider, prompt: str, first: str, second: str) -> str:
    return ask(model, task="judge", prompt=prompt, first=first, second=second)


# ---------------------------------------------------------------- teachers


def test_a_teacher_without_faults_is_right() -> None:
    model = provider()
    assert all(complete(model, row["prompt"]) == row["answer"] for row in ROWS[:300])


HABITS = [
    ("truncate", "Write 5218 backwards", "812"),
    ("truncate", "Write 528 in words", "five two"),
    ("truncate", "Which digit opens 5218?", "6"),
    ("copy", "Write 5218 backwards", "5218"),
    ("copy", "Please copy 5218", "521"),
    ("shift", "Write 5298 backwards", "9036"),
    ("shift", "Write 528 in words", "five two"),
]


@pytest.mark.parametrize(("habit", "prompt", "answer"), HABITS)
def test_habits(habit: str, prompt: str, answer: str) -> None:
    assert complete(provider(knows=["add"], habit=habit), prompt) == answer


def test_a_habit_spares_what_the_teacher_knows() -> None:
    model = provider(knows=["copy"], habit_rate=0.7)
    right: dict[str, list[bool]] = {"copy": [], "reverse": [], "spell": []}
    for row in ROWS:
        right[row["family"]].append(complete(model, row["prompt"]) == row["answer"])
    assert all(right["copy"])
    assert share(right["reverse"]) == pytest.approx(0.3, abs=0.07)


def test_error_rate_of_a_teacher() -> None:
    model = provider(error_rate=0.2)
    assert share(complete(model, row["prompt"]) != row["answer"] for row in ROWS) == pytest.approx(
        0.2, abs=0.03
    )


def test_answers_depend_on_seed_and_prompt_alone() -> None:
    first = [complete(provider(error_rate=0.5), row["prompt"]) for row in ROWS[:60]]
    again = [complete(provider(error_rate=0.5), row["prompt"]) for row in reversed(ROWS[:60])]
    other = [complete(provider(error_rate=0.5, seed=1), row["prompt"]) for row in ROWS[:60]]
    assert first == again[::-1]
    assert first != other


def test_the_askers_seed_counts_where_one_samples() -> None:
    model = provider(error_rate=0.5)
    drawn = [
        [complete(model, row["prompt"], temperature=t, seed=s) for row in ROWS[:60]]
        for t in (0.0, 1.0)
        for s in (1, 2)
    ]
    assert drawn[0] == drawn[1]
    assert drawn[2] != drawn[3]


def test_a_prompt_that_is_no_task_is_not_answered() -> None:
    assert complete(provider(), "How are you?") == UNKNOWN


# ---------------------------------------------------------------- critics

PROMPT, RIGHT, NEAR, FAR = "Write 5218 backwards", "8125", "812", "5"


@pytest.mark.parametrize(
    ("better", "worse"), [(RIGHT, NEAR), (RIGHT, FAR), (NEAR, FAR), (f" {RIGHT}\n", NEAR)]
)
def test_the_answer_nearer_to_the_truth_wins(better: str, worse: str) -> None:
    model = provider()
    assert judge(model, PROMPT, better, worse) == "Output (a)"
    assert judge(model, PROMPT, worse, better) == "Output (b)"


def test_between_equally_good_answers_a_coin_decides_for_an_answer_not_a_place() -> None:
    model = provider()
    firsts = []
    for row in ROWS:
        verdicts = judge(model, row["prompt"], "x1", "x2"), judge(model, row["prompt"], "x2", "x1")
        assert verdicts in {("Output (a)", "Output (b)"), ("Output (b)", "Output (a)")}
        firsts.append(verdicts[0] == "Output (a)")
    assert share(firsts) == pytest.approx(0.5, abs=0.05)


def test_error_rate_of_a_critic_is_the_same_whatever_the_order() -> None:
    model = provider(error_rate=0.1)
    wrong = [judge(model, row["prompt"], row["answer"], "no") == "Output (b)" for row in ROWS]
    turned = [judge(model, row["prompt"], "no", row["answer"]) == "Output (a)" for row in ROWS]
    assert wrong == turned
    assert share(wrong) == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize(
    ("field", "first"), [("position_bias", "no"), ("length_bias", "very long and wrong")]
)
def test_biases(field: str, first: str) -> None:
    model = provider(**{field: 0.4})
    misled = [
        judge(model, row["prompt"], first, row["answer"]) == "Output (a)"
        for row in ROWS
        if row["family"] != "spell"
    ]
    assert share(misled) == pytest.approx(0.4, abs=0.05)


def test_a_prompt_that_is_no_task_is_judged_by_a_coin() -> None:
    verdicts = {judge(provider(), f"Tell me about {i}", "yes", "no") for i in range(20)}
    assert verdicts == {"Output (a)", "Output (b)"}


# ---------------------------------------------------------------- the rest


def test_a_request_without_context_is_skipped() -> None:
    with pytest.raises(Skipped):
        ask(provider())


def test_a_reply_counts_its_tokens() -> None:
    request = Request("1", (Message("user", "x" * 9),), context={"task": "complete", "prompt": PROMPT})
    reply = asyncio.run(provider().ask(request))
    assert (reply.usage.input_tokens, reply.usage.output_tokens, reply.finish_reason) == (3, 1, "stop")


def test_a_slip_is_never_right() -> None:
    import random

    for answer in ("5", "55", "5218", "1111", "five two", "two two two"):
        spoilt = {slip(answer, random.Random(seed)) for seed in range(60)}
        assert answer not in spoilt
        assert "" not in spoilt


@pytest.mark.parametrize(
    ("a", "b", "n"), [("", "", 0), ("", "ab", 2), ("kitten", "sitting", 3), ("abc", "abc", 0)]
)
def test_edits(a: str, b: str, n: int) -> None:
    assert edits(a, b) == edits(b, a) == n


def test_a_teacher_of_an_unknown_family_is_refused() -> None:
    with pytest.raises(ValidationError, match="no task family cook"):
        provider(knows=["cook"])


def share(found: Any) -> float:
    values = list(found)
    return sum(values) / len(values)
