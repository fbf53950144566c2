"""Statistics against published figures, reference values and laws."""

from __future__ import annotations

import csv
import math
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.files import open_text, read_rows
from runtime.statistics.estimates import (
    beta_share,
    mcnemar,
    mean_over_seeds,
    paired_difference,
    standard_error,
    t_quantile,
    t_tail,
    wilson,
    win_rate,
)

V1_OLD, V1_CLAUDE, V2 = "alpaca_eval_gpt4", "claude", "weighted_alpaca_eval_gpt4_turbo"
V1_MODELS = "alpaca-7b claude gpt-3.5-turbo-0301 gpt4 guanaco-65b oasst-rlhf-llama-33b vicuna-13b"
V2_MODELS = "alpaca-7b alpaca-7b_concise claude gpt-3.5-turbo-0301 oasst-rlhf-llama-33b vicuna-13b"
FILES = {
    V1_OLD: V1_MODELS.split(),
    V1_CLAUDE: ["alpaca-7b", "guanaco-65b", "oasst-rlhf-llama-33b", "vicuna-13b"],
    V2: V2_MODELS.split(),
}
CASES = [(judge, model) for judge, models in FILES.items() for model in models]


def leaderboard_row(data: Path, judge: str, model: str) -> dict[str, str]:
    with (data / "alpaca_eval" / "leaderboard" / f"{judge}.csv").open() as file:
        return next(row for row in csv.DictReader(file) if row[""] == model)


def preferences(data: Path, judge: str, model: str) -> list[float | None]:
    path = data / "alpaca_eval" / "annotations" / judge / f"{model}.jsonl.gz"
    return [row["preference"] for row in read_rows(path)]


@pytest.mark.parametrize(("judge", "model"), CASES)
def test_win_rates_are_those_of_the_public_leaderboards(data: Path, judge: str, model: str) -> None:
    published, ours = leaderboard_row(data, judge, model), win_rate(preferences(data, judge, model))
    assert ours.win_rate == pytest.approx(float(published["win_rate"]), abs=1e-9)
    assert ours.standard_error == pytest.approx(float(published["standard_error"]), abs=1e-9)
    for name in ("n_wins", "n_wins_base", "n_draws", "n_total"):
        assert getattr(ours, name) == int(published[name]), name
    if "discrete_win_rate" in published:
        assert ours.discrete_win_rate == pytest.approx(float(published["discrete_win_rate"]), abs=1e-9)


def test_win_rates_are_those_of_upstreams_own_code(data: Path) -> None:
    """What alpaca-eval 0.6.6 counted of verdicts that it asked of a deterministic judge."""
    folder = data / "alpaca_eval" / "parity"
    verdicts: dict[tuple[str, str], list[float | None]] = {}
    with open_text(folder / "upstream_with_longer_wins_judge.csv.gz") as file:
        for row in csv.DictReader(file):
            said = float(row["preference"]) if row["preference"] else None
            verdicts.setdefault((row["annotator"], row["model"]), []).append(said)
    told = list(read_rows(folder / "upstream_with_longer_wins_judge.metrics.jsonl"))
    assert len(told) == len(verdicts) == 8
    for row in told:
        ours = win_rate(verdicts[row["annotator"], row["model"]])
        assert ours.win_rate == pytest.approx(row["win_rate"], abs=1e-9)
        assert ours.standard_error == pytest.approx(row["se"], abs=1e-9)
        assert ours.n_total == row["n_total"]


def test_all_annotation_files_are_compared(data: Path) -> None:
    found = {
        (p.parent.name, p.name.removesuffix(".jsonl.gz")) for p in data.glob("alpaca_eval/annotations/*/*.gz")
    }
    assert found == set(CASES)


@pytest.mark.parametrize("model", sorted(set(FILES[V1_OLD]) | set(FILES[V2])))
def test_average_lengths_are_those_of_the_public_leaderboards(data: Path, model: str) -> None:
    rows = list(read_rows(data / "alpaca_eval" / "outputs" / f"{model}.jsonl.gz"))
    judge = V1_OLD if model in FILES[V1_OLD] else V2
    lengths = [len(row["output"]) for row in rows]
    assert int(sum(lengths) / len(lengths)) == int(leaderboard_row(data, judge, model)["avg_length"])


# Rates and standard errors of a published study (16 digits in its sources) follow from these counts.
@pytest.mark.parametrize(
    ("wins", "draws", "losses", "rate", "error"),
    [
        (3, 0, 797, 0.375, 0.216), (321, 1, 478, 40.1875, 1.733), (340, 1, 459, 42.5625, 1.748),
        (375, 3, 422, 47.0625, 1.762), (54, 0, 745, 6.7584, 0.889), (442, 3, 354, 55.5069, 1.756),
    ],
)  # fmt: skip
def test_win_rates_follow_from_counts(wins: int, draws: int, losses: int, rate: float, error: float) -> None:
    ours = win_rate([2.0] * wins + [1.5] * draws + [1.0] * losses)
    assert ours.win_rate == pytest.approx(rate, abs=5e-5)
    assert ours.standard_error == pytest.approx(error, abs=1e-3)


def test_win_rate_codes() -> None:
    ours = win_rate([1, 2, 0, 1.5, None, 3, -1, 1.25])
    assert (ours.n_wins, ours.n_wins_base, ours.n_draws, ours.n_total, ours.n_null) == (1, 2, 2, 5, 3)
    assert ours.win_rate == pytest.approx(100 * (0 + 1 + 0.5 + 0.5 + 0.25) / 5)
    assert ours.discrete_win_rate == pytest.approx(100 * 2 / 5)


@given(st.lists(st.floats(1, 2) | st.sampled_from([1, 1.5, 2]), min_size=2))
def test_exchanging_the_answers_turns_the_win_rate_round(preferences: list[float]) -> None:
    one, other = win_rate(preferences), win_rate([3 - p for p in reversed(preferences)])
    assert one.win_rate is not None and 0 <= one.win_rate <= 100
    assert other.win_rate == pytest.approx(100 - one.win_rate)
    assert other.standard_error == pytest.approx(one.standard_error)
    assert other.discrete_win_rate == pytest.approx(100 - (one.discrete_win_rate or 0))
    assert (other.n_wins, other.n_wins_base, other.n_draws) == (one.n_wins_base, one.n_wins, one.n_draws)
    assert one.n_wins + one.n_wins_base + one.n_draws == one.n_total == len(preferences)


def test_win_rate_of_too_little_is_none_not_a_number() -> None:
    assert win_rate([None]).win_rate is None
    assert win_rate([]).discrete_win_rate is None
    assert win_rate([2]).win_rate == 100
    assert win_rate([2]).standard_error is None


# ---------------------------------------------------------------- differences


def test_paired_difference_of_single_values() -> None:
    found = paired_difference({"x": [1], "y": [0], "z": [1]}, {"x": [0], "y": [0], "z": [0.5]})
    assert found.mean == pytest.approx(0.5)
    assert found.standard_error == pytest.approx(math.sqrt(0.25 / 3))
    assert found.n == 3
    half = 4.302652729749464 * math.sqrt(0.25 / 3)  # t(0.975, 2)
    assert (found.low, found.high) == (pytest.approx(0.5 - half), pytest.approx(0.5 + half))


def test_repeating_a_seed_adds_no_certainty() -> None:
    """Seeds of a prompt are one observation: copies of a value change neither mean nor error."""
    draw = random.Random(0)
    a = {str(i): [float(draw.random() < 0.6)] for i in range(50)}
    b = {str(i): [float(draw.random() < 0.4)] for i in range(50)}
    once = paired_difference(a, b)
    assert paired_difference({k: v * 5 for k, v in a.items()}, {k: v * 3 for k, v in b.items()}) == once


def test_paired_difference_is_tighter_than_unpaired_where_prompts_matter() -> None:
    draw = random.Random(1)
    hard = {str(i): draw.random() for i in range(200)}
    a = {k: [x + 0.1 + draw.gauss(0, 0.05)] for k, x in hard.items()}
    b = {k: [x + draw.gauss(0, 0.05)] for k, x in hard.items()}
    found = paired_difference(a, b)
    apart = math.hypot(
        standard_error([v for [v] in a.values()]) or 0, standard_error([v for [v] in b.values()]) or 0
    )
    assert found.standard_error is not None and found.standard_error < apart / 4
    assert found.low is not None and found.high is not None and found.low < 0.1 < found.high


def test_swapping_sides_turns_the_difference_round() -> None:
    a, b = {"x": [1.0, None], "y": [0.25]}, {"x": [0.5], "y": [1.0], "only b": [1.0]}
    one, other = paired_difference(a, b), paired_difference(b, a)
    assert one.mean == -other.mean and one.low == pytest.approx(-(other.high or 0))
    assert one.n_unpaired == other.n_unpaired == 1
    assert one.p_value == other.p_value


def test_differences_of_too_little() -> None:
    assert paired_difference({"x": [1]}, {"x": [0]}).standard_error is None
    assert paired_difference({"x": [1], "y": [1]}, {"x": [0], "y": [0]}).p_value == 0
    with pytest.raises(ValueError, match="no prompt in common"):
        paired_difference({"x": [None]}, {"x": [0]})


def test_interval_covers_as_often_as_it_says() -> None:
    """400 samples of 12 prompts around a true difference of 0: about 95 % of the intervals hold it."""
    draw, covered = random.Random(2), 0
    for _ in range(400):
        values = {str(i): [draw.gauss(0, 1)] for i in range(12)}
        found = paired_difference(values, {k: [0.0] for k in values})
        covered += (found.low or 0) < 0 < (found.high or 0)
    assert 0.92 < covered / 400 < 0.98


def test_mean_over_seeds() -> None:
    found = mean_over_seeds([1.0, None, 2.0, 3.0])
    assert (found.mean, found.n) == (2.0, 3)
    assert found.high == pytest.approx(2 + 4.302652729749464 / math.sqrt(3))
    assert mean_over_seeds([5.0]).low is None
    with pytest.raises(ValueError, match="no value"):
        mean_over_seeds([None])


# ---------------------------------------------------------------- distributions


# Values of printed tables of Student's distribution, to the digits that closed forms give.
@pytest.mark.parametrize(
    ("p", "df", "value"),
    [
        (0.975, 1, math.tan(math.pi * 0.475)),
        (0.975, 2, 0.95 * math.sqrt(2 / (1 - 0.95**2))),
        (0.975, 5, 2.570581835636314),
        (0.995, 10, 3.169272672616951),
        (0.95, 30, 1.6972608865939587),
        (0.975, 1e7, 1.959963984540054),
    ],
)  # fmt: skip
def test_t_quantiles(p: float, df: float, value: float) -> None:
    assert t_quantile(p, df) == pytest.approx(value, rel=1e-6 if df > 1e6 else 1e-11)
    assert t_quantile(1 - p, df) == pytest.approx(-value, rel=1e-6)


def test_t_tail_and_quantile_are_inverse() -> None:
    for df in (1, 3, 17, 804, 20_000):
        for p in (0.5001, 0.6, 0.9, 0.999, 0.999999):
            assert t_tail(t_quantile(p, df), df) == pytest.approx(1 - p, rel=1e-7)


def test_beta_share_of_whole_numbers_is_a_binomial_tail() -> None:
    for n, k in ((10, 3), (40, 20), (300, 140), (2000, 1050)):
        exact = sum(math.comb(n, i) for i in range(k, n + 1)) / 2**n
        assert beta_share(k, n - k + 1, 0.5) == pytest.approx(exact, rel=1e-10)


def test_mcnemar_is_an_exact_binomial_test() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 5) == 1.0
    assert mcnemar(1, 9) == pytest.approx(2 * (1 + 10) / 2**10)
    assert (
        mcnemar(15, 5) == mcnemar(5, 15) == pytest.approx(2 * sum(math.comb(20, i) for i in range(6)) / 2**20)
    )


def test_wilson() -> None:
    low, high = wilson(0, 10)
    assert (low, high) == (pytest.approx(0, abs=1e-12), pytest.approx(0.27753279964, abs=1e-9))
    low, high = wilson(8, 10)
    assert (low, high) == (pytest.approx(0.4901625, abs=1e-6), pytest.approx(0.9433178, abs=1e-6))
    with pytest.raises(ValueError, match="nothing"):
        wilson(0, 0)


def test_statistics_needs_no_heavy_library() -> None:
    import subprocess
    import sys

    heavy = "('numpy', 'scipy', 'torch')"
    program = f"import sys, runtime.statistics.estimates; print([m for m in {heavy} if m in sys.modules])"
    done: Any = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
