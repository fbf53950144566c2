"""Learning curves of the training jobs, as points of small charts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.files import read_rows
from runtime.results.jobs import Job
from runtime.results.style import PALETTE
from runtime.store import Store

LOG = "training.jsonl"
MAX_POINTS = 200
WIDTH, HEIGHT = 300.0, 120.0
# Figures of a training log that are drawn, and what they are called. A log without one has no panel of it.
FIGURES = {"loss": "loss", "margin": "reward margin", "accuracy": "accuracy"}

Points = tuple[tuple[float, float], ...]
Log = dict[str, list[tuple[float, float]]]  # figure -> (step, value)


@dataclass(frozen=True, slots=True)
class Curve:
    """One run. `path` holds SVG coordinates; `last` is the mean of its last piece."""

    label: str
    style: int  # of its colour and dash in the page's style sheet
    path: str
    last: float


@dataclass(frozen=True, slots=True)
class Panel:
    """One figure of all runs of a stage, on the same scale."""

    name: str
    low: float
    high: float
    curves: tuple[Curve, ...]

    @property
    def last(self) -> tuple[float, float]:
        """Lowest and highest last value."""
        found = [curve.last for curve in self.curves]
        return min(found), max(found)


@dataclass(frozen=True, slots=True)
class Chart:
    """All runs of one stage: a panel for each figure, over the same steps."""

    stage: str
    steps: int
    runs: tuple[str, ...]
    panels: tuple[Panel, ...]
    left_out: int

    @property
    def named(self) -> bool:
        """Whether each run has a colour of its own and so can be named beside the chart."""
        return len(self.runs) <= len(PALETTE)


def _read(path: Path) -> Log:
    """The figures of a training log; values that are not finite are passed over."""
    found: Log = {}
    for row in read_rows(path):
        step = row.get("step")
        for name in FIGURES:
            value = row.get(name)
            if isinstance(step, int | float) and isinstance(value, int | float) and math.isfinite(value):
                found.setdefault(name, []).append((float(step), float(value)))
    return found


def thinned(points: Sequence[tuple[float, float]], most: int = MAX_POINTS) -> Points:
    """At most `most` points, each the mean of a piece: the trend stays, the noise of single batches goes."""
    if not points:
        return ()
    size = math.ceil(len(points) / most)
    pieces = (points[i : i + size] for i in range(0, len(points), size))
    return tuple((piece[-1][0], sum(value for _, value in piece) / len(piece)) for piece in pieces)


def has_log(job: Job) -> bool:
    return any(file.get("path") == LOG for file in job.manifest.get("files", ()))


def _even(jobs: Sequence[Job], most: int) -> list[Job]:
    """`most` of the jobs at even distances, so that a sweep's ends are among them."""
    if len(jobs) <= most:
        return list(jobs)
    return [jobs[round(i * (len(jobs) - 1) / (most - 1))] for i in range(most)]


def charts(store: Store, jobs: Iterable[Job], most: int) -> list[Chart]:
    """A chart for each stage that trains, with at most `most` runs in it, each as far as it goes."""
    jobs = list(jobs)
    gone_on = {(job.stage, need) for job in jobs for need in job.needs}
    by_stage: dict[str, list[Job]] = {}
    for job in jobs:
        if has_log(job) and (job.stage, job.id) not in gone_on:
            by_stage.setdefault(job.stage, []).append(job)
    made = (_chart(store, stage, _even(runs, most), len(runs)) for stage, runs in by_stage.items())
    return [chart for chart in made if chart]


def _chart(store: Store, stage: str, jobs: Sequence[Job], of: int) -> Chart | None:
    logs: dict[str, Log] = {}
    for job in jobs:
        try:
            log = _read(store.artifact(job.kind, job.key) / LOG)
        except (OSError, ValueError):
            continue  # the report is about results; a damaged log is told where the job is
        if log:
            logs[job.id.removeprefix(stage).strip("[]") or stage] = log
    left_out = of - len(logs)
    logs = {label: log for label, log in logs.items() if not _goes_on(label, logs)}
    if not logs:
        return None
    steps = max(points[-1][0] for log in logs.values() for points in log.values())
    panels = tuple(_panel(name, logs, steps) for name in FIGURES if any(name in log for log in logs.values()))
    return Chart(stage, int(steps), tuple(logs), panels, left_out)


def _goes_on(label: str, logs: Mapping[str, Log]) -> bool:
    """Whether another run has the same steps and more, or is told before with the very same."""
    order = list(logs)
    loss = logs[label].get("loss", [])
    for other in order:
        longer = logs[other].get("loss", [])
        more = len(longer) > len(loss) or (
            len(longer) == len(loss) and order.index(other) < order.index(label)
        )
        if more and longer[: len(loss)] == loss:
            return True
    return False


def _panel(name: str, logs: Mapping[str, Log], steps: float) -> Panel:
    drawn = {
        label: (style, thinned(log[name])) for style, (label, log) in enumerate(logs.items()) if name in log
    }
    values = [value for _, points in drawn.values() for _, value in points]
    low, high = min(values), max(values)
    styles = len(PALETTE) if len(logs) <= len(PALETTE) else 1
    curves = tuple(
        Curve(label, style % styles, _path(points, steps, low, high), points[-1][1])
        for label, (style, points) in drawn.items()
    )
    return Panel(FIGURES[name], low, high, curves)


def _path(points: Points, steps: float, low: float, high: float) -> str:
    span = (high - low) or 1.0
    return " ".join(
        f"{step / (steps or 1.0) * WIDTH:.1f},{(high - value) / span * HEIGHT:.1f}" for step, value in points
    )
