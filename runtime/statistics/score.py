"""Scores of AlpacaEval annotations: a model's leaderboard row with intervals, and models compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from runtime.interchange.alpaca_eval import COLUMNS, Annotation, by_instruction
from runtime.results.metrics import metric_of
from runtime.results.table import interval95
from runtime.statistics.estimates import (
    Difference,
    WinRate,
    mcnemar,
    mean,
    paired_difference,
    wilson,
    win,
    win_rate,
)
from runtime.statistics.intervals import RESAMPLES, bootstrap, paired_bootstrap
from runtime.statistics.length_control import LengthControlled

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Score:
    """One model's figures, rates in percent. Intervals are at 95 %, None where too little is known.

    `interval` is Student's over prompts (Wilson's where all came out alike), `discrete_interval` Wilson's,
    draws counted as half a win. `n_missing` instructions of the reference are not annotated.
    """

    name: str
    baseline: str
    rate: WinRate
    interval: Interval | None
    bootstrap_interval: Interval | None
    discrete_interval: Interval | None
    avg_length: int | None
    length_controlled: LengthControlled | None
    rows: Sequence[Annotation]
    n_missing: int | None = None

    def wins(self) -> dict[str, float]:
        """Prompts that were judged -> 0 to 100. Raises JobError where one stands twice or cannot be told."""
        found = ((key, win(row.preference)) for key, row in by_instruction(self.rows).items())
        return {key: 100 * share for key, share in found if share is not None}

    def row(self) -> dict[str, Any]:
        """The columns of AlpacaEval's leaderboard; None where not known."""
        controlled = self.length_controlled
        found = {
            **asdict(self.rate),
            "mode": "",
            "avg_length": self.avg_length,
            "length_controlled_winrate": controlled and controlled.win_rate,
            "lc_standard_error": controlled and controlled.standard_error,
        }
        return {name: found[name] for name in COLUMNS}


def average_length(texts: Sequence[str | None]) -> int | None:
    """AlpacaEval's avg_length: mean characters, cut to a whole number; None where a text is missing."""
    lengths = [len(text) for text in texts if text is not None]
    return int(mean(lengths)) if lengths and len(lengths) == len(texts) else None


def score(
    name: str,
    baseline: str,
    rows: Sequence[Annotation],
    avg_length: int | None,
    length_controlled: LengthControlled | None,
    resamples: int = RESAMPLES,
) -> Score:
    """The figures of one model's annotations."""
    preferences = [row.preference for row in rows]
    rate = win_rate(preferences)
    interval = discrete = resampled = None
    if rate.win_rate is not None:
        interval = interval95(rate.win_rate, rate.standard_error, rate.n_total, metric_of("win_rate"))
        low, high = wilson(rate.n_wins + rate.n_draws / 2, rate.n_total)
        discrete = (100 * low, 100 * high)
    if rate.n_total > 1:
        resampled = bootstrap([100 * x for x in map(win, preferences) if x is not None], resamples=resamples)
    return Score(name, baseline, rate, interval, resampled, discrete, avg_length, length_controlled, rows)


@dataclass(frozen=True, slots=True)
class Compared:
    """Two models against the same baseline on the same prompts: a minus b in points.

    `only_a` and `only_b` count the prompts on which one beat the baseline and the other did not; McNemar's
    exact test asks whether that is even.
    """

    a: str
    b: str
    difference: Difference
    bootstrap_interval: Interval
    only_a: int
    only_b: int
    mcnemar_p: float


def compare(a: Score, b: Score, resamples: int = RESAMPLES) -> Compared:
    """Raises ValueError where no prompt was judged for both, JobError as `Score.wins`."""
    wins_a, wins_b = a.wins(), b.wins()
    left, right = ({key: [x] for key, x in side.items()} for side in (wins_a, wins_b))
    difference = paired_difference(left, right)
    won = [(wins_a[key] > 50, wins_b[key] > 50) for key in wins_a if key in wins_b]
    only_a, only_b = won.count((True, False)), won.count((False, True))
    resampled = paired_bootstrap(left, right, resamples=resamples)
    return Compared(a.name, b.name, difference, resampled, only_a, only_b, mcnemar(only_a, only_b))
