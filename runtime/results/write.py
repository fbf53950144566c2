"""Writes all results of an experiment into a folder: tables, figures, the report."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

from runtime.results.claim_words import claims_csv, claims_markdown
from runtime.results.description import Description
from runtime.results.documents import csv_text, latex, markdown
from runtime.results.everything import Results, load_results
from runtime.results.figure import draw
from runtime.results.jobs import Job
from runtime.results.lines import draw_lines, drawings
from runtime.results.report import page
from runtime.results.style import Format
from runtime.store import Store

FIGURES: tuple[Format, ...] = ("png", "svg", "pdf")
REPORT = "report.html"


class Written(list[Path]):
    """The files written, in order; `messages` is what the user should know beside them."""

    def __init__(self, paths: Iterable[Path], messages: Iterable[str]) -> None:
        super().__init__(paths)
        self.messages = tuple(messages)


def _names(told: Iterable[str]) -> list[str]:
    """A file name for each table or figure: safe in every file system, and no two alike."""
    names: list[str] = []
    for name in told:
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "table"
        taken = {name.lower() for name in names} | {Path(REPORT).stem, "claims"}
        tries = (plain if n == 1 else f"{plain}-{n}" for n in range(1, len(names) + 3))
        names.append(next(name for name in tries if name.lower() not in taken))
    return names


def _write(path: Path, content: bytes) -> None:
    """Replace a file at once, so that no reader sees half of it."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    temporary.write_bytes(content)
    temporary.replace(path)


Draw = Callable[[Format], bytes]


def _figures(drawing: Mapping[str, Draw]) -> tuple[dict[tuple[str, Format], bytes], list[str]]:
    """Figures by name and format, and a message where they cannot be drawn."""
    try:
        return {(name, format): draw(format) for name, draw in drawing.items() for format in FIGURES}, []
    except ImportError as error:
        return {}, [
            f"No figures were drawn: {error.name or error} is absent (pip install 'alignc[results]')."
        ]


def _unplaced(description: Description) -> Iterator[str]:
    """Published values that no cell of their table takes up, which would else vanish without a word."""
    for table in description.tables:
        places = {(row.label, column.label) for row in table.rows for column in table.columns}
        for value in table.published:
            if (value.row, value.column) not in places:
                yield (
                    f"Table {table.name}: the published value {value.value} "
                    f"of {value.row} / {value.column} has no cell."
                )


def _adopted(jobs: Iterable[Job]) -> Iterator[str]:
    """What was not made by the experiment's own jobs."""
    for job in jobs:
        if job.adopted:
            yield f"{job.id} was adopted from {job.adopted['path']} by {job.adopted['by']}."


def write_results(store: Store, description: Mapping[str, Any], out: Path) -> Written:
    """Load what a description names, and write it as `write_loaded` does."""
    return write_loaded(store, load_results(store, description), out)


def write_loaded(store: Store, found: Results, out: Path) -> Written:
    """Write every table as Markdown, CSV, LaTeX and figure, and the report, into the folder `out`.

    The tables and figures depend on the description and the scores alone; times and hosts are in
    the report only.
    """
    checked, jobs, tables, claims = found.description, found.jobs, found.tables, found.claims
    stages = list(drawings(store, jobs.values()))
    names = _names([*(table.name for table in tables), *(job.stage for job, _ in stages)])
    drawing: dict[str, Draw] = {
        name: partial(draw, table)
        for name, table in zip(names, tables, strict=False)
        if table.rows and table.columns
    }
    drawing |= {
        name: partial(draw_lines, told) for name, (_, told) in zip(names[len(tables) :], stages, strict=True)
    }
    figures, messages = _figures(drawing)
    files: dict[str, bytes] = {}
    if claims:
        files = {"claims.md": claims_markdown(claims).encode(), "claims.csv": claims_csv(claims).encode()}
    for name, table in zip_longest(names, tables):
        if table is not None:
            files[f"{name}.md"] = markdown(table).encode()
            files[f"{name}.csv"] = csv_text(table).encode()
            files[f"{name}.tex"] = latex(table).encode()
        files |= {f"{name}.{f}": figures[name, f] for f in FIGURES if (name, f) in figures}
    inline = [figures.get((name, "svg")) for name in names]
    told = {job.id: drawn for (job, _), drawn in zip(stages, inline[len(tables) :], strict=True) if drawn}
    files[REPORT] = page(store, checked, tables, claims, jobs, inline[: len(tables)], told).encode()
    out.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        _write(out / name, content)
    messages += [*_unplaced(checked), *_adopted(jobs.values())]
    return Written((out / name for name in files), messages)
