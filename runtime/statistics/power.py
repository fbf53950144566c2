"""How many prompts tell a difference: power of Student's test of a mean over prompts.

With n prompts, a deviation s of one prompt's score and a true difference d, a two-sided test at level
alpha finds it with probability

    Phi(d sqrt(n) / s - t)      t = Student's 1 - alpha/2 quantile with n - 1 degrees of freedom

(the normal approximation of the noncentral t; Cohen 1988, chapter 2; the other side's tail is left out,
so that power is never overstated). A single model is compared with 50 %: s is the deviation of its
preferences, at most 50 points. Two models on the same prompts: s^2 = s_a^2 + s_b^2 - 2 r s_a s_b with
the correlation r of their scores. Differences and deviations have the same unit, such as points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

from runtime.statistics.estimates import LEVEL, mean, normal_quantile, standard_error, t_quantile

POWER = 0.8
ALL_OR_NONE = 50.0  # points: the deviation of verdicts that are a win or a loss, both as likely
MOST = 1 << 40


def power(n: int, difference: float, deviation: float, level: float = LEVEL) -> float:
    """The probability that n prompts tell a true difference."""
    if n < 2:
        return 0.0
    if deviation == 0:
        return 1.0 if difference else 0.0
    return NormalDist().cdf(abs(difference) * math.sqrt(n) / deviation - t_quantile((1 + level) / 2, n - 1))


def prompts_needed(difference: float, deviation: float, wanted: float = POWER, level: float = LEVEL) -> int:
    """The smallest number of prompts with that power. Raises ValueError for a difference of 0."""
    if not difference:
        raise ValueError("no number of prompts tells a difference of 0")
    high = 2
    while power(high, difference, deviation, level) < wanted:
        high *= 2
        if high > MOST:
            raise ValueError("more prompts would be needed than there can be")
    low = high // 2
    while high - low > 1:  # power grows with n
        middle = (low + high) // 2
        low, high = (middle, high) if power(middle, difference, deviation, level) < wanted else (low, middle)
    return high


def detectable(n: int, deviation: float, wanted: float = POWER, level: float = LEVEL) -> float:
    """The smallest true difference that n prompts tell with that power. Raises ValueError for n < 2."""
    if n < 2:
        raise ValueError("fewer than two prompts tell no difference")
    return (t_quantile((1 + level) / 2, n - 1) + normal_quantile(wanted)) * deviation / math.sqrt(n)


def deviation_of(values: Sequence[float]) -> float:
    """The sample deviation (ddof 1). Raises ValueError for fewer than two values."""
    error = standard_error(values)
    if error is None:
        raise ValueError("a deviation needs two values")
    return error * math.sqrt(len(values))


def paired_deviation(a: float, b: float, correlation: float) -> float:
    """The deviation of a difference on the same prompts, from those of both sides."""
    return math.sqrt(max(0.0, a * a + b * b - 2 * correlation * a * b))


def correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Pearson's correlation; 0 where one side does not vary. Raises ValueError for fewer than two pairs."""
    middle_a, middle_b = mean(a), mean(b)
    spread = deviation_of(a) * deviation_of(b) * (len(a) - 1)
    together = math.fsum((x - middle_a) * (y - middle_b) for x, y in zip(a, b, strict=True))
    return max(-1.0, min(1.0, together / spread)) if spread else 0.0
