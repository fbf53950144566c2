"""How a table's figure is drawn: the settings that a spec may give, and what they mean for its cells."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from pydantic import Field, FiniteFloat, ValidationInfo, field_validator

from compiler.errors import near
from compiler.frontend.interpolate import Label
from runtime.fields import Frozen


class _Figure(Frozen):
    form: str = Field(description="this form")
    y_from: FiniteFloat = Field(
        0.0, description="where the y axis begins, which it says; lower where something lies below"
    )
    y_to: FiniteFloat | None = Field(
        None, description="where it ends at least; none: above the highest value"
    )
    dashed_y: FiniteFloat | None = Field(None, description="a dashed line across, at this value")

    @field_validator("y_to")
    @classmethod
    def _upwards(cls, y_to: float | None, info: ValidationInfo) -> float | None:
        if y_to is not None and y_to <= info.data.get("y_from", 0.0):
            raise ValueError("it must lie above `y_from`")
        return y_to


class BarsFigure(_Figure):
    """Bars with 95 % intervals, side by side in each row: how a table is drawn that says nothing else."""

    form: Literal["bars"] = Field(description="this form")
    stack: dict[str, str] = Field(
        default_factory=dict,
        description="`column: other column`: it stands on the other one, so that its part of the bar is the "
        "difference; a loss is an empty part",
    )
    hatched: list[str] = Field(default_factory=list, description="columns whose bars are hatched")


class LinesFigure(_Figure):
    """A line with 95 % intervals over an axis of the rows, for each column and value of the other axes."""

    form: Literal["lines"] = Field(description="this form")
    x: str | None = Field(None, description="the axis of the rows that is the x axis; none: the last one")
    x_title: str = Field("", description="what stands below the x axis; none: the axis's name")
    x_percent: bool = Field(False, description="x is a share: 0.1 is shown as 10 %")
    scale: Literal["linear", "log", "even"] = Field(
        "linear", description="`even`: all values equally far apart, also those that are no numbers"
    )
    at: dict[str, FiniteFloat] = Field(
        default_factory=dict,
        description="`column: x`: a column that has one value for all of x is a point there on every line; "
        "others are dashed lines across",
    )
    dashed_x: FiniteFloat | None = Field(None, description="a dashed line upwards, at this x")


Point = Sequence[Label | None]
UNLOGGED = "`scale: linear` or `even` has one"
UNEVEN = "`scale: linear` has one"


class Report(Protocol):
    """Takes a problem: its code, what is wrong, the way out, and where below `figure`."""

    def __call__(self, code: str, message: str, hint: str, *path: str | int) -> None: ...


@dataclass(frozen=True, slots=True)
class Drawn:
    """A table as a figure sees it; columns are (label, score), rows are points of `axes`."""

    columns: Sequence[tuple[str, str]]
    axes: Sequence[str]
    points: Sequence[Point]
    constant: Callable[[int, Sequence[int]], bool]  # whether a column has one value in all these rows


def resolve_figure(told: BarsFigure | LinesFigure, table: Drawn, report: Report) -> dict[str, Any] | None:
    """What the runtime is told, columns by number; None where the figure cannot be drawn so."""
    found = _bars(told, table, report) if isinstance(told, BarsFigure) else _lines(told, table, report)
    if found is None:
        return None
    return {"form": told.form, "y_from": told.y_from, "y_to": told.y_to, "dashed_y": told.dashed_y, **found}


def _column(label: str, table: Drawn, report: Report, *path: str | int) -> int | None:
    labels = [name for name, _ in table.columns]
    if label in labels:
        return labels.index(label)
    report("AC402", f"the table has no column `{label}`", near(label, labels), *path)
    return None


# ---------------------------------------------------------------- bars


def _bars(told: BarsFigure, table: Drawn, report: Report) -> dict[str, Any] | None:
    stack: list[tuple[int, int]] = []
    for upper, lower in told.stack.items():
        here = ("stack", upper)
        top, base = (_column(label, table, report, *here) for label in (upper, lower))
        if top is None or base is None:
            continue
        if upper == lower or lower in told.stack:
            report("AC404", f"`{lower}` stands on a column itself", "a bar has two parts at most", *here)
        elif base in (under for _, under in stack):
            report("AC404", f"another column stands on `{lower}` already", "let one stand beside it", *here)
        elif table.columns[top][1] != table.columns[base][1]:
            scores = " and ".join(f"`{table.columns[i][1]}`" for i in (top, base))
            report("AC404", f"{scores} cannot be stacked", "stack columns of one score", *here)
        else:
            stack.append((top, base))
    hatched = [_column(label, table, report, "hatched", i) for i, label in enumerate(told.hatched)]
    if None in hatched or len(stack) < len(told.stack):
        return None
    return {"stack": stack, "hatched": hatched}


# ---------------------------------------------------------------- lines


def _lines(told: LinesFigure, table: Drawn, report: Report) -> dict[str, Any] | None:
    if not table.axes:
        report("AC404", "rows that are stages have no x axis", "`form: bars` draws them", "form")
        return None
    x = told.x or table.axes[-1]
    if x not in table.axes:
        report("AC402", f"the rows have no axis `{x}`", near(x, table.axes), "x")
        return None
    along = table.axes.index(x)
    lines = [", ".join(str(v) for i, v in enumerate(p) if i != along) for p in table.points]
    places = [_place(point[along], told, x, report) for point in table.points]
    at = _at(told, table, lines, report)
    if at is None or None in places:
        return None
    if told.dashed_x is not None and not _has_place(told.dashed_x, told, [*places, *(x for _, x in at)]):
        report("AC404", f"{told.dashed_x:g} has no place on this axis", UNEVEN, "dashed_x")
        return None
    for line in dict.fromkeys(lines):
        found = {place for place, other in zip(places, lines, strict=True) if other == line}
        if len(found.union(place for _, place in at)) < 2:
            named = f"the line of `{line}`" if line else "a line"
            report("AC404", f"{named} would have one point", "`form: bars` draws single values", "form")
            return None
    return {
        "rows": [{"line": line, "x": place} for line, place in zip(lines, places, strict=True)],
        "x_title": told.x_title or x,
        "x_percent": told.x_percent,
        "scale": told.scale,
        "at": at,
        "dashed_x": told.dashed_x,
    }


def _place(label: Label | None, told: LinesFigure, x: str, report: Report) -> float | str | None:
    """A label's place on the x axis: a number, but for a name on an even scale; None and a problem else."""
    try:
        number = float(str(label))
    except ValueError:
        number = math.nan
    where = "x" if told.x else "form"
    if not math.isfinite(number):
        if told.scale == "even":
            return str(label)
        report("AC404", f"`{label}` of `{x}` is no number", "`scale: even` draws names too", where)
        return None
    if told.scale == "log" and number <= 0:
        report("AC404", f"{label} has no place on a logarithmic scale", UNLOGGED, where)
        return None
    return number


def _has_place(x: float, told: LinesFigure, places: Sequence[float | str | None]) -> bool:
    return x > 0 if told.scale == "log" else x in places if told.scale == "even" else True


def _at(
    told: LinesFigure, table: Drawn, lines: Sequence[str], report: Report
) -> list[tuple[int, float]] | None:
    """The columns that are one point of each line, and where; None and a problem where they cannot be."""
    found: list[tuple[int, float]] = []
    groups = [[i for i, other in enumerate(lines) if other == line] for line in dict.fromkeys(lines)]
    scores = {score for label, score in table.columns if label not in told.at}
    for label, place in told.at.items():
        column = _column(label, table, report, "at", label)
        if column is None:
            continue
        if not all(table.constant(column, rows) for rows in groups):
            report("AC404", f"`{label}` differs along x", "leave it out of `at`: it is a line", "at", label)
        elif table.columns[column][1] not in scores:
            hint = "`at` adds a point to the lines of other columns"
            report("AC404", f"no line shows `{table.columns[column][1]}`", hint, "at", label)
        elif told.scale == "log" and place <= 0:
            report("AC404", f"{place:g} has no place on a logarithmic scale", UNLOGGED, "at", label)
        else:
            found.append((column, place))
    return found if len(found) == len(told.at) else None
