"""A table as lines over one axis of its rows: what a method scores with more data, a larger model, a beta."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from runtime.results.description import LinesSpec
from runtime.results.metrics import Metric
from runtime.results.style import (
    DASHED,
    DEFAULT_WIDTH_IN,
    PALETTE,
    Scale,
    draw_published,
    dress,
    legend,
    reach_of,
    scale_of,
    sheet,
)
from runtime.results.table import Cell, Table
from runtime.results.words import cell_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Transform

MARKERS = ("o", "s", "^", "v", "P", "X", "p", "h")  # told apart in grey; diamonds are published values
DASHES = ((0, (4, 3)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))  # of values that hold for all of x
BESIDE_PT = 4.5  # of seeds (left) and published values (right) from their point


@dataclass(frozen=True, slots=True)
class Line:
    """Cells by place; its number says how it looks. `flat`: one cell, whose value holds for all of x."""

    label: str
    number: int
    points: tuple[tuple[float, Cell], ...]
    flat: bool = False

    @property
    def colour(self) -> str:
        return PALETTE[self.number % len(PALETTE)]

    @property
    def look(self) -> dict[str, Any]:
        if self.flat:
            dashes = DASHES[self.number % len(DASHES)]
            return {"color": self.colour, "linewidth": 1.4, "linestyle": dashes}
        marker = MARKERS[self.number % len(MARKERS)]
        return {"color": self.colour, "linewidth": 1.6, "marker": marker, "markersize": 5.0}


@dataclass(frozen=True, slots=True)
class Panel:
    """Lines of one metric over ticks: places and what stands there. `dashed`: a place of interest."""

    metric: Metric
    ticks: tuple[tuple[float, str], ...]
    dashed: float | None
    lines: tuple[Line, ...]


def panels(table: Table) -> tuple[Panel, ...]:
    """A panel for each metric that a line shows; columns of `at` are points of the others' lines."""
    assert isinstance(table.figure, LinesSpec)
    at = [column for column, _ in table.figure.at]
    lines = {column.metric.field for i, column in enumerate(table.columns) if i not in at}
    return tuple(_panel(table, table.figure, metric) for metric in table.metrics if metric.field in lines)


def _panel(table: Table, told: LinesSpec, metric: Metric) -> Panel:
    picked = [i for i, column in enumerate(table.columns) if column.metric.field == metric.field]
    at = [(i, x) for i, x in told.at if i in picked]
    places = _places(told, [*(x for _, x in at), *(row.x for row in told.rows)])
    columns = [i for i in picked if i not in dict(at)]
    lines: list[Line] = []
    for column, name, rows in _runs(table, told, columns):
        cells = [table.rows[r].cells[column] for r in rows]
        flat = _same(cells)
        points = list(zip([places[told.rows[r].x] for r in rows], cells, strict=True))
        points += [(places[x], table.rows[rows[0]].cells[i]) for i, x in at if not flat]
        points = points[:1] if flat else sorted(points, key=lambda point: point[0])
        lines.append(Line(name, len(lines), tuple(points), flat))
    names: dict[float | str, str] = {x: f"\n{table.columns[i].label}" for i, x in at}
    ticks = ((place, _shown(x, told) + names.get(x, "")) for x, place in places.items())
    dashed = None if told.dashed_x is None else places.get(told.dashed_x, told.dashed_x)
    return Panel(metric, tuple(sorted(ticks)), dashed, tuple(lines))


def _runs(table: Table, told: LinesSpec, columns: Sequence[int]) -> Iterator[tuple[int, str, Sequence[int]]]:
    """The lines to draw: column, name, rows. One for each group of rows, or for all where all are one."""
    groups = dict.fromkeys(row.line for row in told.rows)
    for column in columns:
        label = table.columns[column].label
        if len(groups) == 1 or _same([row.cells[column] for row in table.rows]):
            yield column, label, range(len(table.rows))
            continue
        for group in groups:
            rows = [r for r, row in enumerate(told.rows) if row.line == group]
            yield column, group if len(columns) == 1 else f"{group}: {label}", rows


def _same(cells: Sequence[Cell]) -> bool:
    """Whether several cells show one and the same number."""
    kinds = {(tuple(m.key for m in cell.members), cell.published) for cell in cells}
    return len(cells) > 1 and len(kinds) == 1 and bool(cells[0].members)


def _places(told: LinesSpec, xs: Sequence[float | str]) -> dict[float | str, float]:
    """Where each x stands: at its number; on an even scale each a step after the one before."""
    numbers = [x for x in xs if not isinstance(x, str)]
    if told.scale != "even":
        return {x: x for x in numbers}
    ordered = sorted(set(numbers)) if len(numbers) == len(xs) else dict.fromkeys(xs)
    return {x: float(n) for n, x in enumerate(ordered)}


def _shown(x: float | str, told: LinesSpec) -> str:
    return x if isinstance(x, str) else f"{100 * x if told.x_percent else x:g}"


def figure(table: Table) -> Figure:
    shown = panels(table)
    abreast = min(len(shown), 2)
    lines = -(-len(shown) // max(abreast, 1))
    made = sheet(DEFAULT_WIDTH_IN, lines)
    for place, panel in enumerate(shown, 1):
        _draw_panel(made.add_subplot(lines, abreast, place), panel, table, DEFAULT_WIDTH_IN / abreast)
    return made


def _draw_panel(axes: Axes, panel: Panel, table: Table, width_in: float) -> None:
    assert isinstance(table.figure, LinesSpec)
    told, cells = table.figure, [cell for line in panel.lines for _, cell in line.points]
    scale = scale_of([v for cell in cells for v in reach_of(cell)], told, panel.metric)
    _set_x(axes, panel, told, width_in)
    dress(axes, scale, told, panel.metric)
    for n, line in enumerate(panel.lines):
        if line.flat:
            _draw_flat(axes, line, panel)
        else:
            aside = 2.5 * (n - (len(panel.lines) - 1) / 2)  # so that intervals do not hide each other
            _draw_line(axes, line, aside)
    _say_missing(axes, panel, table.over, scale)
    handles = [_handle(line, panel.metric, table.over) for line in panel.lines]
    legend(axes, handles if len(handles) > 1 else [], cells, table.over, width_in, 2.4)


def _set_x(axes: Axes, panel: Panel, told: LinesSpec, width_in: float) -> None:
    if told.scale == "log":
        axes.set_xscale("log")
    places = [place for place, _ in panel.ticks]
    reach = [*places, *filter(None, [panel.dashed])]
    ends = (axes.transScale.transform((x, 1.0))[0] for x in (min(reach), max(reach)))
    first, last = (float(end) for end in ends)
    margin = 0.06 * (last - first)
    undo = axes.transScale.inverted().transform
    axes.set_xlim(undo((first - margin, 1.0))[0], undo((last + margin, 1.0))[0])
    axes.set_xticks(places, [label for _, label in panel.ticks])
    axes.minorticks_off()
    axes.set_xlabel(f"{told.x_title} (%)" if told.x_percent else told.x_title)
    if panel.dashed is not None:
        axes.axvline(panel.dashed, **DASHED)


def _shifted(axes: Axes, points: float) -> Transform:
    """Places of data, moved to the right by so many points."""
    from matplotlib.transforms import ScaledTranslation

    return axes.transData + ScaledTranslation(points / 72, 0, axes.figure.dpi_scale_trans)


def _draw_line(axes: Axes, line: Line, aside: float) -> None:
    xs = [x for x, _ in line.points]
    values = [float("nan") if cell.value is None else cell.value for _, cell in line.points]
    axes.plot(xs, values, **line.look, clip_on=False, transform=_shifted(axes, aside), zorder=3)
    for x, cell in line.points:
        if cell.value is None:
            continue
        if cell.interval:
            ends = [[cell.value - cell.interval[0]], [cell.interval[1] - cell.value]]
            axes.errorbar(
                x, cell.value, yerr=ends, color=line.colour, linewidth=1.0, capsize=2.5, capthick=1.0,
                transform=_shifted(axes, aside), zorder=2.5,
            )  # fmt: skip
        if len(cell.members) > 1:
            for n, value in enumerate(v for v in cell.per_seed if v is not None):
                axes.plot(
                    [x], [value], linestyle="", marker="o", markersize=3.0, markerfacecolor="white",
                    markeredgecolor=line.colour, markeredgewidth=0.8, zorder=4,
                    transform=_shifted(axes, aside - BESIDE_PT - 3.0 * n),
                )  # fmt: skip
    _draw_published(axes, line, aside)


def _draw_published(axes: Axes, line: Line, aside: float) -> None:
    for x, cell in line.points:
        if cell.published:
            beside = _shifted(axes, aside + BESIDE_PT)
            draw_published(axes, x, cell.published, line.colour, zorder=5, clip_on=False, transform=beside)


def _draw_flat(axes: Axes, line: Line, panel: Panel) -> None:
    """A value for all of x: a dashed line in its interval's band, a published value at the right."""
    ((_, cell),) = line.points
    if cell.value is not None:
        axes.axhline(cell.value, **line.look, zorder=1.5)
        if cell.interval:
            axes.axhspan(*cell.interval, color=line.colour, alpha=0.12, linewidth=0)
    _draw_published(axes, replace(line, points=((panel.ticks[-1][0], cell),)), BESIDE_PT)


def _say_missing(axes: Axes, panel: Panel, over: Sequence[str], scale: Scale) -> None:
    """Words where a line has a gap."""
    gaps: dict[float, dict[str, str]] = {}
    lines = [line for line in panel.lines if not line.flat]
    for line in lines:
        for x, cell in line.points:
            if cell.value is None and cell.members:
                gaps.setdefault(x, {})[line.label] = cell_text(cell, panel.metric, over)
    for x, said in gaps.items():
        alike = len(said) == len(lines) and len(set(said.values())) == 1
        words = [*said.values()][:1] if alike else [f"{label}: {text}" for label, text in said.items()]
        axes.text(
            x, scale.low + scale.span * 0.02, "\n".join(words), rotation=90, fontsize=7.5, ha="center",
            va="bottom", style="italic", transform=_shifted(axes, -7.0),
        )  # fmt: skip


def _handle(line: Line, metric: Metric, over: Sequence[str]) -> Any:
    from matplotlib.lines import Line2D

    ((_, cell), *_) = line.points
    missing = line.flat and cell.value is None
    label = f"{line.label} ({cell_text(cell, metric, over)})" if missing else line.label
    return Line2D([], [], label=label, **line.look)
