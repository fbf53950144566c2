"""Figures of lines that a stage told in its artifact, as `figure.json`, drawn in the style of the tables'."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from runtime.files import read_json
from runtime.results.jobs import Job
from runtime.results.style import DEFAULT_WIDTH_IN, PALETTE, Format, saved, sheet
from runtime.store import Store

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIGURE = "figure.json"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Line(_Part):
    """Values at 0, 1, 2 ..."""

    label: str
    y: Annotated[tuple[FiniteFloat, ...], Field(min_length=1)]


class Panel(_Part):
    """Lines on one scale; `x` and `y` name its axes."""

    title: str = ""
    x: str = ""
    y: str = ""
    lines: Annotated[tuple[Line, ...], Field(min_length=1)]


class Drawing(_Part):
    """A figure: its panels side by side."""

    panels: Annotated[tuple[Panel, ...], Field(min_length=1, max_length=4)]


def drawings(store: Store, jobs: Iterable[Job]) -> Iterator[tuple[Job, Drawing]]:
    """The figure of the first job of each stage that told one; what cannot be read is passed over."""
    seen: set[str] = set()
    for job in jobs:
        told = any(file.get("path") == FIGURE for file in job.manifest.get("files", ()))
        if not told or job.stage in seen:
            continue
        seen.add(job.stage)
        try:
            yield job, Drawing.model_validate(read_json(store.artifact(job.kind, job.key) / FIGURE))
        except (OSError, ValueError):
            continue


def draw_lines(drawing: Drawing, format: Format = "svg") -> bytes:
    """The figure as a file of this format. Raises ImportError where matplotlib is absent."""
    return saved(lambda: _figure(drawing), format)


def _figure(drawing: Drawing) -> Figure:
    count = len(drawing.panels)
    figure = sheet(DEFAULT_WIDTH_IN * max(1.0, count / 2), 1)
    for place, panel in enumerate(drawing.panels, 1):
        _draw(figure.add_subplot(1, count, place), panel)
    return figure


def _draw(axes: Axes, panel: Panel) -> None:
    for number, line in enumerate(panel.lines):
        axes.plot(line.y, color=PALETTE[number % len(PALETTE)], linewidth=1.6, label=line.label)
    axes.set_title(panel.title, fontsize=9.5, loc="left")
    axes.set_xlabel(panel.x)
    axes.set_ylabel(panel.y)
    axes.grid(axis="y", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0)
    if len(panel.lines) > 1:
        axes.legend(frameon=False, handlelength=1.4)
