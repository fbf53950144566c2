"""Length-controlled win rates against AlpacaEval's published ones, optimality conditions and known truth."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.interchange.alpaca_eval import (
    Annotation,
    read_annotations,
    read_leaderboard,
    read_outputs,
    with_texts,
)
from runtime.job import JobError
from runtime.statistics.length_control import (
    FOLDS,
    GAMED_WEIGHT,
    GRID,
    NO_WEIGHTS,
    Difficulties,
    Pair,
    Weights,
    align,
    fit,
    pairs_of,
    predict,
    read_difficulties,
    read_gamed,
    read_weights,
)
from tests.test_statistics import FILES, V1_OLD, V2

REFERENCE = {V1_OLD: "text_davinci_003.v1_reference", V2: "gpt4_1106_preview.v2_reference"}


def loaded(data: Path, judge: str, model: str) -> tuple[list[Annotation], Difficulties, float]:
    """Annotations with their texts, the difficulties and the published rate."""
    folder = data / "alpaca_eval"
    reference = read_outputs(folder / "outputs" / f"{REFERENCE[judge]}.jsonl.gz")
    rows = with_texts(
        read_annotations(folder / "annotations" / judge / f"{model}.jsonl.gz"),
        read_outputs(folder / "outputs" / f"{model}.jsonl.gz"),
        reference,
    )
    difficulties = read_difficulties(folder / "lc" / "instruction_difficulty_recovered.csv", reference)
    board = read_leaderboard(folder / "leaderboard" / f"{judge}.csv")
    return rows, difficulties, float(board[model]["length_controlled_winrate"])


@pytest.mark.parametrize("model", FILES[V2])
def test_published_weights_give_the_published_rates(data: Path, model: str) -> None:
    rows, known, published = loaded(data, V2, model)
    weights = read_weights(data / "alpaca_eval" / "leaderboard" / "lc_weights_v2.csv", model)
    assert predict(weights, align(rows, known, "position")).win_rate == pytest.approx(published, abs=1e-9)
    by_instruction = predict(weights, align(rows, known, "instruction")).win_rate
    # Upstream lacks the output of one instruction here, and shifts the difficulties of all that follow.
    expected = 4.467967850 if model == "alpaca-7b_concise" else published
    assert by_instruction == pytest.approx(expected, abs=1e-9 if len(rows) == 805 else 1e-8)


@pytest.mark.parametrize("model", FILES[V2])
def test_a_fit_of_our_own_is_near_the_published_rates(data: Path, model: str) -> None:
    rows, known, published = loaded(data, V2, model)
    difficulties = align(rows, known, "position")
    weights = fit(
        pairs_of(rows, difficulties),
        read_gamed(data / "alpaca_eval" / "lc" / "df_gamed_surrogate.csv.gz"),
    )
    assert predict(weights, difficulties).win_rate == pytest.approx(published, abs=0.2)


@pytest.mark.parametrize("model", FILES[V1_OLD])
def test_old_published_rates_are_those_of_one_penalty(data: Path, model: str) -> None:
    """For the old judge no weights were published, nor which C was taken."""
    rows, known, published = loaded(data, V1_OLD, model)
    difficulties = align(rows, known, "instruction")
    pairs = pairs_of(rows, difficulties)
    gamed = read_gamed(data / "alpaca_eval" / "lc" / "df_gamed_surrogate.csv.gz")
    rates = [predict(fit(pairs, gamed, c), difficulties).win_rate for c in GRID]
    assert min(abs(rate - published) for rate in rates) < 0.006


def test_the_baseline_itself_has_fifty_percent() -> None:
    assert predict(NO_WEIGHTS, [0.3, -1.0, 2.5]).win_rate == 50


# ---------------------------------------------------------------- fit

pair = st.builds(Pair, st.floats(-3, 3), st.floats(-2, 2), st.floats(0, 1))


@settings(max_examples=40)
@given(st.lists(pair, min_size=5, max_size=40), st.lists(pair, max_size=20), st.sampled_from(GRID))
def test_a_fit_meets_the_conditions_of_the_optimum(pairs: list[Pair], gamed: list[Pair], c: float) -> None:
    """0 lies in the subdifferential of |w|_1 + C * loss."""
    found = fit(pairs, gamed, c)
    w = np.array([found.length, found.difficulty, found.not_gamed])
    gradient = np.zeros(3)
    for rows, weight, indicator in ((pairs, 1.0, 1.0), (gamed, GAMED_WEIGHT, 0.0)):
        for p in rows:
            x = np.array([math.tanh(p.length), p.difficulty, indicator])
            gradient += c * weight * (1 / (1 + np.exp(-x @ w)) - p.win) * x
    slack = 1e-5 * (1 + c * (len(pairs) + len(gamed)))
    for value, slope in zip(w, gradient, strict=True):
        assert abs(slope + np.sign(value)) <= slack if value else abs(slope) <= 1 + slack


def test_a_fit_finds_the_weights_that_made_the_wins() -> None:
    draw, truth = random.Random(0), Weights(-1.5, 0.8, -0.4)
    pairs = []
    for _ in range(4000):
        length, difficulty = draw.gauss(0, 1), draw.gauss(0, 1)
        z = truth.length * math.tanh(length) + truth.difficulty * difficulty + truth.not_gamed
        pairs.append(Pair(length, difficulty, float(draw.random() < 1 / (1 + math.exp(-z)))))
    found = fit(pairs, [])
    assert found.c in GRID
    for name in ("length", "difficulty", "not_gamed"):
        assert getattr(found, name) == pytest.approx(getattr(truth, name), abs=0.15)


def test_folds_hold_out_every_row_once() -> None:
    fold = np.arange(23)[::-1] % FOLDS
    assert sorted(np.bincount(fold)) == [4, 4, 5, 5, 5] and fold[-1] == 0


# ---------------------------------------------------------------- what cannot be controlled


def test_length_control_is_refused_where_it_is_not_defined() -> None:
    known = Difficulties(Path("d.csv"), (0.0, 1.0), {"x": 0.0, "y": 1.0})
    row = Annotation("a.json: entry 1", 2.0, "z", "long answer", "short")
    with pytest.raises(JobError, match=r"a\.json: entry 1: d\.csv has no difficulty of this instruction"):
        align([row], known, "instruction")
    with pytest.raises(JobError, match="2 difficulties for 3 annotations"):
        align([row] * 3, known, "position")
    with pytest.raises(JobError, match="does not say whose"):
        align([row], Difficulties(Path("d.csv"), (0.0,), {}), "instruction")
    with pytest.raises(JobError, match="by the same"):
        pairs_of([row] * 3, [0.0] * 3)
    with pytest.raises(JobError, match="give `--outputs`"):
        pairs_of([Annotation("a.json: entry 1", 2.0, "x", "text", None)], [0.0])
