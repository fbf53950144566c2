"""Tables of a spec -> which nodes stand behind each cell. Numbers are read later, by the runtime."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compiler.errors import Diagnostic, Note, Span, near
from compiler.frontend.figures import Drawn, resolve_figure
from compiler.frontend.interpolate import Label
from compiler.frontend.source import Located
from compiler.frontend.spec import Published, Spec, TableSpec
from compiler.graph import Binding, Graph, axis_name, distinct_outputs, find_output

Point = tuple[Label | None, ...]  # values along the axes of the rows; None where it has none


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: a binding for each value of the axes averaged over; none where the study has none."""

    members: tuple[Binding, ...]
    place: Span


@dataclass(frozen=True, slots=True)
class Row:
    label: str
    cells: tuple[Cell, ...]
    point: Point = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """`a` minus `b`, paired on prompts."""

    a_label: str
    b_label: str
    metric: str
    row: str
    column: str
    a: Cell
    b: Cell


@dataclass(frozen=True, slots=True)
class PublishedValue:
    row: str
    column: str
    value: float
    standard_error: float | None
    source: str


@dataclass(frozen=True, slots=True)
class Table:
    name: str
    caption: str
    row_header: str
    columns: tuple[tuple[str, str], ...]  # label, metric
    rows: tuple[Row, ...]
    over: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    published: tuple[PublishedValue, ...]
    figure: Mapping[str, Any] | None = None  # as the runtime reads it


@dataclass(slots=True)
class _Resolver:
    """Resolves one table; problems are collected."""

    spec: Spec
    graph: Graph
    name: str
    table: TableSpec
    body: Located
    problems: list[Diagnostic]

    def problem(self, code: str, message: str, place: Span, hint: str = "", *notes: Note) -> None:
        self.problems.append(Diagnostic(code, message, place, hint, notes))

    def place(self, *path: str | int) -> Span:
        return self.body.find(path)[0].span

    def column_place(self, label: str) -> Span:
        columns = self.table.columns
        return self.place("columns", columns.index(label) if isinstance(columns, list) else label)

    def resolve(self) -> Table | None:
        before = len(self.problems)
        columns = self._columns()
        stages_as_rows = isinstance(self.table.rows, dict)
        rows = self._stage_rows(columns) if stages_as_rows else self._axis_rows(columns)
        if len(self.problems) > before:
            return None
        self._check_over(rows)
        header = "" if stages_as_rows else ", ".join(self._row_axes())
        comparisons = (
            self._row_comparisons(columns, rows) if stages_as_rows else self._comparisons(columns, rows)
        )
        return Table(
            self.name,
            self.table.caption,
            header,
            tuple(columns),
            tuple(rows),
            tuple(self.table.over),
            tuple(comparisons),
            tuple(self._published(rows)),
            self._figure(columns, rows),
        )

    def _columns(self) -> list[tuple[str, str]]:
        """(label, what is written for it) of each column."""
        if isinstance(self.table.columns, dict):
            return list(self.table.columns.items())
        return [(name, name) for name in self.table.columns]

    def _row_axes(self) -> list[str]:
        rows = self.table.rows
        return [rows] if isinstance(rows, str) else list(rows)

    # ------------------------------------------------------------ cells

    def _bindings(self, reference: str, place: Span, column: Span | None = None) -> list[Binding] | None:
        """All that `stage.metric` stands for, or None and a problem. `column`: where the metric stands."""
        stage, _, metric = reference.partition(".")
        if stage not in self.spec.stages:
            known = [s for s in self.spec.stages if "~" not in s]
            self.problem("AC301", f"there is no stage `{stage}`", place, near(stage, known))
            return None
        if stage not in self.graph.by_stage:
            return []  # broken; told elsewhere
        for ports in distinct_outputs(self.graph.nodes, self.graph.by_stage[stage]):
            metrics = [m for p in ports.values() for m in p.metrics]
            found = find_output(ports, metric)
            if found is None or not found[1]:
                self._no_score(stage, metric, metrics, place, column)
                return None
        return self.graph.readings(stage, metric)

    def _no_score(
        self, stage: str, metric: str, metrics: Sequence[str], place: Span, column: Span | None
    ) -> None:
        if not metrics:
            hint = "only `evaluate` stages have scores"
            self.problem("AC402", f"`{stage}` has no scores", place, hint)
        elif not metric:
            hint = f"as `{stage}.{metrics[0]}`; there are {', '.join(metrics)}"
            self.problem("AC402", f"name the score of `{stage}` to show", place, hint)
        else:
            last = metric.rpartition(".")[2]
            hint = f"the rows name the stages: write `{last}`" if last in metrics else near(metric, metrics)
            note = (("for the row at", place),) if column else ()
            self.problem("AC402", f"`{stage}` has no score `{metric}`", column or place, hint, *note)

    def _cell(self, bindings: Sequence[Binding], place: Span, what: str) -> Cell:
        """A cell of these bindings, which may differ only along the axes averaged over."""
        for axis in dict.fromkeys(a for b in bindings for a in b.axes):
            values = {b.axes.get(axis) for b in bindings}
            if len(values) > 1 and axis_name(axis) not in self.table.over:
                name = axis_name(axis)
                self.problem(
                    "AC401",
                    f"{what} has a value for each `{name}`",
                    place,
                    f"choose one with `select`, put `{name}` in `rows`, or average with `over: [{name}]`",
                )
                break
        return Cell(tuple(bindings), place)

    def _stage_rows(self, columns: Sequence[tuple[str, str]]) -> list[Row]:
        assert isinstance(self.table.rows, dict)
        rows: list[Row] = []
        for label, stage in self.table.rows.items():
            place = self.place("rows", label)
            cells: list[Cell] = []
            for label_, metric in columns:
                bindings = self._bindings(f"{stage}.{metric}", place, self.column_place(label_))
                if bindings is None:
                    break
                cells.append(self._cell(bindings, place, f"row `{label}`"))
            rows.append(Row(label, tuple(cells)))
        return rows

    def _axis_rows(self, columns: Sequence[tuple[str, str]]) -> list[Row]:
        wanted = self._row_axes()
        found: list[tuple[list[Binding], Span]] = []
        for label, reference in columns:
            place = self.column_place(label)
            bindings = self._bindings(reference, place)
            found.append((bindings or [], place))
        self._check_axes(wanted, [b for bindings, _ in found for b in bindings])
        if any(p.code == "AC402" for p in self.problems):
            return []
        by_point = [_by_point(bindings, wanted) for bindings, _ in found]
        rows: list[Row] = []
        for point in self._points(wanted, dict.fromkeys(p for column in by_point for p in column)):
            cells = [
                self._cell(_covering(column, point), place, f"column `{label}`")
                for (label, _), (_, place), column in zip(columns, found, by_point, strict=True)
            ]
            rows.append(Row(", ".join(map(str, point)), tuple(cells), point))
        return rows

    def _check_over(self, rows: Sequence[Row]) -> None:
        members = (b for row in rows for cell in row.cells for b in cell.members)
        known = dict.fromkeys([*self.spec.axes, *(axis_name(a) for b in members for a in b.axes)])
        for index, name in enumerate(self.table.over):
            if name not in known:
                place = self.place("over", index)
                self.problem("AC402", f"no cell varies over `{name}`", place, near(name, known))

    def _check_axes(self, wanted: Iterable[str], bindings: Sequence[Binding]) -> None:
        known = dict.fromkeys(axis_name(a) for b in bindings for a in b.axes)
        for name in wanted:
            if bindings and name not in known:
                message = f"no column varies over `{name}`"
                self.problem("AC402", message, self.place("rows"), near(name, known))

    def _points(self, wanted: Sequence[str], found: Mapping[Point, None]) -> list[Point]:
        """Row labels in the order of the declared axes.

        What does not vary over an axis has no row of its own: it stands in every row of that axis.
        """
        whole = [p for p in found if None not in p]
        partial = [p for p in found if None in p and not any(_covers(p, q) for q in found if q != p)]
        points = [*whole, *partial]

        places = [{v.label: n for n, v in enumerate(self.spec.axes.get(axis, ()))} for axis in wanted]

        def rank(point: Point) -> tuple[int, ...]:
            return tuple(
                len(known) if label is None else known.get(label, len(known))
                for known, label in zip(places, point, strict=True)
            )

        return sorted(points, key=rank)

    # ------------------------------------------------------------ comparisons, published values, figure

    def _compare(self, labels: Sequence[str]) -> list[tuple[str, str]]:
        """Pairs to compare, by label; unknown labels are problems."""
        pairs: list[tuple[str, str]] = []
        for one, other in self.table.compare.items():
            for label in (one, other):
                if label not in labels:
                    place = self.place("compare", one)
                    self.problem("AC402", f"there is no `{label}` to compare", place, near(label, labels))
            if one in labels and other in labels:
                pairs.append((one, other))
        return pairs

    def _row_comparisons(self, columns: Sequence[tuple[str, str]], rows: Sequence[Row]) -> list[Comparison]:
        by_label = {row.label: row for row in rows}
        return [
            Comparison(a, b, metric, "", label, by_label[a].cells[i], by_label[b].cells[i])
            for a, b in self._compare(list(by_label))
            for i, (label, metric) in enumerate(columns)
            if metric in PAIRED
        ]

    def _comparisons(self, columns: Sequence[tuple[str, str]], rows: Sequence[Row]) -> list[Comparison]:
        labels = [label for label, _ in columns]
        metrics = {label: reference.rpartition(".")[2] for label, reference in columns}
        return [
            Comparison(
                a, b, metrics[a], row.label, "", row.cells[labels.index(a)], row.cells[labels.index(b)]
            )
            for a, b in self._compare(labels)
            for row in rows
        ]

    def _published(self, rows: Sequence[Row]) -> list[PublishedValue]:
        wanted = self.table.published
        if wanted is None:
            return []
        labels = [label for label, _ in self._columns()]
        for column in wanted.columns:
            if column not in labels:
                there = self.place("published", "columns", column)
                self.problem("AC402", f"the table has no column `{column}`", there, near(column, labels))
        place = self.place("published", "file")
        path = Path(place.file).parent / wanted.file
        try:
            with path.open(newline="", encoding="utf-8") as file:
                lines = list(csv.DictReader(file))
        except (OSError, ValueError, csv.Error) as error:
            self.problem("AC403", f"cannot read {path}: {getattr(error, 'strerror', None) or error}", place)
            return []
        asked = {
            *_row_columns(wanted),
            wanted.value,
            *filter(None, [wanted.standard_error]),
            *(k for m in wanted.columns.values() for k in m),
        }
        missing = sorted(asked - set(lines[0] if lines else ()))
        if missing:
            self.problem(
                "AC403",
                f"{path} has no column {', '.join(missing)}",
                place,
                near(missing[0], lines[0] if lines else ()),
            )
            return []
        try:
            return [
                v
                for row in rows
                for column in wanted.columns
                if (v := _look_up(wanted, lines, row.label, column))
            ]
        except ValueError as error:
            self.problem("AC403", f"{path} holds what is no number: {error}", place)
            return []

    def _figure(self, columns: Sequence[tuple[str, str]], rows: Sequence[Row]) -> Mapping[str, Any] | None:
        if self.table.figure is None or not rows:
            return None

        def constant(column: int, among: Sequence[int]) -> bool:
            return all(rows[i].cells[column].members == rows[among[0]].cells[column].members for i in among)

        def report(code: str, message: str, hint: str, *path: str | int) -> None:
            self.problem(code, message, self.place("figure", *path), hint)

        scored = [(label, reference.rpartition(".")[2]) for label, reference in columns]
        axes = [] if isinstance(self.table.rows, dict) else self._row_axes()
        drawn = Drawn(scored, axes, [row.point for row in rows], constant)
        return resolve_figure(self.table.figure, drawn, report)


PAIRED = ("win_rate", "accuracy", "reward", "margin")  # scores that have one value for each prompt


def _look_up(
    wanted: Published, lines: Sequence[Mapping[str, str]], row: str, column: str
) -> PublishedValue | None:
    names = _row_columns(wanted)
    parts = row.split(", ") if len(names) > 1 else [row]
    labels = [wanted.rows.get(part, part) for part in parts]
    if len(labels) != len(names):
        return None
    match = {**dict(zip(names, labels, strict=True)), **wanted.columns[column]}
    for line in lines:
        if all(line[name] == value for name, value in match.items()) and line[wanted.value]:
            error = line[wanted.standard_error] if wanted.standard_error else ""
            return PublishedValue(
                row, column, float(line[wanted.value]), float(error) if error else None, wanted.file
            )
    return None


def _row_columns(wanted: Published) -> list[str]:
    return [wanted.row] if isinstance(wanted.row, str) else wanted.row


def _by_point(bindings: Iterable[Binding], names: Sequence[str]) -> dict[Point, list[Binding]]:
    found: dict[Point, list[Binding]] = {}
    for binding in bindings:
        found.setdefault(_at(binding, names), []).append(binding)
    return found


def _covering(column: Mapping[Point, list[Binding]], point: Point) -> list[Binding]:
    """The bindings of a column that hold at a point."""
    partial = [p for p in column if None in p and _covers(p, point)]
    return [b for p in dict.fromkeys([point, *partial]) for b in column.get(p, ())]


def _at(binding: Binding, names: Sequence[str]) -> Point:
    """The binding's values along axes given by name."""
    by_name = {axis_name(a): v for a, v in binding.axes.items()}
    return tuple(by_name.get(name) for name in names)


def _covers(values: Sequence[Label | None], point: Sequence[Label | None]) -> bool:
    """Whether values along axes hold at a point; one that has none along an axis holds all along it."""
    return all(v is None or v == p for v, p in zip(values, point, strict=True))


def resolve_tables(spec: Spec, graph: Graph, *, whole: bool) -> tuple[tuple[Table, ...], list[Diagnostic]]:
    """Every table. With `whole` false the graph lacks broken stages, and tables keep quiet about them."""
    problems: list[Diagnostic] = []
    tables: list[Table] = []
    for name, (table, body) in spec.tables.items():
        found: list[Diagnostic] = []
        resolved = _Resolver(spec, graph, name, table, body, found).resolve()
        problems += found if whole else [p for p in found if p.code == "AC301"]
        if resolved is not None:
            tables.append(resolved)
    return tuple(tables), problems
