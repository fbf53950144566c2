"""A table as bars, side by side or one upon the other, with 95 % intervals and a dot for each seed."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runtime.results.description import BarsSpec
from runtime.results.metrics import Metric
from runtime.results.style import (
    AXIS_IN,
    CHARACTERS_PER_IN,
    DEFAULT_WIDTH_IN,
    INK,
    MAX_ABREAST,
    PALETTE,
    Scale,
    draw_published,
    dress,
    legend,
    reach_of,
    scale_of,
    sheet,
    tint,
)
from runtime.results.table import Cell, Table
from runtime.results.words import cell_text, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NUMBERED_IN = 0.26  # width of a bar above which numbers over bars do not collide
LOST: dict[str, Any] = {"facecolor": "none", "edgecolor": INK, "linewidth": 0.8, "linestyle": (0, (2, 2))}


@dataclass(frozen=True, slots=True)
class Bar:
    """One cell at its place; the width of a group of bars is 1.

    Of two that share a bar, `on` is the cell that this one stands on, `under` the one that stands on it.
    """

    x: float
    width: float
    colour: str
    cell: Cell
    hatched: bool = False
    on: Cell | None = None
    under: Cell | None = None

    @property
    def lane(self) -> tuple[float, float]:
        """Middle and width of the part that its interval, dots and diamond have to themselves."""
        if self.on is None and self.under is None:
            return self.x, self.width
        return self.x + self.width / 4 * (1 if self.on else -1), self.width / 2

    @property
    def look(self) -> dict[str, Any]:
        hatch = {"hatch": "////", "edgecolor": "white", "linewidth": 0} if self.hatched else {}
        return {"facecolor": self.colour, **hatch}

    @property
    def filled(self) -> tuple[float, float]:
        """From where to where it is filled."""
        value = self.cell.value or 0.0
        if self.under is not None and self.under.value is not None:
            return 0.0, _shared(value, self.under.value)
        if self.on is not None and self.on.value is not None:
            return _shared(value, self.on.value), value
        return 0.0, value

    @property
    def lost(self) -> tuple[float, float] | None:
        """The part of the bar beneath that this one does not reach."""
        if self.on is None or self.on.value is None or self.cell.value is None:
            return None
        shared = _shared(self.on.value, self.cell.value)
        return None if shared == self.on.value else (shared, self.on.value)


def _shared(a: float, b: float) -> float:
    """The end of what two bars from 0 have in common."""
    return 0.0 if a * b <= 0 else min(a, b, key=abs)


@dataclass(frozen=True, slots=True)
class Panel:
    """Bars of one metric. `series` are its columns' labels and colours."""

    metric: Metric
    series: tuple[tuple[str, str], ...]
    bars: tuple[Bar, ...]


def panels(table: Table) -> tuple[Panel, ...]:
    """A panel for each metric, its columns side by side in every row's group."""
    return tuple(_panel(table, metric) for metric in table.metrics)


def stacked(table: Table) -> bool:
    return isinstance(table.figure, BarsSpec) and bool(table.figure.stack)


def _panel(table: Table, metric: Metric) -> Panel:
    told = table.figure if isinstance(table.figure, BarsSpec) else BarsSpec()
    base_of = dict(told.stack)
    top_of = {base: top for top, base in told.stack}
    picked = [i for i, column in enumerate(table.columns) if column.metric.field == metric.field]
    abreast = [i for i in picked if i not in base_of]
    width = min(0.8 / len(abreast), 0.5)  # one bar alone would be as wide as it is high
    left = -width * len(abreast) / 2
    colours = {column: PALETTE[n % len(PALETTE)] for n, column in enumerate(abreast)}
    colours |= {top: tint(colours[base]) for base, top in top_of.items() if base in colours}
    bars = (
        Bar(
            r + left + width * (abreast.index(base_of.get(i, i)) + 0.5),
            width,
            colours[i],
            row.cells[i],
            i in told.hatched,
            row.cells[base_of[i]] if i in base_of else None,
            row.cells[top_of[i]] if i in top_of else None,
        )
        for r, row in enumerate(table.rows)
        for i in picked
    )
    return Panel(metric, tuple((table.columns[i].label, colours[i]) for i in picked), tuple(bars))


def figure(table: Table) -> Figure:
    shown = panels(table)
    bars = max((len(panel.bars) for panel in shown), default=0)
    width = min(max(DEFAULT_WIDTH_IN, AXIS_IN + 0.36 * bars), 16.0)
    abreast = 2 if len(shown) > 1 and bars <= MAX_ABREAST else 1
    lines = -(-len(shown) // abreast)
    made = sheet(width, lines)
    for place, panel in enumerate(shown, 1):
        _draw_panel(made.add_subplot(lines, abreast, place), panel, table, width / abreast)
    return made


def _draw_panel(axes: Axes, panel: Panel, table: Table, width_in: float) -> None:
    scale = scale_of([v for bar in panel.bars for v in reach_of(bar.cell)], table.figure, panel.metric)
    rows = len(table.rows)
    reach = max(rows / 2 + 0.1, 1.5)  # a single bar does not fill the figure
    row_in = (width_in - AXIS_IN) / (2 * reach)
    _draw_bars(axes, panel, table, scale, row_in)
    _label_rows(axes, [row.label for row in table.rows], row_in)
    dress(axes, scale, table.figure, panel.metric)
    axes.set_xlim((rows - 1) / 2 - reach, (rows - 1) / 2 + reach)
    if table.row_header:
        axes.set_xlabel(table.row_header)
    legend(axes, _handles(panel), [bar.cell for bar in panel.bars], table.over, width_in)


def _draw_bars(axes: Axes, panel: Panel, table: Table, scale: Scale, row_in: float) -> None:
    numbered = all(bar.width * row_in >= NUMBERED_IN for bar in panel.bars)
    for bar in panel.bars:
        _draw_bar(axes, bar, panel.metric, table, scale)
        covered = bar.under is not None and bar.under.members
        if numbered and bar.cell.value is not None and bar.lost is None and not covered:
            marked = [bar.cell, bar.on] if bar.on else [bar.cell]
            axes.annotate(
                number(bar.cell.value, panel.metric.decimals), (bar.x, _above(marked, scale)), xytext=(0, 3),
                textcoords="offset points", ha="center", va="bottom", fontsize=7.5,
            )  # fmt: skip
        if bar.cell.published:
            middle, width = bar.lane
            draw_published(axes, middle + width * 0.32, bar.cell.published, INK, zorder=6)


def _draw_bar(axes: Axes, bar: Bar, metric: Metric, table: Table, scale: Scale) -> None:
    cell, value = bar.cell, bar.cell.value
    middle, width = bar.lane
    if value is None:
        if cell.members:  # said, and never a gap that looks like zero
            foot = bar.on.value or 0.0 if bar.on else 0.0
            axes.text(
                middle, max(foot, scale.low) + scale.span * 0.02, cell_text(cell, metric, table.over),
                rotation=90, fontsize=7.5, ha="center", va="bottom", style="italic",
            )  # fmt: skip
    else:
        start, end = bar.filled
        axes.bar(bar.x, end - start, bar.width * 0.92, start, **bar.look)
        if bar.lost:
            start, end = bar.lost
            axes.bar(bar.x, end - start, bar.width * 0.92, start, **LOST)
        low, high = cell.interval or (value, value)
        if high > low:
            ends = [[value - low], [high - value]]
            axes.errorbar(middle, value, yerr=ends, color=INK, linewidth=1.0, capsize=2.5, capthick=1.0)
        if len(cell.members) > 1:
            seeds = [v for v in cell.per_seed if v is not None]
            axes.plot(
                _spread(middle, width, len(seeds)), seeds, linestyle="", marker="o", markersize=3.0,
                markerfacecolor="white", markeredgecolor=INK, markeredgewidth=0.7, zorder=5,
            )  # fmt: skip


def _above(cells: Sequence[Cell], scale: Scale) -> float:
    """Where a bar's number stands clear of intervals, dots and a published value close by."""
    highest = max(v for cell in cells for v in (cell.value or 0.0, *(cell.interval or ()), *_seeds(cell)))
    for cell in cells:
        if (told := cell.published) is not None:
            low, high = told.value - told.half_width, told.value + told.half_width
            if low < highest + 0.1 * scale.span and high > highest:
                highest = high
    return highest


def _seeds(cell: Cell) -> Iterator[float]:
    yield from (value for value in cell.per_seed if value is not None)


def _spread(middle: float, width: float, n: int) -> list[float]:
    """Places of a bar's `n` > 1 dots, side by side, so that equal values are all seen."""
    return [middle + width * 0.5 * (i / (n - 1) - 0.5) for i in range(n)]


def _label_rows(axes: Axes, labels: Sequence[str], row_in: float) -> None:
    """Row labels: wrapped where they fit beside each other, else turned."""
    room = int(row_in * CHARACTERS_PER_IN)
    fits = room >= 8
    wrapped = ["\n".join(textwrap.wrap(label, max(room, 8))[:3]) if fits else label for label in labels]
    axes.set_xticks(range(len(labels)), wrapped, rotation=0 if fits else 40, ha="center" if fits else "right")


def _handles(panel: Panel) -> list[Any]:
    """A patch for each column, and one for what is lost; none for one column, which the scale names."""
    from matplotlib.patches import Patch

    if len(panel.series) == 1:
        return []
    first_row = zip(panel.series, panel.bars, strict=False)
    handles = [Patch(label=label, **{"edgecolor": bar.colour, **bar.look}) for (label, _), bar in first_row]
    lost = {bar.colour for bar in panel.bars if bar.lost}
    return handles + [Patch(label=f"lost by {label}", **LOST) for label, c in panel.series if c in lost]
