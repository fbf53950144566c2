"""A table as Markdown, CSV and LaTeX: the same inputs give the same bytes."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator

from runtime.results.table import Cell, Comparison, Member, Published, Table
from runtime.results.words import Shown, findings, grid, notes
from runtime.templates import fill

CSV_HEADER = (
    "table", "row", "column", "level", "member", "metric", "value", "standard_error", "low", "high",
    "spread", "n_prompts", "n_seeds", "n_expected", "status", "node", "key", "place", "note",
)  # fmt: skip

# What could be read as markup inside a line; a bracket only where a link would follow.
_MARKDOWN = re.compile(r"([\\`*_<>|~$]|\](?=[(\[])|&(?=#?\w+;))")
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_",
    "%": r"\%", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}", "[": "{[}", "]": "{]}",
    "±": r"$\pm$", "−": "$-$", "–": "--", "…": r"\ldots{}",
}  # fmt: skip


def escape_markdown(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", text)


def escape_latex(text: str) -> str:
    """Text as LaTeX shows it literally; brackets in braces, for they follow a line's `\\\\`."""
    return "".join(_LATEX.get(character, character) for character in text)


def markdown(table: Table) -> str:
    shown = grid(table)
    return fill(
        "tables/table.md.j2",
        title=escape_markdown(table.caption or table.name),
        header=[escape_markdown(label) for label in shown.header],
        rows=[[_markdown_field(field) for field in row] for row in shown.rows],
        notes=[escape_markdown(note) for note in notes(table)],
        findings=[escape_markdown(finding.text) for finding in findings(table)],
    )


def _markdown_field(field: Shown) -> str:
    text = escape_markdown(field.text)
    if field.best:
        return f"**{text}**"
    return f"*{text}*" if field.kind in ("missing", "published") else text


def latex(table: Table) -> str:
    """A booktabs table to `\\input`; needs \\usepackage{booktabs} and \\usepackage[T1]{fontenc}."""
    shown = grid(table)
    return fill(
        "tables/table.tex.j2",
        label=re.sub(r"[^A-Za-z0-9:.-]+", "-", table.name),
        caption=escape_latex(table.caption or table.name),
        alignment="l" + "r" * (len(shown.header) - 1),
        header=[escape_latex(label) for label in shown.header],
        rows=[[_latex_field(field) for field in row] for row in shown.rows],
        notes=[escape_latex(note) for note in notes(table)],
    )


def _latex_field(field: Shown) -> str:
    text = escape_latex(field.text)
    if field.best:
        return rf"\textbf{{{text}}}"
    return rf"\textit{{{text}}}" if field.kind in ("missing", "published") else text


def csv_text(table: Table) -> str:
    """Full precision; a line for each cell, each of its members, each published value and comparison."""
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_HEADER, restval="", lineterminator="\n")
    writer.writeheader()
    for record in _records(table):
        writer.writerow({"table": table.name, **{k: _plain(v) for k, v in record.items()}})
    return out.getvalue()


def _plain(value: object) -> str:
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def _records(table: Table) -> Iterator[dict[str, object]]:
    for row in table.rows:
        for column, cell in zip(table.columns, row.cells, strict=True):
            place = {"row": row.label, "column": column.label, "metric": column.metric.field}
            yield {**place, **_cell_record(cell)}
            for member in cell.members:
                yield {**place, **_member_record(member)}
            if cell.published:
                yield {**place, **_published_record(cell.published)}
    for comparison in table.comparisons:
        yield _comparison_record(comparison)


def _cell_record(cell: Cell) -> dict[str, object]:
    low, high = cell.interval or (None, None)
    status = "done" if cell.value is not None else "incomplete" if cell.members else "none"
    return {
        "level": "cell", "value": cell.value, "standard_error": cell.standard_error, "low": low, "high": high,
        "spread": cell.spread, "n_prompts": cell.n_prompts, "n_seeds": cell.n_seeds,
        "n_expected": cell.n_expected, "status": status,
    }  # fmt: skip


def _member_record(member: Member) -> dict[str, object]:
    return {
        "level": "member", "member": member.label, "value": member.value,
        "standard_error": member.standard_error, "n_prompts": member.n_prompts, "status": member.status,
        "node": member.node, "key": member.key, "place": member.place, "note": member.missing,
    }  # fmt: skip


def _published_record(published: Published) -> dict[str, object]:
    return {
        "level": "published", "value": published.value, "standard_error": published.standard_error,
        "note": published.source,
    }  # fmt: skip


def _comparison_record(comparison: Comparison) -> dict[str, object]:
    sides = comparison.a, comparison.b
    return {
        "row": comparison.row, "column": comparison.label, "level": "comparison",
        "metric": comparison.metric.field, "value": comparison.mean,
        "standard_error": comparison.standard_error, "low": comparison.low, "high": comparison.high,
        "n_prompts": comparison.n_prompts,
        "n_seeds": min(sum(m.value is not None for m in side) for side in sides),
        "n_expected": min(map(len, sides)),
        "status": "incomplete" if comparison.missing else "done", "note": comparison.missing,
    }  # fmt: skip
