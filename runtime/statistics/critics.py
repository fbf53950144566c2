"""What can be said of critics from their verdicts: bias, consistency, agreement with each other and people.

A verdict counts as a win, from 0 to 1, of the second answer of its pair; which answer that is, is the
same for all critics. Shares are in percent, with Wilson's interval where they count pairs.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from runtime.statistics.estimates import (
    LEVEL,
    Estimate,
    mean,
    normal_quantile,
    standard_error,
    t_quantile,
    wilson,
)

SAME, TIE, OTHER = -1, 0, 1  # the first answer, neither, the second


@dataclass(frozen=True, slots=True)
class Verdict:
    """One reply about one pair, or a person's label.

    win: None where there is no verdict. second_first: whether the second answer was shown first; None
    where nobody knows. longer: SAME where the first answer is the longer one, OTHER where the second is.
    """

    pair: str
    win: float | None
    second_first: bool | None = None
    longer: int = TIE
    unreadable: bool = False

    @property
    def category(self) -> int | None:
        return None if self.win is None else (self.win > 0.5) - (self.win < 0.5)


@dataclass(frozen=True, slots=True)
class Share:
    """A share in percent with its 95 % interval; n is what it is a share of."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Critic:
    """A critic and all its verdicts; `usd` is what they cost, None where nobody knows."""

    name: str
    verdicts: Sequence[Verdict]
    usd: float | None = None


@dataclass(frozen=True, slots=True)
class Figures:
    """What one critic's verdicts show; None where they cannot. Verdicts on a pair count by their mean.

    position_bias: points that an answer gains by being shown first. swap_agreement: pairs on which the
    verdict stayed the same when the answers changed places; consistency: when the same was asked again.
    noise: deviation of one verdict from the mean of those on the same pair in the same order, in points.
    longer: decided verdicts for the longer answer, where one is. usd_per_label: of a pair that it decided.
    """

    name: str
    pairs: int
    verdicts: int
    decided: Share | None
    ties: Share | None
    unreadable: Share | None
    no_reply: Share | None
    position_bias: Estimate | None
    swap_agreement: Share | None
    consistency: Share | None
    noise: float | None
    longer: Share | None
    usd: float | None
    usd_per_label: float | None


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two critics on the pairs that both judged: how often they agree, and Cohen's kappa."""

    a: str
    b: str
    agreement: Share
    kappa: Estimate | None


def share(count: float, n: int, level: float = LEVEL) -> Share | None:
    """None for a share of nothing."""
    if not n:
        return None
    low, high = wilson(count, n, level)
    return Share(100 * count / n, 100 * low, 100 * high, n)


# ---------------------------------------------------------------- one critic


def figures(critic: Critic) -> Figures:
    verdicts = critic.verdicts
    pairs = _grouped(verdicts)
    said = _grouped(v for v in verdicts if v.win is not None)
    telling = _grouped(v for v in verdicts if v.category and v.longer)
    decided = sum(label != TIE for label in of_pairs(verdicts).values())
    return Figures(
        critic.name,
        pairs=len(pairs),
        verdicts=len(verdicts),
        decided=_shared(pairs, lambda v: v.category not in (None, TIE)),
        ties=_shared(pairs, lambda v: v.category == TIE),
        unreadable=_shared(pairs, lambda v: v.unreadable),
        no_reply=_shared(pairs, lambda v: v.win is None and not v.unreadable),
        position_bias=position_bias(verdicts),
        swap_agreement=_agreeing(said, swapped=True),
        consistency=_agreeing(said, swapped=False),
        noise=noise(verdicts),
        longer=_shared(telling, lambda v: v.category == v.longer),
        usd=critic.usd,
        usd_per_label=critic.usd / decided if critic.usd is not None and decided else None,
    )


Grouped = Mapping[str, Sequence[Verdict]]


def _grouped(verdicts: Iterable[Verdict]) -> Grouped:
    """Verdicts by pair."""
    found: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        found[verdict.pair].append(verdict)
    return found


def _shared(pairs: Grouped, is_so: Callable[[Verdict], bool]) -> Share | None:
    """The share of verdicts of which something is so, averaged by pair: the interval is over pairs."""
    return share(math.fsum(mean([float(is_so(v)) for v in some]) for some in pairs.values()), len(pairs))


def of_pairs(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """One category for each pair: that of most of its verdicts, a tie where none has most."""
    votes: dict[str, Counter[int]] = defaultdict(Counter)
    for verdict in verdicts:
        if verdict.category is not None:
            votes[verdict.pair][verdict.category] += 1
    found = {}
    for pair, counted in votes.items():
        (category, most), *rest = counted.most_common(2)
        found[pair] = TIE if rest and rest[0][1] == most else category
    return found


def position_bias(verdicts: Iterable[Verdict], level: float = LEVEL) -> Estimate | None:
    """Points by which an answer wins more often when it is shown first; None where orders do not differ.

    Of pairs shown in both orders the mean difference between them, with Student's interval over pairs.
    Where there are none, the difference between pairs shown in the one and in the other order, which a
    coin has mixed. A critic that takes the first answer unread with probability p has 100 p points.
    """
    wins: dict[str, dict[bool, list[float]]] = defaultdict(lambda: {True: [], False: []})
    for verdict in verdicts:
        if verdict.win is not None and verdict.second_first is not None:
            wins[verdict.pair][verdict.second_first].append(100 * verdict.win)
    both = [mean(w[True]) - mean(w[False]) for w in wins.values() if w[True] and w[False]]
    if both:
        return _estimate(mean(both), standard_error(both), len(both), level)
    first, second = ([mean(w[order]) for w in wins.values() if w[order]] for order in (True, False))
    one, other = standard_error(first), standard_error(second)
    if one is None or other is None:
        return None
    return _estimate(mean(first) - mean(second), math.hypot(one, other), len(first) + len(second), level)


def _estimate(middle: float, error: float | None, n: int, level: float) -> Estimate:
    """Student's interval; where all pairs came out alike, as far as Wilson's would reach."""
    if error is None:
        return Estimate(middle, None, None, None, n)
    half = t_quantile((1 + level) / 2, n - 1) * error if error else 100 * wilson(0, n, level)[1]
    return Estimate(middle, error, max(middle - half, -100.0), min(middle + half, 100.0), n)


def noise(verdicts: Iterable[Verdict]) -> float | None:
    """How much repeated verdicts vary, in points: their deviation within pairs and orders, all pooled.

    Its square is the judge's part of the variance of a score (see `intervals.components`). None where
    nothing was asked twice.
    """
    wins: dict[tuple[str, bool | None], list[float]] = defaultdict(list)
    for verdict in verdicts:
        if verdict.win is not None:
            wins[verdict.pair, verdict.second_first].append(100 * verdict.win)
    freedom = sum(len(repeats) - 1 for repeats in wins.values())
    squares = ((x - mean(repeats)) ** 2 for repeats in wins.values() for x in repeats)
    return math.sqrt(math.fsum(squares) / freedom) if freedom else None


def _orders(a: Verdict, b: Verdict, *, swapped: bool) -> bool:
    """Whether two verdicts are known to be of swapped orders, or else of none that differ."""
    return ({a.second_first, b.second_first} == {True, False}) == swapped


def _agreeing(pairs: Grouped, *, swapped: bool) -> Share | None:
    """The share of agreeing verdicts, each two on a pair that were shown in other, or the same, orders.

    Averaged by pair, so that the interval is Wilson's over pairs.
    """
    shares = []
    for verdicts in pairs.values():
        alike = [
            a.category == b.category
            for a, b in combinations(verdicts, 2)
            if _orders(a, b, swapped=swapped)
            if (a.second_first != b.second_first) == swapped
        ]
        if alike:
            shares.append(sum(alike) / len(alike))
    return share(math.fsum(shares), len(shares))


# ---------------------------------------------------------------- two critics


def agree(a: Critic, b: Critic, level: float = LEVEL) -> Agreement | None:
    """On the pairs that both have a verdict on, each with one (see `of_pairs`); None where there are none."""
    left, right = of_pairs(a.verdicts), of_pairs(b.verdicts)
    common = Counter((label, right[pair]) for pair, label in left.items() if pair in right)
    found = share(sum(count for (x, y), count in common.items() if x == y), common.total(), level)
    return Agreement(a.name, b.name, found, kappa(common, level)) if found else None


def kappa(counts: Mapping[tuple[int, int], int], level: float = LEVEL) -> Estimate | None:
    """Cohen's kappa of two critics from how often each two categories met; None where chance alone agrees.

    The error is that of large samples (Fleiss, Cohen, Everitt 1969, formula 13).
    """
    n = sum(counts.values())
    categories = sorted({category for cell in counts for category in cell})
    p = {cell: count / n for cell, count in counts.items()}
    row = {c: math.fsum(p.get((c, other), 0.0) for other in categories) for c in categories}
    column = {c: math.fsum(p.get((other, c), 0.0) for other in categories) for c in categories}
    seen = math.fsum(p.get((c, c), 0.0) for c in categories)
    chance = math.fsum(row[c] * column[c] for c in categories)
    if chance >= 1 - 1e-12:
        return None
    found = (seen - chance) / (1 - chance)
    on = math.fsum(p.get((c, c), 0.0) * (1 - (row[c] + column[c]) * (1 - found)) ** 2 for c in categories)
    off = math.fsum(x * (column[i] + row[j]) ** 2 for (i, j), x in p.items() if i != j) * (1 - found) ** 2
    rest = (found - chance * (1 - found)) ** 2
    error = math.sqrt(max(0.0, on + off - rest) / n) / (1 - chance)
    half = normal_quantile((1 + level) / 2) * error
    return Estimate(found, error, max(found - half, -1.0), min(found + half, 1.0), n)
