"""Intervals that Student's does not give: by bootstrap over prompts, and over runs of several seeds or
several verdicts of one judge, whose variance is taken apart."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runtime.statistics.estimates import LEVEL, Scores, mean, paired_values, t_quantile

RESAMPLES = 2000


def bootstrap(
    values: Sequence[float], level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """The percentile interval of a mean over prompts, which are drawn anew with replacement.

    Supposes no distribution (Efron, Tibshirani 1993, chapter 13); the seed makes it the same each time.
    Raises ValueError where there are no values.
    """
    if not values or resamples < 1:
        raise ValueError("a bootstrap needs values and resamples")
    draw, n = random.Random(seed), len(values)
    means = sorted(math.fsum(draw.choices(values, k=n)) / n for _ in range(resamples))
    tail = (1 - level) / 2
    return _quantile(means, tail), _quantile(means, 1 - tail)


def paired_bootstrap(
    a: Scores, b: Scores, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """The bootstrap interval of how much better a is than b on the same prompts, seeds averaged first."""
    return bootstrap(paired_values(a, b), level, resamples, seed)


def _quantile(ordered: Sequence[float], p: float) -> float:
    at = p * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


# ---------------------------------------------------------------- components

# prompt -> run (a training seed) -> repeat (the judge asked again) -> score
Repeated = Mapping[str, Sequence[Sequence[float | None]]]


@dataclass(frozen=True, slots=True)
class Components:
    """The mean over prompts, runs and repeats, and where its uncertainty comes from.

    Variances of one score, in the square of its unit: `prompt` how prompts differ, `run` how runs do on
    all prompts, `interaction` how runs differ by prompt, `judge` how repeated verdicts on one answer do.
    None where the design cannot tell: one run, or one repeat (`interaction` then holds the judge's part).
    `n_incomplete` prompts lack a score and are left out.
    """

    mean: float
    standard_error: float
    low: float
    high: float
    n: int
    runs: int
    repeats: int
    prompt: float
    run: float | None
    interaction: float | None
    judge: float | None
    n_incomplete: int = 0

    @property
    def shares(self) -> dict[str, float]:
        """The share of each source in the squared standard error of the mean."""
        parts = {
            "prompts": self.prompt / self.n,
            "runs": (self.run or 0) / self.runs,
            "runs by prompt": (self.interaction or 0) / (self.n * self.runs),
            "judge": (self.judge or 0) / (self.n * self.runs * self.repeats),
        }
        total = math.fsum(parts.values())
        return {name: part / total if total else 0.0 for name, part in parts.items()}


def components(scores: Repeated, level: float = LEVEL) -> Components:
    """Takes the variance of scores apart: prompts and runs crossed and both drawn at random, repeats within.

    The estimators of the balanced analysis of variance (Searle, Casella, McCulloch 1992, chapter 4), those
    below 0 set to 0; the interval is Student's with Satterthwaite's degrees of freedom. With several runs
    it speaks of other prompts and other runs, with one of other prompts only. Raises ValueError where
    fewer than two prompts are complete, or prompts have unequal numbers of runs or repeats.
    """
    complete = {
        prompt: [[x for x in repeats if x is not None] for repeats in runs]
        for prompt, runs in scores.items()
        if all(x is not None for repeats in runs for x in repeats)
    }
    shapes = {tuple(map(len, runs)) for runs in complete.values()}
    if len(complete) < 2 or len(shapes) > 1 or len(set(*shapes)) != 1 or 0 in next(iter(shapes)):
        raise ValueError("components need two prompts that have equally many scores in every run")
    runs_of = list(complete.values())
    n, s, r = len(runs_of), len(runs_of[0]), len(runs_of[0][0])
    cells = [[mean(repeats) for repeats in runs] for runs in runs_of]
    by_prompt, by_run = [mean(row) for row in cells], [mean(column) for column in zip(*cells, strict=True)]
    middle = mean(by_prompt)
    # Mean squares: of prompts, runs, both, and repeats within them.
    ms_prompt = s * r * math.fsum((p - middle) ** 2 for p in by_prompt) / (n - 1)
    within = ((x - c) ** 2 for runs, row in zip(runs_of, cells, strict=True)
              for repeats, c in zip(runs, row, strict=True) for x in repeats)  # fmt: skip
    ms_judge = math.fsum(within) / (n * s * (r - 1)) if r > 1 else None
    if s == 1:
        prompt = max(0.0, (ms_prompt - (ms_judge or 0)) / r)
        # By the sources' variances, not by ms_prompt, so that the shares add up to the error shown.
        error, df = math.sqrt((prompt + (ms_judge or 0) / r) / n), float(n - 1)
        run = interaction = None
    else:
        ms_run = n * r * math.fsum((x - middle) ** 2 for x in by_run) / (s - 1)
        rests = ((c - p - q + middle) ** 2 for row, p in zip(cells, by_prompt, strict=True)
                 for c, q in zip(row, by_run, strict=True))  # fmt: skip
        ms_both = r * math.fsum(rests) / ((n - 1) * (s - 1))
        prompt, run = max(0.0, (ms_prompt - ms_both) / (s * r)), max(0.0, (ms_run - ms_both) / (n * r))
        interaction = max(0.0, (ms_both - (ms_judge or 0)) / r)
        error = math.sqrt(prompt / n + run / s + (interaction + (ms_judge or 0) / r) / (n * s))
        df = _satterthwaite(ms_prompt, ms_run, ms_both, n, s)
    half = t_quantile((1 + level) / 2, df) * error
    return Components(
        middle, error, middle - half, middle + half, n, s, r,
        prompt, run, interaction, ms_judge, len(scores) - n,
    )  # fmt: skip


def _satterthwaite(ms_prompt: float, ms_run: float, ms_both: float, n: int, s: int) -> float:
    """Degrees of freedom of ms_prompt + ms_run - ms_both, without the parts that vanish."""
    if ms_run <= ms_both:
        return n - 1
    if ms_prompt <= ms_both:
        return s - 1
    of_squares = ms_prompt**2 / (n - 1) + ms_run**2 / (s - 1) + ms_both**2 / ((n - 1) * (s - 1))
    return max(1.0, (ms_prompt + ms_run - ms_both) ** 2 / of_squares)
