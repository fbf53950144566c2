"""The report: one offline HTML page in which every number leads back to the jobs that made it."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from runtime.plural import counted
from runtime.results.asked import Asked, asked_of, total
from runtime.results.cards import Card, card_of
from runtime.results.claim_words import meaning, places, sentence, sides_of
from runtime.results.claims import Decided
from runtime.results.costs import costs_of
from runtime.results.curves import HEIGHT, WIDTH, Chart, charts
from runtime.results.description import Description
from runtime.results.figure import reading
from runtime.results.jobs import STATUSES, Job
from runtime.results.metrics import Metric
from runtime.results.samples import Sample, samples
from runtime.results.style import for_dark_pages
from runtime.results.table import Table
from runtime.results.timeline import timeline_of
from runtime.results.words import (
    Finding,
    Shown,
    findings,
    grid,
    notes,
    number,
)
from runtime.store import Store
from runtime.templates import environment

MAX_BYTES = 2_000_000


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of what could be endless the page shows."""

    samples: int = 9
    curves: int = 16  # of a stage
    jobs: int = 600  # beside those that a number links to
    members: bool = True  # whether a number's card tells all about its members, or names them only
    figures: bool = True
    bars: int = 1500  # of the timeline


# Tried in turn until the page is small enough to be mailed and to open on a phone.
DETAIL = (
    Limits(),
    Limits(samples=3, curves=6, jobs=200, bars=500),
    Limits(samples=0, curves=0, jobs=0, members=False, bars=0),
    Limits(samples=0, curves=0, jobs=0, members=False, figures=False, bars=0),
)


@dataclass(frozen=True, slots=True)
class Plot:
    """A difference and its interval on a scale of 0 to 100 that its table's findings share."""

    zero: float
    low: float
    mean: float
    high: float


@dataclass(frozen=True, slots=True)
class ToldFinding:
    finding: Finding
    plot: Plot | None


@dataclass(frozen=True, slots=True)
class Field:
    shown: Shown
    anchor: str


@dataclass(frozen=True, slots=True)
class Section:
    """One table on the page."""

    table: Table
    anchor: str
    header: tuple[str, ...]
    rows: tuple[tuple[Field, ...], ...]
    cards: tuple[Card, ...]
    notes: tuple[str, ...]
    findings: tuple[ToldFinding, ...]
    figure: str  # data URI; empty: none
    reading: tuple[str, str]  # what the figure is, and how to read it


@dataclass(frozen=True, slots=True)
class StageLine:
    """One stage of the list of jobs, counted."""

    stage: str
    kind: str
    states: tuple[tuple[str, int], ...]
    wall_s: float
    gpu_hours: float
    dollars: float


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast a training was, and where its time went, as the page tells it; empty: not known."""

    job: Job
    device: str
    useful: str
    supervised: str
    padding: str
    mfu: str
    memory: str
    seconds: tuple[float | None, ...]  # on data, on computing, on saving


def duration(seconds: float | None) -> str:
    """A time span for a reader: `12.3 s`, `3 min 4 s`, `5 h 12 min`."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left} min" if hours else f"{minutes} min {rest} s"


def moment(unix: float | None) -> str:
    """A Unix time in UTC, to the minute."""
    return "" if unix is None else datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d %H:%M")


def _plots(told: Sequence[Finding]) -> Iterator[ToldFinding]:
    ends = [
        end
        for f in told
        if f.comparison.low is not None
        for end in (f.comparison.low, f.comparison.high or 0.0)
    ]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    span = (high - low) or 1.0

    def at(value: float) -> float:
        return round(4 + 92 * (value - low) / span, 2)

    for finding in told:
        c = finding.comparison
        if c.mean is None or c.low is None or c.high is None:
            yield ToldFinding(finding, None)
        else:
            yield ToldFinding(finding, Plot(at(0.0), at(c.low), at(c.mean), at(c.high)))


def _told(table: Table) -> tuple[ToldFinding, ...]:
    """Findings with their plots; only differences in the same metric share a scale."""
    by_metric: dict[Metric, list[Finding]] = {}
    for finding in findings(table):
        by_metric.setdefault(finding.comparison.metric, []).append(finding)
    return tuple(told for group in by_metric.values() for told in _plots(group))


@dataclass(frozen=True, slots=True)
class ToldClaim:
    """A claim on the page: its sentence, its mark, what is tested, and the places by whose numbers."""

    text: str
    style: str
    tested: str
    sides: tuple[tuple[str, tuple[str, ...]], ...]


def _told_claim(one: Decided) -> ToldClaim:
    sides = tuple((name, tuple(places(d, one.metric, one.claim.level))) for name, d in sides_of(one))
    return ToldClaim(sentence(one), one.ours.verdict.replace(" ", "-"), meaning(one.claim), sides)


def _data_uri(svg: bytes) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(for_dark_pages(svg)).decode()


def _section(index: int, table: Table, jobs: Mapping[str, Job], figure: bytes | None) -> Section:
    anchor = f"t{index}"
    shown = grid(table)
    cards: list[Card] = []
    rows: list[tuple[Field, ...]] = []
    for r, row in enumerate(shown.rows):
        fields = []
        for c, item in enumerate(row):
            name = f"{anchor}-{r}-{c}" if item.cell and item.cell.members else ""
            if name and item.cell and item.column:
                cards.append(card_of(name, table.rows[r].label, item.column, item.cell, table, jobs))
            fields.append(Field(item, name))
        rows.append(tuple(fields))
    uri = ""
    if figure is not None:
        uri = _data_uri(figure)
    return Section(
        table,
        anchor,
        shown.header,
        tuple(rows),
        tuple(cards),
        tuple(notes(table)),
        _told(table),
        uri,
        reading(table),
    )


def stage_lines(jobs: Iterable[Job]) -> list[StageLine]:
    by_stage: dict[str, list[Job]] = {}
    for job in jobs:
        by_stage.setdefault(job.stage, []).append(job)
    lines = []
    for stage, made in by_stage.items():
        counted = Counter(job.status for job in made)
        states = tuple((status, counted[status]) for status in STATUSES if counted[status])
        wall = sum(job.wall_s or 0.0 for job in made)
        dollars = sum(job.summary.get("dollars") or 0.0 for job in made)
        gpu_hours = sum(job.gpu_hours for job in made)
        lines.append(StageLine(stage, made[0].kind, states, wall, gpu_hours, dollars))
    return lines


def _with_total(lines: list[Asked]) -> list[Asked]:
    return [*lines, total(lines)] if len(lines) > 1 else lines


def _speeds(jobs: Iterable[Job]) -> list[Speed]:
    """Of the jobs that trained. One that only went on to where it was already has no speed."""
    return [_speed(job, told) for job in jobs if (told := job.summary).get("useful_tokens_per_s")]


def _speed(job: Job, told: Mapping[str, Any]) -> Speed:
    def share(name: str) -> str:
        return "" if told.get(name) is None else f"{100 * told[name]:.1f}%"

    def rate(name: str) -> str:
        return "" if told.get(name) is None else f"{told[name]:,.0f}"

    processes, seconds = told.get("processes") or 1, told.get("seconds") or {}
    memory = told.get("peak_gpu_bytes") or told.get("peak_rss_bytes")
    return Speed(
        job,
        f"{processes} × {told.get('device')}",
        rate("useful_tokens_per_s"),
        rate("supervised_tokens_per_s"),
        share("padding_share"),
        share("mfu"),
        f"{memory / 2**30:.1f} GiB" if memory else "",
        tuple(seconds.get(kind) for kind in ("data", "compute", "save")),
    )


def _listed(jobs: Mapping[str, Job], sections: Iterable[Section], most: int) -> list[Job]:
    """Jobs that the page lists: those that scores come from, those that came to nothing, then the others."""
    linked = {member.node for s in sections for card in s.cards for member in card.cell.members}
    troubled = {job.id for job in jobs.values() if job.status in ("failed", "stopped", "damaged")}
    others = [name for name in jobs if name not in linked and name not in troubled][:most]
    shown = linked.union(others, sorted(troubled)[: max(most, 50)])
    return [job for name, job in jobs.items() if name in shown]


def _versions(environments: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """What the jobs ran on: for each kind of fact all its values."""
    found: dict[str, set[str]] = {}
    for told in environments:
        code = told.get("alignc") or {}
        facts = {
            "alignc": code.get("version"),
            "Python": told.get("python"),
            "platform": told.get("platform"),
        }
        facts |= {"host": told.get("host")}
        facts |= {name: v for name, v in (told.get("packages") or {}).items() if name != "alignc"}
        for name, value in facts.items():
            if value:
                found.setdefault(name, set()).add(str(value))
    return {name: sorted(values) for name, values in found.items()}


def _headline(tables: Sequence[Table], jobs: Mapping[str, Job]) -> str:
    cells = [cell for table in tables for row in table.rows for cell in row.cells if cell.members]
    full = sum(cell.value is not None for cell in cells)
    distinct = {job.key: job for job in jobs.values()}  # what several stages need is done once
    states = Counter(job.status for job in distinct.values())
    told = ", ".join(f"{states[status]:,} {status}" for status in STATUSES if states[status])
    wall = sum(job.wall_s or 0.0 for job in distinct.values())
    nodes = f"{counted(len(jobs), 'node')}, " if len(jobs) > len(distinct) else ""
    numbers = f"{full:,} of {counted(len(cells), 'number')} in place."
    return f"{numbers} {nodes}{counted(len(distinct), 'job')}: {told}. Work: {duration(wall)}."


def page(
    store: Store,
    description: Description,
    tables: Sequence[Table],
    claims: Sequence[Decided],
    jobs: Mapping[str, Job],
    figures: Sequence[bytes | None],
    told: Mapping[str, bytes],
) -> str:
    """The page, in as much detail as its size allows.

    figures: SVG files of the tables, None where one has none; told: those that jobs told, by job.
    """
    for limits in DETAIL:
        text = _fill(store, description, tables, claims, jobs, figures, told, limits)
        if len(text.encode()) <= MAX_BYTES:
            break
    return text


def _fill(
    store: Store,
    description: Description,
    tables: Sequence[Table],
    claims: Sequence[Decided],
    jobs: Mapping[str, Job],
    figures: Sequence[bytes | None],
    told: Mapping[str, bytes],
    limits: Limits,
) -> str:
    if not limits.figures:
        figures, told = [None] * len(tables), {}
    sections = [
        _section(i, table, jobs, figure)
        for i, (table, figure) in enumerate(zip(tables, figures, strict=True), 1)
    ]
    shown_jobs = _listed(jobs, sections, limits.jobs)
    curves: list[Chart] = charts(store, jobs.values(), limits.curves) if limits.curves else []
    texts: list[Sample] = samples(store, jobs, tables, limits.samples) if limits.samples else []
    # Escaping is on for this page alone: the other templates write no HTML.
    template = environment().overlay(autoescape=True).get_template("report/report.html.j2")
    return template.render(
        experiment=description.experiment,
        spec=description.spec,
        headline=_headline(tables, jobs),
        claims=[_told_claim(one) for one in claims],
        sections=sections,
        charts=curves,
        chart_size=(WIDTH, HEIGHT),
        timeline=timeline_of(jobs, limits.bars) if limits.bars else None,
        drawings={id_: _data_uri(drawn) for id_, drawn in told.items()},
        samples=texts,
        speeds=_speeds(shown_jobs),
        stages=stage_lines(jobs.values()),
        costs=costs_of(jobs.values(), description.experiment),
        asked=_with_total(asked_of(jobs.values())),
        jobs=shown_jobs,
        anchors={job.id: f"job-{n}" for n, job in enumerate(shown_jobs, 1)},
        jobs_left_out=len(jobs) - len(shown_jobs),
        by_id=jobs,
        limits=limits,
        shortened=limits != DETAIL[0],
        code_commits=sorted({job.code_commit for job in jobs.values() if job.code_commit}),
        spec_commits=sorted({job.spec_commit for job in jobs.values() if job.spec_commit}),
        versions=_versions(job.environment for job in jobs.values() if job.environment),
        duration=duration,
        moment=moment,
        number=number,
        counted=counted,
    )
