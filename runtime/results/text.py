"""A table as text: coloured by rich on a terminal, plain and aligned everywhere else."""

from __future__ import annotations

import shutil
import sys

from runtime.results.table import Table
from runtime.results.words import Grid, findings, grid, notes

STYLES = {"label": "bold", "number": "", "missing": "yellow", "published": "dim italic", "none": "dim"}
MARKS = {"a": "+", "b": "-", "unclear": "?", "missing": "."}


def render_text(table: Table, *, terminal: bool | None = None, width: int | None = None) -> str:
    """The table, its notes and its findings; for a terminal where standard output is one."""
    if terminal is None:
        terminal = sys.stdout.isatty()
    if terminal:
        return _rich(table, width or shutil.get_terminal_size().columns)
    return _plain(table)


def _title(table: Table) -> str:
    return f"{table.name}: {table.caption}" if table.caption else table.name


def _plain(table: Table) -> str:
    shown = grid(table)
    lines = [_title(table), "", *_columns(shown), ""]
    lines += ["*" + note.removeprefix("Bold") if note.startswith("Bold: ") else note for note in notes(table)]
    told = findings(table)
    if told:
        lines += ["", *(f"{MARKS[finding.verdict]} {finding.text}" for finding in told)]
    return "\n".join(lines) + "\n"


def _columns(shown: Grid) -> list[str]:
    marked = ((f"{field.text}*" if field.best else field.text for field in row) for row in shown.rows)
    rows = [shown.header, *map(tuple, marked)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row: tuple[str, ...]) -> str:
        first, *rest = row
        padded = [first.ljust(widths[0]), *(t.rjust(w) for t, w in zip(rest, widths[1:], strict=True))]
        return "  ".join(padded).rstrip()

    head, *body = rows
    return [line(head), "  ".join("-" * width for width in widths), *(line(row) for row in body)]


def _rich(table: Table, width: int) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = grid(table)
    drawn = RichTable(
        title=Text(_title(table)), box=box.SIMPLE_HEAD, title_justify="left", title_style="bold"
    )
    for index, label in enumerate(shown.header):
        drawn.add_column(Text(label), justify="left" if index == 0 else "right")
    for row in shown.rows:
        drawn.add_row(
            *(Text(field.text, style="bold" if field.best else STYLES[field.kind]) for field in row)
        )
    colours = {"a": "green", "b": "magenta", "unclear": "yellow", "missing": "dim"}
    console = Console(width=width, force_terminal=True, highlight=False)
    with console.capture() as captured:
        console.print(drawn)
        for note in notes(table):
            console.print(Text(note, style="dim"))
        for finding in findings(table):
            console.print(Text(f"{MARKS[finding.verdict]} {finding.text}", style=colours[finding.verdict]))
    return captured.get()
