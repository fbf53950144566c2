"""What stands behind a number of a table: its members, and the jobs that its inputs were made by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from runtime.plural import counted
from runtime.results.jobs import Job
from runtime.results.metrics import Metric
from runtime.results.table import Cell, Column, Table
from runtime.results.words import cell_text, noun_of, number, published_text, with_error


@dataclass(frozen=True, slots=True)
class Upstream:
    """Jobs of one stage that a number depends on."""

    stage: str
    jobs: tuple[Job, ...]


@dataclass(frozen=True, slots=True)
class Card:
    """What opens behind a number."""

    anchor: str
    row: str
    column: Column
    cell: Cell
    text: str
    interval: str
    basis: str
    published: str
    upstream: tuple[Upstream, ...]


def upstream(cell: Cell, jobs: Mapping[str, Job]) -> tuple[Upstream, ...]:
    """All jobs behind a cell, those that made its inputs first, by stage."""
    seen: dict[str, None] = {}

    def visit(names: Iterable[str]) -> None:
        for name in names:
            if name in jobs and name not in seen:
                visit(jobs[name].needs)
                seen[name] = None

    own = dict.fromkeys(member.node for member in cell.members)
    visit(need for name in own for need in jobs[name].needs)
    by_stage: dict[str, list[Job]] = {}
    for name in seen:
        by_stage.setdefault(jobs[name].stage, []).append(jobs[name])
    return tuple(Upstream(stage, tuple(made)) for stage, made in by_stage.items())


def _interval(cell: Cell, metric: Metric) -> str:
    if cell.interval is None:
        return ""
    low, high = (number(end, metric.decimals) for end in cell.interval)
    return f"95% interval {low} to {high}"


def card_of(anchor: str, row: str, column: Column, cell: Cell, table: Table, jobs: Mapping[str, Job]) -> Card:
    metric = column.metric
    said = [counted(len(cell.members), noun_of(table.over))]
    if cell.n_prompts:
        said.append(counted(cell.n_prompts, "prompt"))
    if cell.spread is not None:
        said.append(f"standard deviation over {noun_of(table.over)}s {number(cell.spread, metric.decimals)}")
    if cell.value is None:
        text = cell_text(cell, metric, table.over)
    else:
        text = with_error(cell.value, cell.standard_error, metric.decimals)
    published = cell.published
    printed = f"{published_text(published, metric)} ({published.source})" if published else ""
    return Card(
        anchor,
        row,
        column,
        cell,
        text,
        _interval(cell, metric),
        ", ".join(said),
        printed,
        upstream(cell, jobs),
    )
