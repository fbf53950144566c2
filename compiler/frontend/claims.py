"""Claims of a spec -> the cells of tables that each compares. They are decided later, by the runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compiler.errors import Diagnostic, near
from compiler.frontend.source import Located
from compiler.frontend.spec import ClaimSpec, Spec
from compiler.frontend.tables import PAIRED, Table

Place = tuple[str, str]  # labels of a row and a column


@dataclass(frozen=True, slots=True)
class Pair:
    """`a` is claimed to be better than `b`, at the row or column called `label`."""

    label: str
    a: Place
    b: Place


@dataclass(frozen=True, slots=True)
class Claim:
    name: str
    told: ClaimSpec
    pairs: tuple[Pair, ...]


def resolve_claims(
    spec: Spec, tables: Sequence[Table], *, whole: bool
) -> tuple[tuple[Claim, ...], list[Diagnostic]]:
    """Every claim. With `whole` false broken tables may be missing, and claims keep quiet about them."""
    problems: list[Diagnostic] = []
    known = {table.name: table for table in tables}
    claims: list[Claim] = []
    for name, (told, body) in spec.claims.items():
        table = known.get(told.table)
        if table is None:
            if told.table not in spec.tables:
                hint = near(told.table, spec.tables)
                message = f"there is no table `{told.table}`"
                problems.append(Diagnostic("AC402", message, body.find(("table",))[0].span, hint))
            elif whole:
                raise RuntimeError(f"the table {told.table} is right but was not resolved")
            continue
        claim = _resolve(name, told, body, table, problems)
        if claim is not None:
            claims.append(claim)
    return tuple(claims), problems


def _resolve(
    name: str, told: ClaimSpec, body: Located, table: Table, problems: list[Diagnostic]
) -> Claim | None:
    before = len(problems)
    rows, columns = [row.label for row in table.rows], [label for label, _ in table.columns]
    by_row = not table.row_header  # then the rows name stages, and are what is compared
    sides, others = (rows, columns) if by_row else (columns, rows)

    def problem(message: str, *path: str | int, hint: str = "") -> None:
        problems.append(Diagnostic("AC402", message, body.find(path)[0].span, hint))

    for field, label in (("better", told.better), ("than", told.than)):
        if label not in sides:
            what = "row" if by_row else "column"
            problem(f"`{table.name}` has no {what} `{label}`", field, hint=near(label, sides))
    named = [str(label) for label in told.where]
    for index, label in enumerate(named):
        if label not in others:
            what = "column" if by_row else "row"
            problem(f"`{table.name}` has no {what} `{label}`", "where", index, hint=near(label, others))
    if len(problems) > before:
        return None
    metrics = {label: reference.rpartition(".")[2] for label, reference in table.columns}
    where = named or [o for o in others if not by_row or metrics[o] in PAIRED]
    pairs = tuple(_pair(told, at, by_row=by_row) for at in where)
    scored = {metrics[column] for pair in pairs for _, column in (pair.a, pair.b)}
    if not pairs or scored - set(PAIRED):
        hint = f"claims are about {', '.join(PAIRED)}"
        shown = ", ".join(sorted(scored - set(PAIRED))) or "no such score"
        problem(f"nothing to pair on prompts: {shown}", "where" if told.where else "better", hint=hint)
        return None
    if any(metrics[pair.a[1]] != metrics[pair.b[1]] for pair in pairs):
        problem(f"`{told.better}` and `{told.than}` show different scores", "than")
        return None
    return Claim(name, told, pairs)


def _pair(told: ClaimSpec, at: str, *, by_row: bool) -> Pair:
    if by_row:
        return Pair(at, (told.better, at), (told.than, at))
    return Pair(at, (at, told.better), (at, told.than))
