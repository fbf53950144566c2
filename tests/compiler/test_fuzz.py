"""No input, however broken, gives anything but findings: specs by the hundred (fuzz.py: by the thousand)."""

from __future__ import annotations

import contextlib
import random
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compiler.errors import SpecError
from tests.compiler.fuzz import Case, Hang, check, corpus, generated, guarded, mutated
from tests.compiler.specs import compile_text

CORPUS = corpus()
many = settings(max_examples=150, suppress_health_check=list(HealthCheck))


@given(st.integers(0, 2**32))
@many
def test_mutated_specs(tmp_path: Path, seed: int) -> None:
    check(mutated(random.Random(seed), CORPUS), tmp_path)


@given(st.randoms(use_true_random=False))
@many
def test_generated_specs(tmp_path: Path, random_: random.Random) -> None:
    check(generated(random_), tmp_path)


@given(st.text(max_size=200), st.text(max_size=20))
@many
def test_any_text(tmp_path: Path, text: str, override: str) -> None:
    with contextlib.suppress(SpecError):
        compile_text(tmp_path, text)
    check(Case({"spec.yaml": "experiment: e"}, [override]), tmp_path)


def test_the_corpus_is_worth_mutating(tmp_path: Path) -> None:
    codes = {check(case, tmp_path) for case in CORPUS}
    assert "right" in codes and len(codes) > 5


def test_a_hang_is_noticed() -> None:
    with pytest.raises(Hang), guarded(0.05):
        while time.process_time():
            pass
