"""The one typed table from which text, Markdown, CSV, LaTeX, figures and the report are rendered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as made_by  # `field` is a name of Member
from functools import cache
from typing import Any

from runtime.results.description import BarsSpec, FigureSpec
from runtime.results.metrics import Metric
from runtime.statistics.estimates import normal_quantile, t_quantile, wilson


@cache
def quantile95(n: int | None = None) -> float:
    """How many standard errors a 95 % interval reaches to each side: Student's for n values."""
    return t_quantile(0.975, n - 1) if n and n > 1 else normal_quantile(0.975)


def interval95(
    value: float, error: float | None, n: int | None, metric: Metric
) -> tuple[float, float] | None:
    """The 95 % interval of a mean over n prompts; that of a rate stays between 0 and 100.

    Where all prompts came out alike the error is 0, which does not make the rate certain: Wilson's
    interval then says what that many prompts can tell.
    """
    if error is None:
        return None
    if metric.is_percent and not error and n:
        low, high = wilson(value / 100 * n, n)
        return 100 * low, 100 * high
    half = quantile95(n) * error
    low, high = value - half, value + half
    return (max(low, 0.0), min(high, 100.0)) if metric.is_percent else (low, high)


@dataclass(frozen=True, slots=True)
class Member:
    """One job's number. `value` is None exactly where `missing` says why."""

    node: str
    kind: str
    key: str
    field: str
    place: str = ""
    axes: Mapping[str, Any] = made_by(default_factory=dict)
    label: str = ""  # "seed 1": its place on the axes that the table averages over
    value: float | None = None
    standard_error: float | None = None
    n_prompts: int | None = None
    status: str = "done"
    missing: str = ""


@dataclass(frozen=True, slots=True)
class Published:
    """What a paper printed for the same cell."""

    value: float
    standard_error: float | None = None
    source: str = ""

    @property
    def half_width(self) -> float:
        """How far its 95 % interval reaches to each side; 0 where no error was printed."""
        return quantile95() * (self.standard_error or 0.0)


@dataclass(frozen=True, slots=True)
class Cell:
    """A number of the table: the mean over its members, or nothing where one of them is missing.

    No members: the experiment has no such job (a paper may still have printed a value).
    `standard_error` is that of the prompts: scores are averaged over the members first, so prompts
    that are hard for every seed are not counted as independent evidence. It does not hold the spread
    between training runs, which is `spread` (standard deviation over the members).
    """

    members: tuple[Member, ...] = ()
    value: float | None = None
    standard_error: float | None = None
    spread: float | None = None
    n_prompts: int | None = None
    interval: tuple[float, float] | None = None  # 95 %, over prompts
    published: Published | None = None
    best: bool = False  # ahead of all others of its kind in the table, see `load`

    @property
    def n_expected(self) -> int:
        return len(self.members)

    @property
    def n_seeds(self) -> int:
        """How many members have a number."""
        return sum(member.value is not None for member in self.members)

    @property
    def per_seed(self) -> tuple[float | None, ...]:
        return tuple(member.value for member in self.members)

    @property
    def missing(self) -> tuple[Member, ...]:
        return tuple(member for member in self.members if member.value is None)


@dataclass(frozen=True, slots=True)
class Column:
    label: str
    metric: Metric
    published: bool = False  # whether some cell has a published value


@dataclass(frozen=True, slots=True)
class Row:
    label: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """`a` minus `b` on the same prompts. No numbers where `missing` says why."""

    row: str
    column: str
    label: str
    a_label: str
    b_label: str
    metric: Metric
    a: tuple[Member, ...]
    b: tuple[Member, ...]
    mean: float | None = None
    standard_error: float | None = None
    low: float | None = None
    high: float | None = None
    n_prompts: int | None = None
    missing: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    name: str
    caption: str
    row_header: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    over: tuple[str, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    figure: FigureSpec = made_by(default_factory=BarsSpec)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Those of its columns, each once."""
        return tuple({column.metric.field: column.metric for column in self.columns}.values())
