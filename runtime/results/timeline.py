"""When each job ran, as bars of a chart, and the chain of jobs that decides how long a study takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runtime.results.jobs import Job

WIDTH = 1000.0  # of the chart, in its own units
GAP = 0.015  # share of the width that a time without any job takes, however long it was
PAUSE = 0.01  # share of the work that a time without any job must take to be left out
SHORTEST = 1.5  # width of a bar that would else not be seen


@dataclass(frozen=True, slots=True)
class Bar:
    """One job: left end and width in units of the chart."""

    job: Job
    x: float
    width: float
    critical: bool


@dataclass(frozen=True, slots=True)
class Lane:
    """The jobs of one stage."""

    stage: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class Timeline:
    """busy_s: time in which any job ran; gaps: where the chart leaves out times without jobs.

    critical: the longest chain of jobs, each needed by the next; critical_s: what they took one after the
    other, which no number of machines makes shorter.
    """

    lanes: tuple[Lane, ...]
    gaps: tuple[float, ...]
    busy_s: float
    critical: tuple[Job, ...]
    critical_s: float


def timeline_of(jobs: Mapping[str, Job], most: int) -> Timeline | None:
    """The chart of all jobs that are done; None where fewer than two have told when they ran.

    Of more than `most` jobs the longest have a bar, and those of the critical path.
    """
    ran = {name: job for name, job in jobs.items() if job.started is not None and job.wall_s is not None}
    if len(ran) < 2:
        return None
    critical = critical_path(ran)
    on_path = {job.id for job in critical}
    busy = _busy([_span(job) for job in ran.values()])
    total = sum(end - start for start, end in busy) or 1.0
    scale = WIDTH * (1 - min(GAP * (len(busy) - 1), 0.5)) / total
    gap = (WIDTH - scale * total) / max(1, len(busy) - 1)
    lanes: dict[str, list[Bar]] = {}
    longest = sorted(ran.values(), key=lambda job: -(job.wall_s or 0.0))[:most]
    shown = {job.id: job for job in (*critical, *longest)}
    for job in sorted(shown.values(), key=_span):
        start, end = _span(job)
        x = _at(start, busy, scale, gap)
        lanes.setdefault(job.stage, []).append(
            Bar(job, round(x, 1), round(max((end - start) * scale, SHORTEST), 1), job.id in on_path)
        )
    gaps = tuple(round(_at(end, busy, scale, gap) + gap / 2, 1) for _, end in busy[:-1])
    told = tuple(Lane(stage, tuple(bars)) for stage, bars in lanes.items())
    return Timeline(told, gaps, total, tuple(critical), sum(job.wall_s or 0.0 for job in critical))


def _span(job: Job) -> tuple[float, float]:
    start = job.started or 0.0
    return start, start + (job.wall_s or 0.0)


def _busy(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The times in which anything ran; short pauses between jobs are part of them."""
    pause = PAUSE * sum(end - start for start, end in spans)
    found: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1] + pause:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def _at(moment: float, busy: Sequence[tuple[float, float]], scale: float, gap: float) -> float:
    """Where a moment within a busy time stands on the chart."""
    before = 0.0
    for number, (start, end) in enumerate(busy):
        if moment <= end:
            return number * gap + scale * (before + moment - start)
        before += end - start
    raise ValueError("the moment lies in no busy time")


def critical_path(jobs: Mapping[str, Job]) -> list[Job]:
    """The chain of jobs, each needed by the next, that takes the longest time in all."""
    longest: dict[str, tuple[float, str | None]] = {}

    for name in _ordered(jobs):
        before = [(longest[need][0], need) for need in jobs[name].needs if need in longest]
        spent, through = max(before, default=(0.0, None))
        longest[name] = (spent + (jobs[name].wall_s or 0.0), through)
    path: list[Job] = []
    at: str | None = max(longest, key=lambda name: longest[name][0], default=None)
    while at is not None:
        path.append(jobs[at])
        at = longest[at][1]
    return path[::-1]


def _ordered(jobs: Mapping[str, Job]) -> list[str]:
    """Names so that each stands after what it needs; a loop over a stack, for chains may be long."""
    done: dict[str, None] = {}
    for first in jobs:
        stack = [first]
        while stack:
            name = stack[-1]
            waiting = [need for need in jobs[name].needs if need in jobs and need not in done]
            if waiting and name not in done:
                stack += waiting
            else:
                done.setdefault(name)
                stack.pop()
    return list(done)
