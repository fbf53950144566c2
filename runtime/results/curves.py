"""Learning curves of the training jobs, as points of small charts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.files import read_rows
from runtime.results.figure import PALETTE
from runtime.results.jobs import Job
from runtime.store import Store

LOG = "training.jsonl"
MAX_POINTS = 60
WIDTH, HEIGHT = 300.0, 120.0

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Curve:
    """One run. `path` holds SVG coordinates; `last` is the mean loss of its last piece."""

    label: str
    colour: str
    path: str
    last: float


@dataclass(frozen=True, slots=True)
class Chart:
    """All runs of one stage on the same scale."""

    stage: str
    low: float
    high: float
    steps: int
    curves: tuple[Curve, ...]
    left_out: int

    @property
    def named(self) -> bool:
        """Whether each run has a colour of its own and so can be named beside the chart."""
        return len(self.curves) <= len(PALETTE)

    @property
    def last(self) -> tuple[float, float]:
        """Lowest and highest last loss."""
        found = [curve.last for curve in self.curves]
        return min(found), max(found)


def _losses(path: Path) -> list[tuple[float, float]]:
    """(step, loss) of a training log; rows without a finite loss are passed over."""
    found = []
    for row in read_rows(path):
        step, loss = row.get("step"), row.get("loss")
        if isinstance(step, int | float) and isinstance(loss, int | float) and math.isfinite(loss):
            found.append((float(step), float(loss)))
    return found


def thinned(points: Sequence[tuple[float, float]], most: int = MAX_POINTS) -> Points:
    """At most `most` points, each the mean of a piece: the trend stays, the noise of single batches goes."""
    if not points:
        return ()
    size = math.ceil(len(points) / most)
    pieces = (points[i : i + size] for i in range(0, len(points), size))
    return tuple((piece[-1][0], sum(loss for _, loss in piece) / len(piece)) for piece in pieces)


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
    runs: list[tuple[str, Points]] = []
    for job in jobs:
        try:
            points = thinned(_losses(store.artifact(job.kind, job.key) / LOG))
        except (OSError, ValueError):
            continue  # the report is about results; a damaged log is told where the job is
        if points:
            runs.append((job.id.removeprefix(stage).strip("[]") or stage, points))
    if not runs:
        return None
    steps = max(points[-1][0] for _, points in runs)
    losses = [loss for _, points in runs for _, loss in points]
    low, high = min(losses), max(losses)
    colours = PALETTE if len(runs) <= len(PALETTE) else PALETTE[:1] * len(runs)
    curves = tuple(
        Curve(label, colour, _path(points, steps, low, high), points[-1][1])
        for (label, points), colour in zip(runs, colours, strict=False)
    )
    return Chart(stage, low, high, int(steps), curves, of - len(runs))


def _path(points: Points, steps: float, low: float, high: float) -> str:
    span = (high - low) or 1.0
    return " ".join(
        f"{step / (steps or 1.0) * WIDTH:.1f},{(high - loss) / span * HEIGHT:.1f}" for step, loss in points
    )
