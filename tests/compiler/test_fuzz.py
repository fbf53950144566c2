"""No input, however broken, gives anything but a SpecError: mutated specs by the hundred."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compiler.errors import SpecError
from tests.compiler.specs import STUDY, compile_text

WORDS = [
    "${seed}",
    "${",
    "}",
    "[",
    "{",
    ":",
    "null",
    "-1",
    "1e999",
    "kind",
    "stages",
    "&a ",
    "*a",
    "!!map",
    "\t",
    "prompts.sft",
    '"',
    "~",
    "at",
    "tune",
]


def mutate(text: str, random_: random.Random) -> str:
    """A few edits of the kind that typing makes: words swapped, dropped, doubled, replaced."""
    for _ in range(random_.randint(1, 4)):
        tokens = text.split(" ")
        i = random_.randrange(len(tokens))
        edit = random_.randrange(4)
        if edit == 0:
            tokens[i] = random_.choice(WORDS)
        elif edit == 1:
            del tokens[i]
        elif edit == 2:
            tokens.insert(i, random_.choice(tokens))
        else:
            j = random_.randrange(len(tokens))
            tokens[i], tokens[j] = tokens[j], tokens[i]
        text = " ".join(tokens) or "x"
    return text


@given(st.integers(0, 2**32))
@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mutated_specs(tmp_path: Path, seed: int) -> None:
    try:
        compile_text(tmp_path, mutate(STUDY, random.Random(seed)))
    except SpecError as error:
        assert str(error) and all(d.code and d.message for d in error.diagnostics)


@given(st.text(max_size=200))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text(tmp_path: Path, text: str) -> None:
    with contextlib.suppress(SpecError):
        compile_text(tmp_path, text)
