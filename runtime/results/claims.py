"""Decides the claims of a spec: holds, does not hold, or cannot tell, for our numbers and for published ones.

A claim says that one side is better than another at every place of a table (or at some), by the paired
difference of their means. A side may fall short by less than the margin. At each place two one-sided tests
are made: that the difference lies above minus the margin, and that it lies below.

For `every`: it holds where all places pass the first test, each at the full level (an intersection-union
test: Berger 1982, Technometrics 24); it does not hold where the least p of the second, times the number of
places (Bonferroni), passes. For `some` the other way round. So either verdict is wrong with a probability of
at most (1 - level) / 2 for each claim; several claims are not corrected for each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from runtime.results.description import ClaimSpec, ComparisonSpec, Description, PairSpec
from runtime.results.jobs import Job
from runtime.results.load import Shelf, compared
from runtime.results.metrics import Metric
from runtime.results.table import Cell, Table
from runtime.statistics.estimates import t_tail

Verdict = Literal["holds", "does not hold", "cannot tell"]


@dataclass(frozen=True, slots=True)
class Difference:
    """Better side minus the other at one place; `missing` says why a number is not there.

    df: degrees of freedom of Student's distribution; None: the normal one.
    """

    label: str
    mean: float | None = None
    standard_error: float | None = None
    df: float | None = None
    missing: str = ""

    def above(self, bound: float) -> float | None:
        """One-sided p of the test that the difference is larger than `bound`; None where nothing is known."""
        if self.mean is None or self.standard_error is None:
            return None
        distance = self.mean - bound
        if self.standard_error == 0:
            return 0.0 if distance > 0 else 1.0
        t = abs(distance) / self.standard_error
        tail = 0.5 * math.erfc(t / math.sqrt(2)) if self.df is None else t_tail(t, self.df)
        return tail if distance > 0 else 1 - tail

    def below(self, bound: float) -> float | None:
        """The same for smaller."""
        return self.turned().above(-bound)

    def turned(self) -> Difference:
        """The other side minus the better one."""
        return self if self.mean is None else replace(self, mean=-self.mean)


@dataclass(frozen=True, slots=True)
class Decision:
    """What some numbers say on a claim."""

    verdict: Verdict
    differences: tuple[Difference, ...]


@dataclass(frozen=True, slots=True)
class Decided:
    """A claim with its verdicts; `published` is None where nothing was published on any of its places."""

    claim: ClaimSpec
    metric: Metric
    ours: Decision
    published: Decision | None


def decide(differences: Sequence[Difference], margin: float, *, every: bool, level: float) -> Verdict:
    """The verdict over all places; what is said of every place needs the numbers of all."""
    if not every:  # some are ahead, unless every one is behind
        turned: dict[Verdict, Verdict] = {"holds": "does not hold", "does not hold": "holds"}
        found = decide([d.turned() for d in differences], -margin, every=True, level=level)
        return turned.get(found, found)
    alpha = (1 - level) / 2
    passed = [d.above(-margin) for d in differences]
    if all(p is not None and p < alpha for p in passed):
        return "holds"
    failed = [p for d in differences if (p := d.below(-margin)) is not None]
    return "does not hold" if failed and len(differences) * min(failed) < alpha else "cannot tell"


def decide_claims(
    description: Description, tables: Sequence[Table], jobs: Mapping[str, Job], shelf: Shelf
) -> list[Decided]:
    """Every claim of a description, from its tables as loaded."""
    loaded = {table.name: table for table in tables}
    return [_decided(claim, description, loaded[claim.table], jobs, shelf) for claim in description.claims]


def _decided(
    claim: ClaimSpec, description: Description, table: Table, jobs: Mapping[str, Job], shelf: Shelf
) -> Decided:
    metric = _metric(table, claim.pairs[0].a[1])
    ours = [_ours(pair, claim, description, jobs, shelf) for pair in claim.pairs]
    published = [_published(pair, table) for pair in claim.pairs]
    told = any(d.mean is not None for d in published)
    return Decided(claim, metric, _decision(ours, claim), _decision(published, claim) if told else None)


def _decision(differences: Sequence[Difference], claim: ClaimSpec) -> Decision:
    verdict = decide(differences, claim.margin, every=claim.of == "every", level=claim.level)
    return Decision(verdict, tuple(differences))


def _metric(table: Table, column: str) -> Metric:
    return next(c.metric for c in table.columns if c.label == column)


def _ours(
    pair: PairSpec, claim: ClaimSpec, description: Description, jobs: Mapping[str, Job], shelf: Shelf
) -> Difference:
    spec = next(table for table in description.tables if table.name == claim.table)
    a, b = (spec.members(*place) for place in (pair.a, pair.b))
    field = next(column.metric for column in spec.columns if column.label == pair.a[1])
    asked = ComparisonSpec(label="", field=field, a=a, b=b, a_label=claim.better, b_label=claim.than)
    found = compared(asked, spec.over, jobs, shelf)
    df = None if found.n_prompts is None else found.n_prompts - 1
    return Difference(pair.label, found.mean, found.standard_error, df, found.missing)


def _published(pair: PairSpec, table: Table) -> Difference:
    """As if the two sides had been asked other prompts: what was printed tells no pairs."""
    a, b = (_cell(table, *place).published for place in (pair.a, pair.b))
    if a is None or b is None:
        return Difference(pair.label, missing="nothing published")
    if a.standard_error is None or b.standard_error is None:
        return Difference(pair.label, a.value - b.value, missing="published without an error")
    error = (a.standard_error**2 + b.standard_error**2) ** 0.5
    return Difference(pair.label, a.value - b.value, error)


def _cell(table: Table, row: str, column: str) -> Cell:
    at = [c.label for c in table.columns].index(column)
    return next(r for r in table.rows if r.label == row).cells[at]
