"""How figures look, and how they become files: the same figure gives the same bytes, without a display."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from runtime.results.description import FigureSpec
from runtime.results.metrics import Metric
from runtime.results.table import Cell, Published
from runtime.results.words import noun_of, number

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
    "text.parse_math": False, "svg.hashsalt": "alignc", "svg.fonttype": "path", "pdf.fonttype": 42,
}  # fmt: skip
# Dates and versions would make equal figures differ.
METADATA: dict[str, dict[str, Any]] = {
    "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
    "pdf": {"CreationDate": None, "ModDate": None, "Producer": None, "Creator": None},
    "png": {"Software": None},
}
Format = Literal["svg", "pdf", "png"]
MAX_ABREAST = 10  # values of a panel; above this panels stand below each other
DEFAULT_WIDTH_IN = 7.0
PANEL_HEIGHT_IN = 3.2
CHARACTERS_PER_IN = 12  # of 9 points, on average
AXIS_IN = 0.7  # taken by the scale on the left
DASHED: dict[str, Any] = {"color": INK, "linewidth": 0.9, "linestyle": (0, (4, 3)), "zorder": 1.5}


@dataclass(frozen=True, slots=True)
class Scale:
    """The y axis: it shows all from `low` to `end`; values reach up to `top`."""

    low: float
    top: float
    end: float

    @property
    def span(self) -> float:
        return self.top - self.low


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


def sheet(width_in: float, lines: int) -> Figure:
    """An empty figure for as many lines of panels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, PANEL_HEIGHT_IN * lines), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def reach_of(cell: Cell) -> list[float]:
    """All that a figure shows of a cell: mean, interval, seeds, what was published."""
    shown = [*(cell.interval or ()), cell.value, *cell.per_seed] if cell.value is not None else []
    if (told := cell.published) is not None:
        shown += [told.value - told.half_width, told.value + told.half_width]
    return [value for value in shown if value is not None]


def draw_published(axes: Axes, x: float, published: Published, colour: str, **more: Any) -> None:
    """A white diamond with its interval."""
    axes.errorbar(
        [x], [published.value], yerr=published.half_width or None, color=colour, linewidth=0.7, capsize=1.5,
        marker="D", markersize=4.0, markerfacecolor="white", markeredgewidth=0.9, **more,
    )  # fmt: skip


def scale_of(values: Sequence[float], told: FigureSpec, metric: Metric) -> Scale:
    """The y axis that was asked for, wider where it would hide something."""
    if told.dashed_y is not None:
        values = [*values, told.dashed_y]
    lowest, top = min(values, default=told.y_from), max(values, default=0.0)
    low = min(told.y_from, lowest)
    if 0 < low < told.y_from:
        step = 5.0 if top - low > 10 else 1.0 if top - low > 2 else 0.1
        low = step * (low // step)
    if top <= max(low, 0.0):
        top = 100.0 if metric.is_percent and low < 100 else max(low, 0.0) + 1.0
    end = top + 0.1 * (top - max(low, 0.0))
    return Scale(low, top, max(end, told.y_to) if told.y_to is not None else end)


def dress(axes: Axes, scale: Scale, told: FigureSpec, metric: Metric) -> None:
    """The y axis with its name, which says where it does not begin at 0; the grid; the dashed line."""
    axes.set_ylim(scale.low, scale.end)
    unit = f" ({metric.unit})" if metric.unit else ""
    cut = f", axis from {number(scale.low, 0 if scale.low == round(scale.low) else 2)}"
    name = metric.title[:1].upper() + metric.title[1:] + unit
    axes.set_ylabel(name + cut if scale.low > 0 else name)
    axes.grid(axis="y", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="both", length=0)
    if told.dashed_y is not None:
        axes.axhline(told.dashed_y, **DASHED)


def legend(
    axes: Axes,
    handles: list[Any],
    cells: Sequence[Cell],
    over: Sequence[str],
    width_in: float,
    handle: float = 1.1,
) -> None:
    """Above the panel: the handles, so many letters wide, and what its dots and diamonds are."""
    from matplotlib.lines import Line2D

    dot: dict[str, Any] = {
        "marker": "o",
        "markersize": 3.5,
        "markerfacecolor": "white",
        "markeredgecolor": INK,
    }
    if any(len(cell.members) > 1 and cell.value is not None for cell in cells):
        handles.append(Line2D([], [], linestyle="", label=f"one {noun_of(over)}", **dot))
    if any(cell.published for cell in cells):
        handles.append(Line2D([], [], linestyle="", label="published", **{**dot, "marker": "D"}))
    if handles:
        longest = max(len(handle.get_label()) for handle in handles) + 4
        abreast = max(1, int(width_in * CHARACTERS_PER_IN / longest))
        axes.legend(
            handles=handles, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=min(len(handles), abreast),
            frameon=False, borderaxespad=0.2, handlelength=handle, columnspacing=1.4,
        )  # fmt: skip


def tint(colour: str) -> str:
    """A lighter colour, which also in grey stands out from the colour itself."""
    return _mixed(colour, 255)


def _mixed(colour: str, other: int) -> str:
    """A colour with as much again of white (255) or black (0)."""
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(0.55 * other + 0.45 * part):02x}" for part in parts)


def for_dark_pages(svg: bytes) -> bytes:
    """The same SVG with a rule of its own where the reader's page is dark: ink turns light, tints dark."""
    changes = {INK: "#e4e4e7", FAINT: "#3f3f46"}
    changes |= {tint(c): _mixed(c, 0) for c in PALETTE if tint(c).encode() in svg}
    rules = "".join(
        f'[style*="{name}: {colour}"]{{{name}:{other}!important}}'
        for colour, other in changes.items()
        for name in ("fill", "stroke")
    )
    style = f"<style>@media screen and (prefers-color-scheme: dark){{{rules}}}</style>".encode()
    head, end, rest = svg.partition(b"<defs>")
    return head + style + end + rest if end else svg
