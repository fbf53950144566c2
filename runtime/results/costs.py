"""What the jobs of an experiment have cost, held against what was estimated before they began."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from runtime.plural import counted
from runtime.results.jobs import Job

Unit = Literal["gpu_hours", "cpu_hours", "usd"]
UNITS: dict[Unit, str] = {"gpu_hours": "GPU-hours", "cpu_hours": "CPU-hours", "usd": "dollars"}
STAGES = 12  # most lines of stages; where there are more, kinds have the lines
NO_ESTIMATE = "no estimate"


@dataclass(frozen=True, slots=True)
class Amount:
    """What one job has cost in one unit. spent: None where nobody knew the price.

    estimate: low, likely, high; None where none was kept.
    """

    unit: Unit
    spent: float | None
    estimate: tuple[float, float, float] | None

    @property
    def inside(self) -> bool | None:
        """None where there is nothing to compare."""
        if self.spent is None or self.estimate is None:
            return None
        return self.estimate[0] <= self.spent <= self.estimate[2]


def amounts_of(job: Job) -> tuple[Amount, ...]:
    """Hours of a job that is done, of its GPUs or else of its cores; and dollars, where it may cost any."""
    if job.adopted:
        return ()
    resources = job.manifest.get("resources") or {}
    asked, told = resources.get("asked") or {}, resources.get("estimated") or {}
    if job.gpu_hours:
        amounts = [_amount("gpu_hours", job.gpu_hours, told)]
    else:
        parallel = (job.manifest.get("config") or {}).get("parallel") or {}
        cores = (asked.get("cpus") or 0) * (parallel.get("processes") or 1)
        amounts = [_amount("cpu_hours", cores * (job.wall_s or 0.0) / 3600, told)]
    dollars = job.summary.get("dollars")
    if dollars is None and told.get("usd", 0) is not None:  # no API was asked, whose price may be unknown
        dollars = 0.0
    usd = _amount("usd", dollars, told)
    if usd.spent != 0 or (usd.estimate and usd.estimate[2]):
        amounts.append(usd)
    return tuple(amounts)


def _amount(unit: Unit, spent: float | None, told: Mapping[str, Sequence[float] | None]) -> Amount:
    low_likely_high = told.get(unit)
    if low_likely_high is None:
        return Amount(unit, spent, None)
    low, likely, high = low_likely_high
    return Amount(unit, spent, (low, likely, high))


@dataclass(frozen=True, slots=True)
class Line:
    """Jobs of one stage or kind, or all.

    made: what each cost. before: what those had cost that another experiment made; here they cost nothing.
    """

    label: str
    made: tuple[tuple[Amount, ...], ...]
    before: tuple[tuple[Amount, ...], ...]

    @property
    def told(self) -> list[tuple[str, str]]:
        """By unit in words what was spent, and what had been estimated."""
        return [(_spent(found), _estimate(found)) for found in _by_unit(self.made)]

    @property
    def inside(self) -> str:
        """How many jobs stayed inside their estimates, of those that have any."""
        known = [own for job in self.made if (own := [a.inside for a in job if a.inside is not None])]
        return f"{sum(map(all, known))} of {len(known)}" if known else ""


@dataclass(frozen=True, slots=True)
class Costs:
    """A line for each stage, or kind, as `by` says, and one for the whole."""

    by: Literal["stage", "kind"]
    lines: tuple[Line, ...]
    whole: Line

    @property
    def reused(self) -> str:
        """What was reused, and what it had cost those who made it; empty where nothing was."""
        if not self.whole.before:
            return ""
        cost = ", ".join(map(_spent, _by_unit(self.whole.before)))
        return counted(len(self.whole.before), "job") + (cost and f", which had cost {cost}")

    @property
    def text(self) -> str:
        """One line for a terminal; empty where this experiment has made nothing."""
        parts = [
            f"{spent} ({told})" if told == NO_ESTIMATE else f"{spent} of an estimated {told}"
            for spent, told in self.whole.told
        ]
        inside = f"; {self.whole.inside} jobs as estimated" if self.whole.inside else ""
        return f"spent: {', '.join(parts)}{inside}" if parts else ""


def costs_of(jobs: Iterable[Job], experiment: str) -> Costs:
    """Of all jobs that are done, each artifact once."""
    done: dict[str, Job] = {}
    for job in jobs:
        if job.status == "done":
            done.setdefault(job.key, job)
    by: Literal["stage", "kind"] = "kind" if len({job.stage for job in done.values()}) > STAGES else "stage"
    groups: dict[str, list[Job]] = {}
    for job in done.values():
        groups.setdefault(job.kind if by == "kind" else job.stage, []).append(job)
    lines = tuple(_line(label, some, experiment) for label, some in groups.items())
    return Costs(by, lines, _line("all", done.values(), experiment))


def _line(label: str, jobs: Iterable[Job], experiment: str) -> Line:
    made: list[tuple[Amount, ...]] = []
    before: list[tuple[Amount, ...]] = []
    for job in jobs:
        own = not job.adopted and job.manifest.get("experiment") in (None, experiment)
        (made if own else before).append(amounts_of(job))
    return Line(label, tuple(made), tuple(before))


def _by_unit(jobs: Iterable[tuple[Amount, ...]]) -> list[list[Amount]]:
    """The amounts of each unit that is used."""
    amounts = [amount for job in jobs for amount in job]
    return [found for unit in UNITS if (found := [a for a in amounts if a.unit == unit])]


# ---------------------------------------------------------------- in words


def shown(unit: Unit, value: float) -> str:
    """Three figures of hours, cents of dollars: `0.0123`, `<0.001`, `1,234`."""
    if value >= 1000:
        return f"{value:,.0f}"
    least = 0.01 if unit == "usd" else 0.001
    if 0 < value < least:
        return f"<{least:g}"
    return f"{value:.2f}" if unit == "usd" else f"{value:.3g}"


def _spent(found: Sequence[Amount]) -> str:
    """`12.4 GPU-hours`; the amounts are of one unit."""
    unit, known = found[0].unit, [a.spent for a in found if a.spent is not None]
    if not known:
        return f"unknown {UNITS[unit]}"
    least = "at least " if len(known) < len(found) else ""
    return f"{least}{shown(unit, sum(known))} {UNITS[unit]}"


def _estimate(found: Sequence[Amount]) -> str:
    """`12.4 (8.1–40)`: likely, and from low to high; for how much of what was spent, if not all."""
    known = [a for a in found if a.estimate]
    if not known:
        return NO_ESTIMATE
    sums = zip(*(a.estimate for a in known if a.estimate), strict=True)
    low, likely, high = (shown(found[0].unit, sum(each)) for each in sums)
    part = f" for {_spent(known)}" if len(known) < len(found) else ""
    return f"{likely} ({low}–{high}){part}"
