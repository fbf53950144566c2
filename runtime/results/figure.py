"""One figure for a table: grouped bars with 95 % intervals over prompts, a dot for each seed.

Drawn without a display, and the same table gives the same bytes: no date, no random identifiers.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from runtime.results.metrics import Metric
from runtime.results.table import Cell, Table, quantile95
from runtime.results.words import cell_text, noun_of, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette without its yellow and black: told apart by all, also in grey where ordered so.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C8C8C", "#5B4B8A")
INK = "#1b1b1f"
FAINT = "#d4d4d8"
STYLE = {
    "font.family": "DejaVu Sans", "font.size": 9.0, "text.color": INK, "axes.labelcolor": INK,
    "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK, "grid.color": FAINT,
    "svg.hashsalt": "alignc", "svg.fonttype": "path", "pdf.fonttype": 42,
}  # fmt: skip
# Dates and versions would make equal figures differ.
METADATA: dict[str, dict[str, Any]] = {
    "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
    "pdf": {"CreationDate": None, "ModDate": None, "Producer": None, "Creator": None},
    "png": {"Software": None},
}
Format = Literal["svg", "pdf", "png"]
NUMBERED_IN = 0.26  # width of a bar above which numbers over bars do not collide
MAX_ABREAST = 10  # bars of a panel; above this panels stand below each other
DEFAULT_WIDTH_IN = 7.0
PANEL_HEIGHT_IN = 3.2
CHARACTERS_PER_IN = 12  # of 9 points, on average
AXIS_IN = 0.7  # taken by the scale on the left


@dataclass(frozen=True, slots=True)
class Bar:
    """One cell at its place; the width of a group of bars is 1."""

    x: float
    width: float
    colour: str
    cell: Cell


@dataclass(frozen=True, slots=True)
class Panel:
    """Bars of one metric. `series` are its columns' labels and colours."""

    metric: Metric
    series: tuple[tuple[str, str], ...]
    bars: tuple[Bar, ...]


def panels(table: Table) -> tuple[Panel, ...]:
    """A panel for each metric, its columns side by side in every row's group."""
    return tuple(_panel(table, metric) for metric in table.metrics)


def _panel(table: Table, metric: Metric) -> Panel:
    picked = [i for i, column in enumerate(table.columns) if column.metric.field == metric.field]
    colours = [PALETTE[n % len(PALETTE)] for n in range(len(picked))]
    width = min(0.8 / len(picked), 0.5)  # one bar alone would be as wide as it is high
    left = -width * len(picked) / 2
    bars = (
        Bar(r + left + width * (n + 0.5), width, colours[n], row.cells[i])
        for r, row in enumerate(table.rows)
        for n, i in enumerate(picked)
    )
    series = tuple((table.columns[i].label, colour) for i, colour in zip(picked, colours, strict=True))
    return Panel(metric, series, tuple(bars))


def draw(table: Table, format: Format = "svg") -> bytes:
    """The figure as a file of this format. Raises ImportError where matplotlib is absent."""
    return saved(lambda: _figure(table), format)


def saved(make: Callable[[], Figure], format: Format) -> bytes:
    """What is made in our style, as a file of this format."""
    import matplotlib

    # Not pyplot, which would ask for a display and keep every figure in memory.
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        figure = make()
        out = io.BytesIO()
        figure.savefig(out, format=format, metadata=METADATA[format], dpi=200, transparent=format == "svg")
    return out.getvalue()


def _figure(table: Table) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = panels(table)
    bars = max((len(panel.bars) for panel in shown), default=0)
    width = min(max(DEFAULT_WIDTH_IN, AXIS_IN + 0.36 * bars), 16.0)
    abreast = 2 if len(shown) > 1 and bars <= MAX_ABREAST else 1
    lines = -(-len(shown) // abreast)
    figure = Figure(figsize=(width, PANEL_HEIGHT_IN * lines), layout="constrained")
    FigureCanvasAgg(figure)
    for place, panel in enumerate(shown, 1):
        _draw_panel(figure.add_subplot(lines, abreast, place), panel, table, width / abreast)
    return figure


def _draw_panel(axes: Axes, panel: Panel, table: Table, width_in: float) -> None:
    top = _top(panel)
    rows = len(table.rows)
    reach = max(rows / 2 + 0.1, 1.5)  # a single bar does not fill the figure
    row_in = (width_in - AXIS_IN) / (2 * reach)
    numbered = all(bar.width * row_in >= NUMBERED_IN for bar in panel.bars)
    for bar in panel.bars:
        _draw_bar(axes, bar, panel.metric, table, top, numbered)
    _label_rows(axes, [row.label for row in table.rows], row_in)
    axes.set_ylim(min(0.0, _bottom(panel)), top * 1.1)
    axes.set_xlim((rows - 1) / 2 - reach, (rows - 1) / 2 + reach)
    unit = f" ({panel.metric.unit})" if panel.metric.unit else ""
    axes.set_ylabel(panel.metric.title[:1].upper() + panel.metric.title[1:] + unit)
    axes.grid(axis="y", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="both", length=0)
    if table.row_header:
        axes.set_xlabel(table.row_header)
    _legend(axes, panel, table, width_in)


def _draw_bar(axes: Axes, bar: Bar, metric: Metric, table: Table, top: float, numbered: bool) -> None:
    cell, value = bar.cell, bar.cell.value
    published = cell.published
    if value is None:
        if cell.members:  # said, and never a gap that looks like zero
            axes.text(
                bar.x, top * 0.02, cell_text(cell, metric, table.over), rotation=90, fontsize=7.5,
                ha="center", va="bottom", style="italic",
            )  # fmt: skip
    else:
        axes.bar(bar.x, value, bar.width * 0.92, color=bar.colour)
        low, high = cell.interval or (value, value)
        if high > low:
            ends = [[value - low], [high - value]]
            axes.errorbar(bar.x, value, yerr=ends, color=INK, linewidth=1.0, capsize=2.5, capthick=1.0)
        if len(cell.members) > 1:
            seeds = [v for v in cell.per_seed if v is not None]
            axes.plot(
                _spread(bar, len(seeds)), seeds, linestyle="", marker="o", markersize=3.0,
                markerfacecolor="white", markeredgecolor=INK, markeredgewidth=0.7, zorder=5,
            )  # fmt: skip
        if numbered:
            highest = _above(cell, high, top)
            axes.annotate(
                number(value, metric.decimals), (bar.x, highest), xytext=(0, 3),
                textcoords="offset points", ha="center", va="bottom", fontsize=7.5,
            )  # fmt: skip
    if published:
        half = quantile95() * (published.standard_error or 0.0)
        axes.errorbar(
            bar.x + bar.width * 0.32, published.value, yerr=half or None, color=INK, linewidth=0.7,
            capsize=1.5, marker="D", markersize=4.0, markerfacecolor="white",
            markeredgewidth=0.9, zorder=6,
        )  # fmt: skip


def _above(cell: Cell, end: float, top: float) -> float:
    """Where a bar's number stands clear of its interval, its dots and a published value close by."""
    highest = max([end, *(v for v in cell.per_seed if v is not None)])
    if cell.published:
        half = quantile95() * (cell.published.standard_error or 0.0)
        low, high = cell.published.value - half, cell.published.value + half
        if low < highest + 0.1 * top and high > highest:
            return high
    return highest


def _spread(bar: Bar, n: int) -> list[float]:
    """Places of a bar's `n` > 1 dots, side by side, so that equal values are all seen."""
    return [bar.x + bar.width * 0.5 * (i / (n - 1) - 0.5) for i in range(n)]


def _reach(panel: Panel) -> Iterator[float]:
    for bar in panel.bars:
        yield from bar.cell.interval or ()
        yield from (
            v for v in (bar.cell.value, *bar.cell.per_seed) if v is not None and bar.cell.value is not None
        )
        if bar.cell.published:
            error = quantile95() * (bar.cell.published.standard_error or 0.0)
            yield from (bar.cell.published.value - error, bar.cell.published.value + error)


def _top(panel: Panel) -> float:
    highest = max(_reach(panel), default=0.0)
    return highest if highest > 0 else 100.0 if panel.metric.is_percent else 1.0


def _bottom(panel: Panel) -> float:
    return min(_reach(panel), default=0.0)


def _label_rows(axes: Axes, labels: Sequence[str], row_in: float) -> None:
    """Row labels: wrapped where they fit beside each other, else turned."""
    room = int(row_in * CHARACTERS_PER_IN)
    fits = room >= 8
    wrapped = ["\n".join(textwrap.wrap(label, max(room, 8))[:3]) if fits else label for label in labels]
    axes.set_xticks(range(len(labels)), wrapped, rotation=0 if fits else 40, ha="center" if fits else "right")


def _legend(axes: Axes, panel: Panel, table: Table, width_in: float) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Patch(color=colour, label=label) for label, colour in panel.series]
    if len(handles) == 1:
        handles = []  # the scale says what the bars are
    dot: dict[str, Any] = {
        "marker": "o",
        "markersize": 3.5,
        "markerfacecolor": "white",
        "markeredgecolor": INK,
    }
    if any(len(bar.cell.members) > 1 and bar.cell.value is not None for bar in panel.bars):
        handles.append(Line2D([], [], linestyle="", label=f"one {noun_of(table.over)}", **dot))
    if any(bar.cell.published for bar in panel.bars):
        handles.append(Line2D([], [], linestyle="", label="published", **{**dot, "marker": "D"}))
    if handles:
        longest = max(len(handle.get_label()) for handle in handles) + 4
        abreast = max(1, int(width_in * CHARACTERS_PER_IN / longest))
        axes.legend(
            handles=handles, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=min(len(handles), abreast),
            frameon=False, borderaxespad=0.2, handlelength=1.1, columnspacing=1.4,
        )  # fmt: skip


def for_dark_pages(svg: bytes) -> bytes:
    """The same SVG with a rule of its own that turns ink light where the reader's page is dark."""
    rules = "".join(
        f'[style*="{name}: {colour}"]{{{name}:{light}!important}}'
        for colour, light in ((INK, "#e4e4e7"), (FAINT, "#3f3f46"))
        for name in ("fill", "stroke")
    )
    style = f"<style>@media screen and (prefers-color-scheme: dark){{{rules}}}</style>".encode()
    head, end, rest = svg.partition(b"<defs>")
    return head + style + end + rest if end else svg
