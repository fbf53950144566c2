"""A table's content in words, the same in every format: numbers, notes and findings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from runtime.plural import counted
from runtime.results.metrics import Metric
from runtime.results.table import Cell, Column, Comparison, Member, Published, Table

NONE = "–"
MAX_PLACES = 8
Kind = Literal["label", "number", "missing", "published", "none"]
Verdict = Literal["a", "b", "unclear", "missing"]


@dataclass(frozen=True, slots=True)
class Shown:
    """One field of a table as a reader sees it; `cell` is what stands behind a number."""

    text: str
    kind: Kind
    cell: Cell | None = None
    column: Column | None = None

    @property
    def best(self) -> bool:
        """Whether it is set in bold."""
        return self.kind == "number" and self.cell is not None and self.cell.best


@dataclass(frozen=True, slots=True)
class Grid:
    """A table laid out: published values have columns of their own, beside ours."""

    header: tuple[str, ...]
    rows: tuple[tuple[Shown, ...], ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """A comparison in words; `verdict` names the better side, where there is one."""

    text: str
    verdict: Verdict
    comparison: Comparison


def number(value: float, decimals: int) -> str:
    """A number for a reader: a true minus sign, and no minus before zero."""
    text = f"{value:.{decimals}f}"
    if not text.strip("-0."):
        text = text.lstrip("-")
    return text.replace("-", "−")


def noun_of(over: Sequence[str]) -> str:
    """What the members of a cell are called: seeds, where the table averages over that axis alone."""
    return over[0].replace("_", " ") if len(over) == 1 else "run"


def with_error(value: float, error: float | None, decimals: int) -> str:
    return number(value, decimals) + (f" ± {number(error, decimals)}" if error is not None else "")


def cell_text(cell: Cell, metric: Metric, over: Sequence[str]) -> str:
    """What a table prints for a cell: `57.5 ± 1.8 [0.9]`, `2 of 3 seeds`, `failed`."""
    if not cell.members:
        return NONE
    if cell.value is not None:
        spread = f" [{number(cell.spread, metric.decimals)}]" if cell.spread is not None else ""
        return with_error(cell.value, cell.standard_error, metric.decimals) + spread
    states = {member.status for member in cell.members}
    if cell.n_seeds == 0 and len(states) == 1:
        return states.pop()
    return f"{cell.n_seeds} of {counted(cell.n_expected, noun_of(over))}"


def published_text(published: Published | None, metric: Metric) -> str:
    return with_error(published.value, published.standard_error, metric.decimals) if published else NONE


def _shown(cell: Cell, column: Column, over: Sequence[str]) -> Iterator[Shown]:
    kind: Kind = "none" if not cell.members else "missing" if cell.value is None else "number"
    yield Shown(cell_text(cell, column.metric, over), kind, cell, column)
    if column.published:
        yield Shown(published_text(cell.published, column.metric), "published" if cell.published else "none")


def grid(table: Table) -> Grid:
    header = [table.row_header]
    for column in table.columns:
        header += [column.label, f"{column.label} (published)"] if column.published else [column.label]
    rows = []
    for row in table.rows:
        cells = zip(row.cells, table.columns, strict=True)
        fields = (shown for cell, column in cells for shown in _shown(cell, column, table.over))
        rows.append((Shown(row.label, "label"), *fields))
    return Grid(tuple(header), tuple(rows))


def _range(values: Iterable[int | None], noun: str) -> str:
    known = sorted({value for value in values if value is not None})
    if not known:
        return ""
    return counted(known[0], noun) if len(known) == 1 else f"{known[0]:,} to {known[-1]:,} {noun}s"


def _cells(table: Table) -> Iterator[tuple[str, Column, Cell]]:
    for row in table.rows:
        for column, cell in zip(table.columns, row.cells, strict=True):
            yield row.label, column, cell


def _units(table: Table) -> str:
    """`Win rate in %`; where columns differ, which column shows what."""
    names = {m.field: f"{m.title} in {m.unit}" if m.unit else m.title for m in table.metrics}
    if len(names) == 1:
        return _sentence(*names.values())
    said = []
    for column in table.columns:
        name = names[column.metric.field]
        clear = name.startswith(column.label.replace("_", " ").casefold())  # the label says it already
        said.append(name if clear else f"{column.label}: {name}")
    return "; ".join([_sentence(said[0]) if said[0] in names.values() else said[0], *said[1:]])


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _reading(table: Table) -> str:
    """How to read the numbers."""
    full = [cell for _, _, cell in _cells(table) if cell.value is not None]
    said = [_units(table)]
    if any(cell.standard_error is not None for cell in full):
        said.append("± one standard error over prompts")
    if any(cell.spread is not None for cell in full):
        runs = _range((cell.n_expected for cell in full if cell.spread is not None), noun_of(table.over))
        said.append(f"[ ] standard deviation over {runs}")
    elif full:
        said.append(f"one {noun_of(table.over)} each, so variation between training runs is not in the error")
    said.append(_range((cell.n_prompts for cell in full), "prompt"))
    return "; ".join(filter(None, said)) + "."


def _member_note(member: Member, metric: Metric) -> str:
    told = number(member.value, metric.decimals) if member.value is not None else member.missing
    return f"{member.label}: {told}" if member.label else told


def missing_notes(table: Table) -> list[str]:
    """Why each missing cell is missing, and what its other members measured; equal reasons share a line."""
    reasons: dict[str, list[str]] = {}
    for row, column, cell in _cells(table):
        if cell.missing:
            told = "; ".join(_member_note(member, column.metric) for member in cell.members)
            if len({member.missing for member in cell.members}) == 1 and len(cell.members) > 1:
                told = f"{cell.missing[0].missing} (all {counted(len(cell.members), noun_of(table.over))})"
            reasons.setdefault(told, []).append(f"{row} / {column.label}")
    return [f"{_places(places)}: {told}" for told, places in reasons.items()]


def _places(places: Sequence[str]) -> str:
    """Where something is missing; many places are counted, for each cell says so itself."""
    return ", ".join(places) if len(places) <= MAX_PLACES else counted(len(places), "number")


def notes(table: Table) -> list[str]:
    """What stands under a table: how to read it, what is missing and why, where published values are from."""
    said = [_reading(table), *missing_notes(table)]
    if any(cell.best for _, _, cell in _cells(table)):
        beside = "row" if table.row_header else "column"
        said.append(f"Bold: ahead of every other of its {beside} (paired 95% intervals).")
    sources = {
        cell.published.source for _, _, cell in _cells(table) if cell.published and cell.published.source
    }
    if sources:
        said.append(f"Published: {'; '.join(sorted(sources))}.")
    return said


def _enough(decimals: int, *values: float) -> int:
    """Digits enough that no bound of an interval is rounded to zero, which would hide its side."""
    while decimals < 4 and any(value and not number(value, decimals).strip("−0.") for value in values):
        decimals += 1
    return decimals


def _basis(comparison: Comparison, table: Table) -> str:
    runs = _range((len(comparison.a), len(comparison.b)), noun_of(table.over))
    return f"{runs}, {counted(comparison.n_prompts or 0, 'prompt')}"


def _where(comparison: Comparison, table: Table) -> str:
    """Row or column of a comparison, where the table has more than one."""
    said = [comparison.row] if comparison.row else []
    if comparison.column and not said and len(table.columns) > 1:
        said = [comparison.column]
    return "".join(f"{part}: " for part in said)


def finding(comparison: Comparison, table: Table) -> Finding:
    """What a comparison says: who is better by how much, that it cannot tell, or what it waits for."""
    a, b, metric = comparison.a_label, comparison.b_label, comparison.metric
    where = _where(comparison, table)
    mean, low, high = comparison.mean, comparison.low, comparison.high
    if mean is None or low is None or high is None:
        return Finding(
            f"{where}{a} against {b} is not known yet: {comparison.missing}.", "missing", comparison
        )
    digits = _enough(max(metric.decimals, 1 if metric.is_percent else 0), low, high)
    basis = _basis(comparison, table)
    if low <= 0 <= high:
        text = (
            f"{where}cannot tell {a} and {b} apart: difference {metric.amount(number(mean, digits))} "
            f"(95% interval {number(low, digits)} to {number(high, digits)}), {basis}."
        )
        return Finding(text, "unclear", comparison)
    better, worse, low, high = (a, b, low, high) if mean > 0 else (b, a, -high, -low)
    verb = "beats" if metric.is_percent else "exceeds"  # more characters are not better
    text = (
        f"{where}{better} {verb} {worse} by {metric.amount(number(abs(mean), digits))} "
        f"(95% interval {number(low, digits)} to {number(high, digits)}), {basis}."
    )
    return Finding(text, "a" if mean > 0 else "b", comparison)


def findings(table: Table) -> list[Finding]:
    return [finding(comparison, table) for comparison in table.comparisons]
