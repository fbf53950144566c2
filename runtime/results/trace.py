"""Where a number of a table comes from: its members, and every job behind them, as text and as JSON."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Any

from runtime.results.cards import Card, card_of
from runtime.results.everything import Results
from runtime.results.jobs import Job
from runtime.results.report import duration, moment
from runtime.results.words import with_error
from runtime.store import Store


class NoSuchNumber(ValueError):
    """A table, row or column that is not there; the text names what is."""


def find_card(found: Results, table: str, row: str, column: str) -> Card:
    """What stands behind a cell, by its labels. Raises NoSuchNumber."""
    shown = _named("table", table, {each.name: each for each in found.tables})
    line = _named("row", row, {each.label: each for each in shown.rows})
    columns = {each.label: index for index, each in enumerate(shown.columns)}
    index = _named("column", column, columns)
    cell = line.cells[index]
    if not cell.members:
        raise NoSuchNumber(f"the study has no job for {row} / {column} of {table}")
    return card_of("", row, shown.columns[index], cell, shown, found.jobs)


def _named(what: str, name: str, known: dict[str, Any]) -> Any:
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(known)}"
    raise NoSuchNumber(f"there is no {what} `{name}`; {hint}")


def trace_text(found: Results, table: str, row: str, column: str) -> str:
    """The number, its members and the jobs behind them, inputs first."""
    card = find_card(found, table, row, column)
    head = ", ".join(filter(None, [card.text, card.interval, card.basis]))
    lines = [f"{table} / {row} / {column}: {head}"]
    if card.published:
        lines.append(f"published: {card.published}")
    spec = found.description.spec
    if spec.path:
        changed = " and uncommitted changes" if spec.dirty else ""
        lines.append(f"spec: {spec.path}" + (f", commit {spec.commit[:12]}{changed}" if spec.commit else ""))
    lines += ["", "measured by", *_aligned(_members(card, found))]
    behind = [_job(job) for group in card.upstream for job in group.jobs]
    return "\n".join([*lines, "", "which was made from", *_aligned(behind)] if behind else lines)


def _members(card: Card, found: Results) -> Iterator[list[str]]:
    decimals = card.column.metric.decimals
    for member in card.cell.members:
        told = with_error(member.value, member.standard_error, decimals) if member.value is not None else "–"
        yield [" ".join(filter(None, [member.label, told])), *_job(found.jobs[member.node])]


def _job(job: Job) -> list[str]:
    commits = [
        f"code {job.code_commit}" if job.code_commit else "",
        f"spec {job.spec_commit}" if job.spec_commit else "",
    ]
    ran = " ".join(
        filter(None, [duration(job.wall_s), f"on {job.host}" if job.host else "", moment(job.started)])
    )
    state = job.told if job.status != "done" else ran
    return [job.id, job.kind, job.key[:12], job.place, state, ", ".join(filter(None, commits))]


def _aligned(rows: Iterator[list[str]] | Sequence[list[str]]) -> list[str]:
    lines = list(rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  " + "  ".join(t.ljust(w) for t, w in zip(line, widths, strict=True)).rstrip() for line in lines
    ]


def trace_json(found: Results, store: Store, table: str, row: str, column: str) -> dict[str, Any]:
    """The same for programs, with whole keys and the folders of artifacts."""
    card = find_card(found, table, row, column)
    cell = card.cell
    return {
        "table": table,
        "row": row,
        "column": column,
        "metric": card.column.metric.field,
        "value": cell.value,
        "standard_error": cell.standard_error,
        "interval": cell.interval,
        "spread": cell.spread,
        "prompts": cell.n_prompts,
        "published": None if cell.published is None else cell.published.value,
        "spec": found.description.spec.model_dump(),
        "members": [
            {"label": m.label, "value": m.value, "missing": m.missing, **_told(found.jobs[m.node], store)}
            for m in cell.members
        ],
        "jobs": [_told(job, store) for group in card.upstream for job in group.jobs],
    }


def _told(job: Job, store: Store) -> dict[str, Any]:
    return {
        "node": job.id,
        "kind": job.kind,
        "key": job.key,
        "status": job.status,
        "place": job.place,
        "artifact": str(store.artifact(job.kind, job.key)) if job.status == "done" else None,
        "seconds": job.wall_s,
        "started": job.started,
        "host": job.host or None,
        "code_commit": job.code_commit or None,
        "spec_commit": job.spec_commit or None,
    }
