"""Dollars for tokens: the shipped price table, the user's own, and what declarations state."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from compiler.errors import UsageError
from runtime import templates
from runtime.fields import Frozen

if TYPE_CHECKING:
    from compiler.program import Program

OWN = Path("~/.config/alignc/prices.yaml")
PAID = ("openai", "anthropic")  # providers whose tokens cost money
# A dated snapshot has the price of the name without the date, unless the table says otherwise.
_DATE = re.compile(r"-(\d{4}|\d{8}|\d{4}-\d\d-\d\d|latest)\Z")


class TokenPrice(Frozen):
    """USD for a million tokens of one model."""

    input: float = Field(ge=0, description="USD for a million input tokens")
    output: float = Field(ge=0, description="USD for a million output tokens")
    cached_input: float | None = Field(
        None,
        ge=0,
        description="USD for a million input tokens read from the provider's cache; none: as the others",
    )


class PriceTable(Frozen):
    """A file of prices."""

    as_of: str | int = Field("", description="when the prices were looked up, for readers")
    models: dict[str, TokenPrice] = Field(description="model name -> its prices")


@dataclass(frozen=True, slots=True)
class Price:
    """USD for a million tokens, and where that stands."""

    input: float
    output: float
    basis: str
    cached_input: float | None = None


Tables = tuple[tuple[str, Mapping[str, TokenPrice]], ...]  # (where, model -> price), the first one wins


def read_tables(given: str | Mapping[str, TokenPrice] | None) -> Tables:
    """All price tables: the cluster profile's (a file or a mapping), the user's own, the shipped one.

    Raises UsageError for a file that is missing or malformed.
    """
    found: list[tuple[str, Mapping[str, TokenPrice]]] = []
    if isinstance(given, str):
        found.append(_read(Path(given)))
    elif given:
        found.append(("the cluster profile", given))
    own = OWN.expanduser()
    if own.is_file():
        found.append(_read(own))
    return (*found, _read(templates.folder() / "prices.yaml"))


def _read(path: Path) -> tuple[str, Mapping[str, TokenPrice]]:
    from compiler.frontend.source import parse
    from compiler.frontend.validate import validate

    try:
        tree, problems = parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the price table {path} cannot be read: {error}") from error
    table = None
    if tree is not None:
        table, more = validate(PriceTable, tree, "the price table")
        problems = [*problems, *more]
    if table is None or problems:
        raise UsageError("\n".join(f"{p.span}: {p.message}  {p.hint}".rstrip() for p in problems))
    assert isinstance(table, PriceTable)
    return f"{path.name}{f' of {table.as_of}' if table.as_of else ''}", table.models


def price_of(declared: Any, tables: Tables) -> Price | None:
    """What a declared llm's tokens cost: as stated there, else by the tables; None where unknown.

    Whatever is not asked over an API costs no dollars.
    """
    if declared.provider not in PAID:
        return Price(0, 0, "no API")
    cached = declared.usd_per_million_cached_input
    if declared.usd_per_million_input is not None and declared.usd_per_million_output is not None:
        return Price(declared.usd_per_million_input, declared.usd_per_million_output, "stated", cached)
    for name in dict.fromkeys((declared.model, _DATE.sub("", declared.model))):
        for where, table in tables:
            if name in table:
                found = table[name]
                return Price(
                    found.input, found.output, where, found.cached_input if cached is None else cached
                )
    return None


def priced(program: Program, tables: Tables) -> Program:
    """The program with a price in every declaration that has one, so that its jobs count their dollars."""
    changed = dict(program.spec.declarations)
    for name, declaration in changed.items():
        if declaration.section != "llms" or declaration.value is None:
            continue
        price = price_of(declaration.value, tables)
        if price is not None and declaration.value.provider in PAID:
            prices = {
                "usd_per_million_input": price.input,
                "usd_per_million_output": price.output,
                "usd_per_million_cached_input": price.cached_input,
            }
            changed[name] = replace(declaration, value=declaration.value.model_copy(update=prices))
    return replace(program, spec=replace(program.spec, declarations=changed))
