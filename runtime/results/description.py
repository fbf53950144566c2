"""The tables description that the compiler writes (schema alignc.tables/1), checked at the border."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

SCHEMA = "alignc.tables/1"


class _Part(BaseModel):
    """Unknown keys are let through: a newer compiler may tell more than this version reads."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


class MemberSpec(_Part):
    """One job that a number is made of."""

    node: str
    kind: str
    key: str
    field: str
    axes: dict[str, Any] = {}
    place: str = ""


class CellSpec(_Part):
    """One member for each value of the axes that the table averages over."""

    members: tuple[MemberSpec, ...] = ()


class ColumnSpec(_Part):
    label: str
    metric: str


class RowSpec(_Part):
    label: str
    cells: tuple[CellSpec | None, ...]


class ComparisonSpec(_Part):
    """`a` minus `b`; the two labels are read from `label` ("A - B") where they are not given."""

    label: str
    row: str = ""
    column: str = ""
    field: str
    a: tuple[MemberSpec, ...] = ()
    b: tuple[MemberSpec, ...] = ()
    a_label: str = ""
    b_label: str = ""


class PublishedSpec(_Part):
    row: str
    column: str
    value: float
    standard_error: float | None = None
    source: str = ""


class _FigureSpec(_Part):
    y_from: float = 0.0
    y_to: float | None = None
    dashed_y: float | None = None


class BarsSpec(_FigureSpec):
    """Columns by number; `stack` is (the upper one, the one it stands on)."""

    form: Literal["bars"] = "bars"
    stack: tuple[tuple[int, int], ...] = ()
    hatched: tuple[int, ...] = ()


class LineRow(_Part):
    """On which line a row is a point, and where: a name has a place on an even scale only."""

    line: str
    x: float | str


class LinesSpec(_FigureSpec):
    """A place for each row; `at` is (column by number, the x at which it is a point of every line)."""

    form: Literal["lines"] = "lines"
    rows: tuple[LineRow, ...]
    x_title: str = ""
    x_percent: bool = False
    scale: Literal["linear", "log", "even"] = "linear"
    at: tuple[tuple[int, float], ...] = ()
    dashed_x: float | None = None


FigureSpec = BarsSpec | LinesSpec


class TableSpec(_Part):
    name: str
    caption: str = ""
    row_header: str = ""
    columns: tuple[ColumnSpec, ...]
    rows: tuple[RowSpec, ...]
    over: tuple[str, ...] = ()
    comparisons: tuple[ComparisonSpec, ...] = ()
    published: tuple[PublishedSpec, ...] = ()
    figure: Annotated[FigureSpec, Field(discriminator="form")] = BarsSpec()

    @model_validator(mode="after")
    def _rectangular(self) -> TableSpec:
        for row in self.rows:
            if len(row.cells) != len(self.columns):
                raise ValueError(
                    f"row {row.label!r} of table {self.name!r} has {len(row.cells)} cells "
                    f"for {len(self.columns)} columns"
                )
        return self

    def members(self, row: str, column: str) -> tuple[MemberSpec, ...]:
        """Those of one cell, by its labels."""
        at = [c.label for c in self.columns].index(column)
        cell = next(r for r in self.rows if r.label == row).cells[at]
        return cell.members if cell else ()


class PairSpec(_Part):
    """What a claim compares at one place: cells as (row, column), by label."""

    label: str
    a: tuple[str, str]
    b: tuple[str, str]


class ClaimSpec(_Part):
    """A statement about a table that its numbers decide."""

    name: str
    says: str = ""
    table: str
    better: str
    than: str
    margin: float = 0.0
    of: Literal["every", "some"] = "every"
    level: float = 0.95
    pairs: tuple[PairSpec, ...]


class NodeSpec(_Part):
    """One job of the experiment."""

    id: str
    stage: str
    kind: str
    key: str
    asked: str = ""
    axes: dict[str, Any] = {}
    needs: tuple[str, ...] = ()
    place: str = ""


class SpecSource(_Part):
    path: str = ""
    commit: str | None = None
    dirty: bool | None = None


class Description(_Part):
    schema_: Literal["alignc.tables/1"] = Field(alias="schema")
    experiment: str
    spec: SpecSource = SpecSource()
    tables: tuple[TableSpec, ...] = ()
    claims: tuple[ClaimSpec, ...] = ()
    nodes: tuple[NodeSpec, ...] = ()


def read_description(description: Mapping[str, Any] | Description) -> Description:
    """Check a description; raises pydantic's ValidationError with the place of what is wrong."""
    if isinstance(description, Description):
        return description
    return Description.model_validate(description)
