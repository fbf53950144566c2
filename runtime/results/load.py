"""Loads tables: a description and the sealed scores of a store become typed tables."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from runtime.files import read_json, read_rows
from runtime.results.description import (
    CellSpec,
    ComparisonSpec,
    Description,
    MemberSpec,
    PublishedSpec,
    TableSpec,
    read_description,
)
from runtime.results.jobs import Job, one_line, survey
from runtime.results.metrics import metric_of
from runtime.results.table import Cell, Column, Comparison, Member, Published, Row, Table, interval95
from runtime.statistics.estimates import mean, paired_difference, standard_error
from runtime.store import Damaged, Store

METRICS = "metrics.json"
ITEMS = "items.jsonl"


@dataclass(frozen=True, slots=True)
class Scores:
    """What one evaluation measured: its totals, and its items by prompt."""

    metrics: Mapping[str, Any]
    items: Mapping[str, Mapping[str, Any]]

    def per_prompt(self, name: str) -> dict[str, float]:
        """Each judged prompt's share of a metric; empty where the metric has none."""
        score = metric_of(name).score
        if score is None:
            return {}
        scored = ((prompt, score(item)) for prompt, item in self.items.items())
        return {prompt: value for prompt, value in scored if value is not None and math.isfinite(value)}


class Unreadable(Exception):
    """A sealed artifact that gives no number; the text says why."""


@dataclass(slots=True)
class Shelf:
    """Scores by artifact, read once: cells and comparisons share them."""

    store: Store
    _read: dict[str, Scores | Unreadable] = field(default_factory=dict)

    def scores(self, kind: str, key: str) -> Scores:
        """Raises Unreadable."""
        if key not in self._read:
            try:
                self._read[key] = _read_scores(self.store, kind, key)
            except Unreadable as error:
                self._read[key] = error
        found = self._read[key]
        if isinstance(found, Unreadable):
            raise found
        return found


def _read_scores(store: Store, kind: str, key: str) -> Scores:
    folder = store.artifact(kind, key)
    try:
        store.verify(kind, key)
        metrics = read_json(folder / METRICS)
        items = _read_items(folder / ITEMS)
    except Damaged as error:
        raise Unreadable(_without_path(error, kind, key, folder)) from error
    except FileNotFoundError as error:
        raise Unreadable(f"it has no {Path(error.filename).name}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Unreadable(f"cannot be read: {_without_path(error, kind, key, folder)}") from error
    if not isinstance(metrics, dict):
        raise Unreadable(f"its {METRICS} holds no object")
    return Scores(metrics, items)


def _without_path(error: Exception, kind: str, key: str, folder: Path) -> str:
    """The message without the store's path: the same results give the same bytes on every machine."""
    return one_line(str(error).replace(f"{folder}/", "").replace(str(folder), f"{kind}/{key[:12]}"))


def _read_items(path: Path) -> dict[str, Mapping[str, Any]]:
    """Items by prompt; none where the stage that wrote the scores keeps none."""
    return {str(row["id"]): row for row in read_rows(path)} if path.exists() else {}


def _finite(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _member(spec: MemberSpec, over: Sequence[str], jobs: Mapping[str, Job], shelf: Shelf) -> Member:
    label = ", ".join(f"{axis} {spec.axes[axis]}" for axis in over if axis in spec.axes)
    told: dict[str, Any] = {
        "node": spec.node,
        "kind": spec.kind,
        "key": spec.key,
        "field": spec.field,
        "place": spec.place,
        "axes": spec.axes,
        "label": label,
    }
    job = jobs[spec.node]
    if job.status != "done":
        return Member(**told, status=job.status, missing=job.told)
    try:
        scores = shelf.scores(spec.kind, spec.key)
    except Unreadable as error:
        return Member(**told, status="damaged", missing=f"damaged: {error}")
    if spec.field not in scores.metrics:
        return Member(**told, status="no value", missing=f"no value: its scores have no {spec.field}")
    value = _finite(scores.metrics[spec.field])
    if value is None:
        return Member(**told, status="no value", missing=f"no value: {spec.field} is not a finite number")
    per_prompt = scores.per_prompt(spec.field)
    told_error = _finite(scores.metrics.get(metric_of(spec.field).error_field))
    return Member(
        **told,
        value=value,
        n_prompts=len(per_prompt) or None,
        standard_error=standard_error(list(per_prompt.values())) if told_error is None else told_error,
    )


def _by_prompt(members: Iterable[Member], shelf: Shelf) -> dict[str, list[float]]:
    """Each prompt's scores, one for each member that judged it."""
    gathered: dict[str, list[float]] = {}
    for member in members:
        for prompt, score in shelf.scores(member.kind, member.key).per_prompt(member.field).items():
            gathered.setdefault(prompt, []).append(score)
    return gathered


def _cell(
    spec: CellSpec | None,
    over: Sequence[str],
    jobs: Mapping[str, Job],
    shelf: Shelf,
    published: Published | None,
) -> Cell:
    if spec is None or not spec.members:
        return Cell(published=published)
    members = tuple(_member(member, over, jobs, shelf) for member in spec.members)
    values = [member.value for member in members if member.value is not None]
    if len(values) < len(members):
        return Cell(members, published=published)
    if len(members) == 1:
        (only,) = members
        value, error, n, spread = values[0], only.standard_error, only.n_prompts, None
    else:
        gathered = _by_prompt(members, shelf)
        value, error = mean(values), standard_error([mean(scores) for scores in gathered.values()])
        n, spread = len(gathered) or None, statistics.stdev(values)
    interval = interval95(value, error, n, metric_of(members[0].field))
    return Cell(members, value, error, spread, n, interval, published)


def _labels(spec: ComparisonSpec) -> tuple[str, str]:
    """Names of the two sides; from `A - B` where the description does not give them."""
    a, separator, b = spec.label.partition(" - ")
    if spec.a_label or spec.b_label or not separator or " - " in b:
        return spec.a_label or "A", spec.b_label or "B"
    return a.strip(), b.strip()


def _missing(members: tuple[Member, ...], label: str) -> str:
    """What became of the members of a comparison's side that have no number; table and jobs say why."""
    if not members:
        return f"{label}: the experiment has no such job"
    reasons: dict[str, list[str]] = {}
    for member in members:
        if member.value is None:
            reasons.setdefault(member.status, []).append(member.label)
    return "; ".join(f"{label}{_which(which, members)}: {reason}" for reason, which in reasons.items())


def _which(labels: Sequence[str], members: Sequence[Member]) -> str:
    if len(members) == 1:
        return ""
    return f" (all {len(members)})" if len(labels) == len(members) else f" ({', '.join(labels)})"


def compared(spec: ComparisonSpec, over: Sequence[str], jobs: Mapping[str, Job], shelf: Shelf) -> Comparison:
    """A comparison with its numbers, or with the reason why there are none."""
    a, b = (tuple(_member(member, over, jobs, shelf) for member in side) for side in (spec.a, spec.b))
    a_label, b_label = (_clean(label) for label in _labels(spec))
    told: dict[str, Any] = {
        "row": _clean(spec.row),
        "column": _clean(spec.column),
        "label": _clean(spec.label),
        "a_label": a_label,
        "b_label": b_label,
        "metric": metric_of(spec.field),
        "a": a,
        "b": b,
    }
    missing = "; ".join(filter(None, (_missing(a, a_label), _missing(b, b_label))))
    if missing:
        return Comparison(**told, missing=missing)
    scores_a, scores_b = _by_prompt(a, shelf), _by_prompt(b, shelf)
    if len(scores_a.keys() & scores_b.keys()) < 2:
        return Comparison(**told, missing="fewer than two prompts have a score on both sides")
    found = paired_difference(scores_a, scores_b)
    return Comparison(
        **told,
        mean=found.mean,
        standard_error=found.standard_error,
        low=found.low,
        high=found.high,
        n_prompts=found.n,
    )


def _clean(text: str) -> str:
    """A label in one line: none of the formats may be broken by a line break."""
    return " ".join(text.split())


def _published(specs: Iterable[PublishedSpec]) -> dict[tuple[str, str], Published]:
    return {(s.row, s.column): Published(s.value, s.standard_error, _clean(s.source)) for s in specs}


def _with_best(
    rows: Sequence[Row], columns: Sequence[Column], shelf: Shelf, *, down: bool
) -> tuple[Row, ...]:
    """The rows, with the cells marked that are ahead of all others they are shown beside.

    Shown beside each other are the cells of a column where rows are what is compared (`down`), else those of
    a row with the same metric. One is ahead where its paired 95 % interval to each other one lies above 0.
    """
    groups: dict[tuple[int, str], list[tuple[int, int]]] = {}
    for r in range(len(rows)):
        for c, column in enumerate(columns):
            if column.metric.is_percent and rows[r].cells[c].members:
                groups.setdefault((c if down else r, column.metric.field), []).append((r, c))
    best = {found for group in groups.values() if (found := _ahead(rows, group, shelf))}
    return tuple(
        Row(row.label, tuple(replace(cell, best=(r, c) in best) for c, cell in enumerate(row.cells)))
        for r, row in enumerate(rows)
    )


def _ahead(rows: Sequence[Row], group: Sequence[tuple[int, int]], shelf: Shelf) -> tuple[int, int] | None:
    """The place of the cell that is ahead of all others of a group; None where there is none."""
    cells = {(r, c): rows[r].cells[c] for r, c in group}
    if len(cells) < 2 or any(cell.value is None for cell in cells.values()):
        return None
    first = max(cells, key=lambda place: cells[place].value or 0.0)
    scores = {place: _by_prompt(cell.members, shelf) for place, cell in cells.items()}
    for place in cells:
        if place == first:
            continue
        if len(scores[first].keys() & scores[place].keys()) < 2:
            return None
        low = paired_difference(scores[first], scores[place]).low
        if low is None or low <= 0:
            return None
    return first


def _table(spec: TableSpec, jobs: Mapping[str, Job], shelf: Shelf) -> Table:
    published = _published(spec.published)
    rows = tuple(
        Row(
            _clean(row.label),
            tuple(
                _cell(cell, spec.over, jobs, shelf, published.get((row.label, column.label)))
                for cell, column in zip(row.cells, spec.columns, strict=True)
            ),
        )
        for row in spec.rows
    )
    columns = tuple(
        Column(_clean(column.label), metric_of(column.metric), any(row.cells[i].published for row in rows))
        for i, column in enumerate(spec.columns)
    )
    rows = _with_best(rows, columns, shelf, down=not spec.row_header)
    comparisons = tuple(compared(c, spec.over, jobs, shelf) for c in spec.comparisons)
    return Table(
        spec.name,
        _clean(spec.caption),
        _clean(spec.row_header),
        columns,
        rows,
        spec.over,
        comparisons,
        spec.figure,
    )


def members_of(description: Description) -> Iterable[MemberSpec]:
    """Every member that a table reads."""
    for table in description.tables:
        for row in table.rows:
            for cell in row.cells:
                yield from cell.members if cell else ()
        for comparison in table.comparisons:
            yield from (*comparison.a, *comparison.b)


def described(store: Store, description: Mapping[str, Any] | Description) -> Description:
    """The description, with the keys under which jobs that came after a choice were sealed."""
    checked = read_description(description)
    sealed, realised = store.sealed(), store.realisations()
    asked = {node.key: node.kind for node in checked.nodes if node.key in realised - sealed}
    found = {key: store.locate(kind, key) or key for key, kind in asked.items()}
    if not found:
        return checked
    return Description.model_validate(_with_keys(checked.model_dump(mode="json", by_alias=True), found))


def _with_keys(value: Any, found: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {
            name: found.get(each, each) if name == "key" else _with_keys(each, found)
            for name, each in value.items()
        }
    return [_with_keys(each, found) for each in value] if isinstance(value, list) else value


def survey_of(store: Store, description: Description) -> dict[str, Job]:
    """The state of every job that the description names."""
    return survey(store, description.nodes, members_of(description))


def tables_of(description: Description, jobs: Mapping[str, Job], shelf: Shelf) -> list[Table]:
    """The tables, where the jobs have been looked at already."""
    return [_table(table, jobs, shelf) for table in description.tables]


def load_tables(store: Store, description: Mapping[str, Any] | Description) -> list[Table]:
    """The tables of a description, from what the store holds now."""
    checked = described(store, description)
    return tables_of(checked, survey_of(store, checked), Shelf(store))
