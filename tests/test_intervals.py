"""Bootstrap, components of variance and power, against closed forms, simulation and laws."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.statistics.estimates import mcnemar, mean, paired_difference, standard_error, wilson
from runtime.statistics.intervals import bootstrap, components, paired_bootstrap
from runtime.statistics.power import (
    correlation,
    detectable,
    deviation_of,
    paired_deviation,
    power,
    prompts_needed,
)

finite = st.floats(-100, 100).map(lambda x: round(x, 3))

# ---------------------------------------------------------------- bootstrap


@given(st.lists(finite, min_size=1, max_size=20), finite, st.floats(0.1, 10))
def test_a_bootstrap_moves_and_scales_with_the_values(
    values: list[float], shift: float, scale: float
) -> None:
    low, high = bootstrap(values, resamples=50)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    moved = bootstrap([scale * x + shift for x in values], resamples=50)
    assert moved == pytest.approx((scale * low + shift, scale * high + shift), abs=1e-6)


def test_a_bootstrap_of_many_values_is_near_students_interval() -> None:
    draw = random.Random(0)
    a = {str(i): [draw.gauss(1, 2)] for i in range(400)}
    b = {str(i): [draw.gauss(0, 2)] for i in range(400)}
    students = paired_difference(a, b)
    assert students.low is not None and students.standard_error is not None
    assert paired_bootstrap(a, b) == pytest.approx(
        (students.low, students.high), abs=0.15 * students.standard_error
    )
    turned = paired_bootstrap(b, a)
    assert turned == pytest.approx((-(students.high or 0), -students.low), abs=0.15 * students.standard_error)


def test_a_bootstrap_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="needs values"):
        bootstrap([])


# ---------------------------------------------------------------- counts


@given(st.integers(1, 500), st.data())
def test_wilsons_interval_holds_the_share_and_turns_round(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    low, high = wilson(k, n)
    assert 0 <= low <= k / n + 1e-12 and k / n - 1e-12 <= high <= 1
    assert wilson(n - k, n) == pytest.approx((1 - high, 1 - low))
    wider = wilson(k, n, 0.99)
    assert wider[0] <= low + 1e-12 and high <= wider[1] + 1e-12


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_the_binomial_sum(a: int, b: int) -> None:
    exact = 2 * sum(math.comb(a + b, i) for i in range(min(a, b) + 1)) / 2 ** (a + b)
    assert mcnemar(a, b) == mcnemar(b, a) == pytest.approx(min(1.0, exact), rel=1e-9)


# ---------------------------------------------------------------- components

# (runs, repeats, deviations of prompt, run, interaction, judge)
DESIGNS = [(1, 1, 3, 0, 0, 0), (1, 4, 3, 0, 0, 2), (5, 1, 2, 1, 1, 0), (4, 3, 1, 2, 1, 2)]


@pytest.mark.parametrize(("runs", "repeats", "prompt", "run", "both", "judge"), DESIGNS)
def test_components_are_those_that_were_put_in(
    runs: int, repeats: int, prompt: float, run: float, both: float, judge: float
) -> None:
    """On average over 30 worlds, each of 60 prompts; and the interval holds the truth as often as it says."""
    draw, found, covered = random.Random(1), [], 0
    for _ in range(30):
        of_run = [draw.gauss(0, run) for _ in range(runs)]
        scores = {}
        for i in range(60):
            base = draw.gauss(50, prompt)
            shifts = [base + x + draw.gauss(0, both) for x in of_run]
            scores[str(i)] = [[x + draw.gauss(0, judge) for _ in range(repeats)] for x in shifts]
        one = components(scores)
        found.append(one)
        covered += one.low <= 50 <= one.high
        assert math.fsum(one.shares.values()) == pytest.approx(1)
    assert mean([c.prompt for c in found]) == pytest.approx(prompt**2, rel=0.15)
    if runs > 1:
        assert mean([c.run or 0 for c in found]) == pytest.approx(run**2, rel=0.35)
        assert mean([c.interaction or 0 for c in found]) == pytest.approx(both**2, rel=0.15)
    else:
        assert found[0].run is None
    if repeats > 1:
        assert mean([c.judge or 0 for c in found]) == pytest.approx(judge**2, rel=0.1)
    else:
        assert found[0].judge is None
    assert covered >= 25


@given(st.lists(finite, min_size=2, max_size=30))
def test_one_run_asked_once_is_the_plain_mean(values: list[float]) -> None:
    one = components({str(i): [[x]] for i, x in enumerate(values)})
    assert one.mean == pytest.approx(mean(values))
    assert one.standard_error == pytest.approx(standard_error(values), abs=1e-9)


def test_components_of_incomplete_scores() -> None:
    one = components({"x": [[1.0], [2.0]], "y": [[2.0], [2.0]], "z": [[None], [1.0]]})
    assert (one.n, one.n_incomplete, one.runs) == (2, 1, 2)
    for bad in ({"x": [[1.0]]}, {"x": [[1.0]], "y": [[1.0], [2.0]]}, {"x": [[]], "y": [[]]}, {}):
        with pytest.raises(ValueError, match="equally many"):
            components(bad)


# ---------------------------------------------------------------- power


def test_power_is_how_often_the_difference_is_found() -> None:
    """1,500 experiments with as many prompts as are said to be needed."""
    n = prompts_needed(30, 50)
    draw, found = random.Random(0), 0
    for _ in range(1500):
        one = paired_difference(
            {str(i): [draw.gauss(30, 50)] for i in range(n)}, {str(i): [0] for i in range(n)}
        )
        found += one.low is not None and one.low > 0
    assert found / 1500 == pytest.approx(0.8, abs=0.035)


@given(st.floats(0.5, 40), st.floats(1, 60), st.floats(0.5, 0.99))
def test_prompts_needed_are_the_fewest(difference: float, deviation: float, wanted: float) -> None:
    n = prompts_needed(difference, deviation, wanted)
    assert power(n, difference, deviation) >= wanted
    assert n == 2 or power(n - 1, difference, deviation) < wanted
    assert prompts_needed(-difference, deviation, wanted) == n
    assert power(n, detectable(n, deviation, wanted), deviation) == pytest.approx(wanted)


# (difference, deviation, power) -> prompts, by the formula with Student's quantile (G*Power gives the
# same within one, as its noncentral t does): 199 for d = 0.2, 34 for d = 0.5 at 80 %.
@pytest.mark.parametrize(
    ("difference", "deviation", "wanted", "n"), [(0.2, 1, 0.8, 199), (0.5, 1, 0.8, 34), (0.5, 1, 0.95, 54)]
)
def test_prompts_needed(difference: float, deviation: float, wanted: float, n: int) -> None:
    assert abs(prompts_needed(difference, deviation, wanted) - n) <= 1


def test_deviations() -> None:
    a, b = [1.0, 2.0, 4.0, 3.0], [0.0, 2.0, 3.0, 4.0]
    whole = deviation_of([x - y for x, y in zip(a, b, strict=True)])
    assert paired_deviation(deviation_of(a), deviation_of(b), correlation(a, b)) == pytest.approx(whole)
    assert correlation(a, a) == pytest.approx(1) and correlation(a, [1, 1, 1, 1]) == 0
    with pytest.raises(ValueError, match="difference of 0"):
        prompts_needed(0, 1)
