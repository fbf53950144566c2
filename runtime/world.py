"""The small world: verifiable tasks over short numbers, in plain words.

A *family* is a kind of task (reverse the digits, spell them out, add two numbers ...). Every task
has one right answer, which `solve` finds from the prompt's text alone, so that teachers and critics
need no hidden state. *Documents* state the same kind of fact in other words: a model pretrained on
them has met every family, but never a prompt, and a little fine-tuning can bring out what it knows.

Tasks are about digits because a tokenizer trained on the spot keeps each digit apart, whatever
merges it learns. Everything is a pure function of its arguments: the only draws are
`random.Random(text).random()`, which is the same on every version of Python.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import sha256

DIGITS = "123456789"
LENGTHS = (3, 4, 5)  # digits in a number, all different
LARGEST = 40  # summand
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of task.

    answer: input -> the right answer. draw: a new input. prompts: how a task is put to a model, `{x}`
    being its input. documents: how texts state its answer `{y}`. No wording serves as both.
    """

    name: str
    answer: Callable[[str], str]
    draw: Callable[[random.Random], str]
    prompts: tuple[str, ...]
    documents: tuple[str, ...]


def _below(rng: random.Random, n: int) -> int:
    return int(rng.random() * n)


def _number(rng: random.Random) -> str:
    left = list(DIGITS)
    return "".join(left.pop(_below(rng, len(left))) for _ in range(LENGTHS[_below(rng, len(LENGTHS))]))


def _summands(rng: random.Random) -> str:
    return f"{_below(rng, LARGEST) + 1} + {_below(rng, LARGEST) + 1}"


def held_out(x: str) -> bool:
    """Whether an input is kept for evaluation: one in ten, by its hash."""
    return sha256(x.encode()).digest()[0] < 26


def _draw(family: Family, rng: random.Random, *, evaluation: bool) -> str:
    """A new input, of those held out for evaluation or of the others."""
    while held_out(x := family.draw(rng)) != evaluation:
        pass
    return x


def _sum(x: str) -> str:
    return str(sum(int(part) for part in x.split("+")))


# What each kind of input looks like; a prompt about anything else is no task.
_SHAPES: dict[Callable[[random.Random], str], re.Pattern[str]] = {
    _number: re.compile(r"[0-9]+"),
    _summands: re.compile(r"[0-9]{1,3} \+ [0-9]{1,3}"),
}

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            "copy",
            lambda x: x,
            _number,
            ("Please copy {x}", "Say {x} again"),
            (
                "A copy of {x} is {y}.",
                "Said again, {x} is {y}.",
                "Q: How does a copy of {x} read?\nA: {y}",
                "Human: {x}, once more\n\nAssistant: {y}",
            ),
        ),
        Family(
            "reverse",
            lambda x: x[::-1],
            _number,
            ("Please reverse {x}", "Write {x} backwards"),
            (
                "The reverse of {x} is {y}.",
                "Read backwards, {x} is {y}.",
                "Q: How does {x} read in reverse?\nA: {y}",
                "Human: turn {x} around\n\nAssistant: {y}",
            ),
        ),
        Family(
            "sort",
            lambda x: "".join(sorted(x)),
            _number,
            ("Please sort {x}", "Put {x} in order"),
            (
                "The sort of {x} is {y}.",
                "Read in order, {x} is {y}.",
                "Q: How does {x} read after a sort?\nA: {y}",
                "Human: from small to large, {x}\n\nAssistant: {y}",
            ),
        ),
        Family(
            "spell",
            lambda x: " ".join(WORDS[int(digit)] for digit in x),
            _number,
            ("Please spell {x}", "Write {x} in words"),
            (
                "They spell {x} as {y}.",
                "Read in words, {x} is {y}.",
                "Q: How does one spell {x}?\nA: {y}",
                "Human: read {x} aloud\n\nAssistant: {y}",
            ),
        ),
        Family(
            "first",
            lambda x: x[0],
            _number,
            ("What is the first digit of {x}?", "Which digit opens {x}?"),
            (
                "The first of {x} is {y}.",
                "What opens {x} is {y}.",
                "Q: How does {x} begin?\nA: {y}",
                "Human: the start of {x}\n\nAssistant: {y}",
            ),
        ),
        Family(
            "last",
            lambda x: x[-1],
            _number,
            ("What is the last digit of {x}?", "Which digit closes {x}?"),
            (
                "The last of {x} is {y}.",
                "What closes {x} is {y}.",
                "Q: How does {x} end?\nA: {y}",
                "Human: the end of {x}\n\nAssistant: {y}",
            ),
        ),
        Family(
            "largest",
            max,
            _number,
            ("What is the largest digit of {x}?", "Which digit of {x} is greatest?"),
            (
                "The largest of {x} is {y}.",
                "What is greatest in {x} is {y}.",
                "Q: How large are digits of {x}?\nA: {y}",
                "Human: the top of {x}\n\nAssistant: {y}",
            ),
        ),
        Family(
            "count",
            lambda x: str(len(x)),
            _number,
            ("Please count the digits of {x}", "How many digits has {x}?"),
            (
                "The count of digits of {x} is {y}.",
                "As many as {x} has is {y}.",
                "Q: How long is {x}?\nA: {y}",
                "Human: the size of {x}\n\nAssistant: {y}",
            ),
        ),
        Family(
            "add",
            _sum,
            _summands,
            ("Please add {x}", "What is the sum of {x}?"),
            (
                "Who can add {x} has {y}.",
                "The sum, {x}, is {y}.",
                "Q: How much is {x}?\nA: {y}",
                "Human: {x} in all\n\nAssistant: {y}",
            ),
        ),
    )
}


@cache
def _forms() -> tuple[tuple[re.Pattern[str], Family], ...]:
    """Every wording of a task, with its family."""
    return tuple(
        (re.compile(re.escape(form).replace(re.escape("{x}"), "(.+)")), family)
        for family in FAMILIES.values()
        for form in family.prompts
    )


@dataclass(frozen=True, slots=True)
class Task:
    """A prompt, understood: its family, its input and its right answer."""

    family: str
    x: str
    answer: str


def chosen(names: Iterable[str] | None) -> tuple[Family, ...]:
    """The families called so; none: all of them. Raises ValueError for a family that there is not."""
    if names is None:
        return tuple(FAMILIES.values())
    wanted = tuple(names)
    unknown = [name for name in wanted if name not in FAMILIES]
    if unknown or not wanted:
        raise ValueError(
            f"no task family {', '.join(unknown) or 'is named'}; there are {', '.join(FAMILIES)}"
        )
    return tuple(FAMILIES[name] for name in wanted)


def tasks(
    families: Iterable[str] | None, size: int, seed: int, *, evaluation: bool = False
) -> Iterator[dict[str, str]]:
    """Rows {prompt, answer, family}, families in turn.

    `evaluation`: about the inputs that are held out; neither documents nor other tasks mention them.
    Prompts differ as long as their family has new ones to give (for evaluation some hundred sums and
    some thousand of every other family, else nine times as many); after that they repeat.
    """
    rng, among, seen = random.Random(f"world/tasks/{seed}"), chosen(families), set[str]()
    for index in range(size):
        family = among[index % len(among)]
        for _ in range(200):
            x = _draw(family, rng, evaluation=evaluation)
            prompt = family.prompts[_below(rng, len(family.prompts))].format(x=x)
            if prompt not in seen:
                break
        seen.add(prompt)
        yield {"prompt": prompt, "answer": family.answer(x), "family": family.name}


def documents(families: Iterable[str] | None, size: int, seed: int) -> Iterator[dict[str, str]]:
    """Rows {prompt, completion, family}: one true statement each after an empty prompt, families in turn."""
    rng, among = random.Random(f"world/documents/{seed}"), chosen(families)
    for index in range(size):
        family = among[index % len(among)]
        x = _draw(family, rng, evaluation=False)
        text = family.documents[_below(rng, len(family.documents))].format(x=x, y=family.answer(x))
        yield {"prompt": "", "completion": text, "family": family.name}


def solve(prompt: str) -> Task | None:
    """The task that a prompt of `tasks` poses; None for any other text."""
    text = prompt.strip()
    for form, family in _forms():
        found = form.fullmatch(text)
        if found and _SHAPES[family.draw].fullmatch(found[1]):
            return Task(family.name, found[1], family.answer(found[1]))
    return None
