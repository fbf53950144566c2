"""Win rates, differences and intervals: AlpacaEval's arithmetic to the last digit, and what it lacks.

Pure Python. Rates are in percent where a name says so or a function rates preferences; differences
and means keep the unit of their input.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LEVEL = 0.95


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def standard_error(values: Sequence[float]) -> float | None:
    """Standard error of the mean, from the sample deviation (ddof 1); None for fewer than two values."""
    n = len(values)
    if n < 2:
        return None
    middle = mean(values)
    return math.sqrt(math.fsum((x - middle) ** 2 for x in values) / (n - 1) / n)


# ---------------------------------------------------------------- win rates


@dataclass(frozen=True, slots=True)
class WinRate:
    """AlpacaEval's figures of one model against a reference; rates in percent, None where undefined."""

    win_rate: float | None
    standard_error: float | None
    n_wins: int
    n_wins_base: int
    n_draws: int
    n_total: int
    discrete_win_rate: float | None
    n_null: int = 0


def win(preference: float | None) -> float | None:
    """A preference as the second answer's win from 0 to 1; None for nulls and what lies outside of 1 to 2.

    0 is an old way to write a tie.
    """
    if preference is None or preference == 0:
        return None if preference is None else 0.5
    return preference - 1 if 1 <= preference <= 2 else None


def win_rate(preferences: Sequence[float | None]) -> WinRate:
    """The win rate of the second answer: 1 the first is better, 2 the second, between them by degree.

    What is no preference (see `win`) is dropped, and counted.
    """
    kept = [x for x in map(win, preferences) if x is not None]
    wins, losses = sum(x > 0.5 for x in kept), sum(x < 0.5 for x in kept)
    draws = len(kept) - wins - losses
    error = standard_error(kept)
    return WinRate(
        win_rate=100 * mean(kept) if kept else None,
        standard_error=None if error is None else 100 * error,
        n_wins=wins,
        n_wins_base=losses,
        n_draws=draws,
        n_total=len(kept),
        discrete_win_rate=100 * (wins + draws / 2) / len(kept) if kept else None,
        n_null=len(preferences) - len(kept),
    )


# ---------------------------------------------------------------- differences and means


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean of a minus b over the same prompts. Error, bounds and p are None for fewer than two prompts.

    `n_unpaired`: prompts that only one side has a value for; they are left out.
    """

    mean: float
    standard_error: float | None
    low: float | None
    high: float | None
    n: int
    n_unpaired: int = 0
    p_value: float | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its interval; error and bounds are None for fewer than two values."""

    mean: float
    standard_error: float | None
    low: float | None
    high: float | None
    n: int


Scores = Mapping[str, Sequence[float | None]]  # prompt id -> its value under each seed


def _over_seeds(scores: Scores) -> dict[str, float]:
    """The mean over seeds of each prompt that has any value."""
    known = {id_: [x for x in values if x is not None] for id_, values in scores.items()}
    return {id_: mean(values) for id_, values in known.items() if values}


def paired_values(a: Scores, b: Scores) -> list[float]:
    """a minus b for each prompt that both have values for, each averaged over seeds.

    Raises ValueError where there is none.
    """
    left, right = _over_seeds(a), _over_seeds(b)
    common = [id_ for id_ in left if id_ in right]
    if not common:
        raise ValueError("the two sides have no prompt in common")
    return [left[id_] - right[id_] for id_ in common]


def paired_difference(a: Scores, b: Scores, level: float = LEVEL) -> Difference:
    """How much better a is than b on the same prompts.

    Each prompt's values are averaged over seeds first, so that its seeds count as one observation: the
    error is clustered by prompt, the interval Student's with n - 1 degrees of freedom. It says how the
    figure would vary over prompts, given these training runs; whether other seeds would agree is asked
    of `mean_over_seeds`. Raises ValueError where no prompt has values on both sides.
    """
    found = _estimate(paired_values(a, b), level)
    return Difference(
        found.mean,
        found.standard_error,
        found.low,
        found.high,
        found.n,
        n_unpaired=len(_over_seeds(a).keys() ^ _over_seeds(b).keys()),
        p_value=_p_value(found),
    )


def mean_over_seeds(values: Sequence[float | None], level: float = LEVEL) -> Estimate:
    """The mean of one figure over repeated runs, with Student's interval over the runs.

    Missing values are left out. Raises ValueError where none is left.
    """
    known = [x for x in values if x is not None]
    if not known:
        raise ValueError("there is no value to average")
    return _estimate(known, level)


def _estimate(values: Sequence[float], level: float) -> Estimate:
    middle, error = mean(values), standard_error(values)
    if error is None:
        return Estimate(middle, None, None, None, len(values))
    half = t_quantile((1 + level) / 2, len(values) - 1) * error
    return Estimate(middle, error, middle - half, middle + half, len(values))


def _p_value(found: Estimate) -> float | None:
    """Two-sided p of Student's test that the mean is 0."""
    if found.standard_error is None:
        return None
    if found.standard_error == 0:
        return 1.0 if found.mean == 0 else 0.0
    return 2 * t_tail(abs(found.mean) / found.standard_error, found.n - 1)


# ---------------------------------------------------------------- counts


def wilson(successes: float, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's interval of a share, as fractions; sound also near 0 and 1. Raises ValueError for n = 0."""
    if n < 1:
        raise ValueError("a share of nothing has no interval")
    z = normal_quantile((1 + level) / 2)
    share, z2 = successes / n, z * z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided p of McNemar's test, from the prompts that only a, and only b, got right."""
    n, fewer = only_a + only_b, min(only_a, only_b)
    if n == 0:
        return 1.0
    # P(X <= fewer) of a fair coin thrown n times, as an incomplete beta integral.
    return min(1.0, 2 * beta_share(n - fewer, fewer + 1, 0.5))


# ---------------------------------------------------------------- distributions


def normal_quantile(p: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(p)


def beta_share(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta integral I_x(a, b), to about 14 digits."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast on the other side
        return 1 - beta_share(b, a, 1 - x)
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(front) / (a * _beta_fraction(a, b, x))


def _beta_fraction(a: float, b: float, x: float) -> float:
    """The continued fraction 1 + d1/(1 + d2/(1 + ...)) below x^a (1-x)^b / (a B(a,b)), from the front.

    Convergents p/q by the fundamental recurrence, scaled so that they stay in range; DLMF 8.17.22.
    """
    p_before, p, q_before, q = 1.0, 1.0, 0.0, 1.0
    value = 1.0
    for step in range(1, 10_000):
        m = step // 2
        if step % 2:
            d = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            d = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        p_before, p = p, p + d * p_before
        q_before, q = q, q + d * q_before
        scale = 1 / q
        p_before, p, q_before, q = p_before * scale, p * scale, q_before * scale, 1.0
        if abs(p - value) <= 1e-16 * abs(p):
            return p
        value = p
    return value


def t_tail(t: float, df: float) -> float:
    """P(T > t) of Student's distribution, for t >= 0."""
    return 0.5 * beta_share(df / 2, 0.5, df / (df + t * t))


def t_quantile(p: float, df: float) -> float:
    """The value that Student's T stays below with probability p: the tail turned round by bisection."""
    if not 0 < p < 1 or df <= 0:
        raise ValueError("a quantile needs 0 < p < 1 and positive degrees of freedom")
    if p < 0.5:
        return -t_quantile(1 - p, df)
    low, high = 0.0, 1.0
    while t_tail(high, df) > 1 - p:
        low, high = high, high * 2
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if t_tail(middle, df) > 1 - p else (low, middle)
    return (low + high) / 2
