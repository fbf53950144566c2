"""One figure for a table, in the form that its spec asks for."""

from __future__ import annotations

from runtime.results import bars, scaling
from runtime.results.description import LinesSpec
from runtime.results.style import Format, saved
from runtime.results.table import Table


def draw(table: Table, format: Format = "svg") -> bytes:
    """The figure as a file of this format. Raises ImportError where matplotlib is absent."""
    return saved(lambda: (scaling if _is_lines(table) else bars).figure(table), format)


def reading(table: Table) -> tuple[str, str]:
    """What the figure is, for those who cannot see it; and how to read it."""
    if _is_lines(table):
        about = "Points: the table's means, with 95% intervals over prompts."
        return "Lines of the table above with 95% intervals", about
    about = "Bars: the table's means. Lines: 95% intervals over prompts."
    if bars.stacked(table):
        about += " A bar's upper part is what comes on top; an empty part is lost."
    return "Bars of the table above with 95% intervals", about


def _is_lines(table: Table) -> bool:
    return isinstance(table.figure, LinesSpec)
