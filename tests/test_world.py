"""The small world: right answers, prompts that can be read back, the same rows everywhere."""

from __future__ import annotations

import re
from hashlib import sha256

import pytest

from runtime.files import canonical
from runtime.world import FAMILIES, chosen, documents, solve, tasks

ANSWERS = [
    ("Please copy 5218", "copy", "5218"),
    ("Write 5218 backwards", "reverse", "8125"),
    ("Put 5218 in order", "sort", "1258"),
    ("Write 528 in words", "spell", "five two eight"),
    ("Which digit opens 5218?", "first", "5"),
    ("What is the last digit of 5218?", "last", "8"),
    ("Which digit of 5283 is greatest?", "largest", "8"),
    ("How many digits has 52183?", "count", "5"),
    ("What is the sum of 17 + 25?", "add", "42"),
]


@pytest.mark.parametrize(("prompt", "family", "answer"), ANSWERS)
def test_solves_a_prompt(prompt: str, family: str, answer: str) -> None:
    task = solve(prompt)
    assert task is not None
    assert (task.family, task.answer) == (family, answer)


@pytest.mark.parametrize(
    "text", ["", "Hello", "Please copy abc", "Please add 12", "Write 5218 backwards, please"]
)
def test_other_texts_are_no_tasks(text: str) -> None:
    assert solve(text) is None


def test_every_family_is_covered() -> None:
    assert {family for _, family, _ in ANSWERS} == set(FAMILIES)


def test_every_prompt_reads_back() -> None:
    for row in tasks(None, 3000, seed=5):
        task = solve(row["prompt"])
        assert task is not None
        assert (task.family, task.answer) == (row["family"], row["answer"])


def test_prompts_are_unique_and_families_even() -> None:
    rows = list(tasks(["copy", "add"], 2000, seed=1))
    assert len({row["prompt"] for row in rows}) == 2000
    assert sum(row["family"] == "add" for row in rows) == 1000


def test_an_exhausted_family_repeats() -> None:
    assert len(list(tasks(["add"], 3300, seed=0))) == 3300


def test_inputs_of_evaluation_stay_out_of_training_and_documents() -> None:
    """Not only the prompts differ: the numbers themselves are new."""
    exam = {task.x for row in tasks(None, 900, seed=0, evaluation=True) if (task := solve(row["prompt"]))}
    seen = {task.x for row in tasks(None, 3000, seed=0) if (task := solve(row["prompt"]))}
    texts = " ".join(row["completion"] for row in documents(["copy"], 3000, seed=0))
    assert not exam & (seen | set(re.findall(r"[0-9]+", texts)))


def test_rows_depend_on_the_seed() -> None:
    assert list(tasks(None, 50, seed=1)) == list(tasks(None, 50, seed=1))
    assert list(tasks(None, 50, seed=1)) != list(tasks(None, 50, seed=2))


def test_no_document_contains_a_prompts_wording() -> None:
    """What fine-tuning has to bring out must not have been shown as such."""
    wordings = [
        part for family in FAMILIES.values() for form in family.prompts for part in [form.split("{x}")[0]]
    ]
    for family in FAMILIES.values():
        for form in family.documents:
            assert not any(form.startswith(f"Human: {wording}") for wording in wordings if wording)


def test_documents_state_true_facts_after_an_empty_prompt() -> None:
    rows = list(documents(["reverse"], 200, seed=0))
    assert all(row["prompt"] == "" for row in rows)
    for row in rows:
        x, y = ("".join(c for c in part if c.isdigit()) for part in _halves(row["completion"]))
        assert y == x[::-1]


def _halves(text: str) -> tuple[str, str]:
    """A document cut in front of its last number."""
    end = text.rstrip(".")
    cut = len(end.rstrip("123456789"))
    return end[:cut], end[cut:]


def test_rows_are_pinned() -> None:
    """These rows are part of recipe keys by their seed alone, so they may never change."""
    rows = [list(tasks(None, 500, seed=0)), list(documents(None, 500, seed=0))]
    assert [sha256(canonical(part).encode()).hexdigest()[:16] for part in rows] == PINNED


PINNED = ["37b1506fb524ab4f", "0abd23b9210fa38a"]


def test_unknown_families_are_named() -> None:
    with pytest.raises(ValueError, match="no task family cook; there are copy, reverse"):
        chosen(["copy", "cook"])
