"""The language reference, generated from the models that check specs.

python -m compiler.manual.reference > docs/language.md
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from compiler.cost.prices import TokenPrice
from compiler.errors import CODES
from compiler.frontend.figures import BarsFigure, LinesFigure
from compiler.frontend.spec import Budget, ClaimSpec, Published, TableSpec
from compiler.remote.login import Login
from compiler.site.profile import Container, Mail, Partition, Profile, Rule, Webhook
from runtime import declare, parsers
from runtime.fields import Frozen, affects, taken
from runtime.stage import Resources, stage_kinds
from runtime.tracking import Tracking, Wandb

INTRODUCTION = Path(__file__).parents[2] / "docs" / "language.head.md"
SECTIONS: tuple[tuple[str, tuple[type[Frozen], ...]], ...] = (
    ("models", (declare.ModelDecl, declare.Architecture)),
    (
        "sources",
        (
            declare.JsonlSource,
            declare.ShareGptSource,
            declare.AlpacaEvalSource,
            declare.AlpacaEvalLengthsSource,
            declare.PreferencesSource,
            declare.DatasetsSource,
            declare.WorldSource,
        ),
    ),
    (
        "llms",
        (
            declare.OpenAiLLM,
            declare.AnthropicLLM,
            declare.LocalLLM,
            declare.SimulatedLLM,
            declare.ReplayLLM,
            declare.Limits,
        ),
    ),
    (
        "wordings",
        (
            declare.TemplateWording,
            declare.AlpacaEvalWording,
            parsers.WordsParser,
            parsers.RankingParser,
            parsers.JsonParser,
            parsers.RegexParser,
            parsers.ScoresParser,
            parsers.LogprobsParser,
        ),
    ),
)


def _type(annotation: Any) -> str:
    """A type as a reader of YAML would say it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is type(None):
        return "null"
    if origin is Annotated:
        return _type(arguments[0])
    if origin is Literal:
        return " \\| ".join(f"`{a}`" for a in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_type(a) for a in arguments if a is not type(None))
    if origin in (list, tuple):
        inner = dict.fromkeys(_type(a) for a in arguments if a is not ...)
        return f"list of {' and '.join(inner)}"
    if origin is dict:
        return f"map of {_type(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    names = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    return names.get(annotation, str(annotation))


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "**required**"
    value = info.get_default(call_default_factory=True)
    if value is None or value is PydanticUndefined:
        return ""
    if isinstance(value, BaseModel):
        return "its defaults"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{list(value) if isinstance(value, tuple) else value}`"


def _fields(model: type[BaseModel], skip: frozenset[str] = frozenset()) -> Iterator[str]:
    yield "| key | value | default | affects | |"
    yield "|---|---|---|---|---|"
    for name, info in model.model_fields.items():
        if name in skip:
            continue
        kind = " or ".join(taken(info)) or _type(info.annotation)
        doc = (info.description or "").replace("|", "\\|")
        yield f"| `{info.alias or name}` | {kind} | {_default(info)} | {affects(info) or 'nothing'} | {doc} |"


def _model(model: type[BaseModel], level: int = 3, skip: frozenset[str] = frozenset()) -> Iterator[str]:
    yield f"{'#' * level} {model.__name__}"
    yield ""
    yield from _body(model, skip)


def _body(model: type[BaseModel], skip: frozenset[str] = frozenset()) -> Iterator[str]:
    yield " ".join((model.__doc__ or "").split())
    yield ""
    yield from _fields(model, skip)
    yield ""


def _lines() -> Iterator[str]:
    yield INTRODUCTION.read_text(encoding="utf-8").rstrip()
    yield ""
    yield "## Stage kinds"
    yield ""
    yield "Every stage has `kind`, and may have `note` (a remark), `resources` and `sweep`."
    yield ""
    nested: dict[type[BaseModel], None] = {}
    common = frozenset(("kind", "note", "resources"))
    for name, kind in stage_kinds().items():
        yield f"### {name}"
        yield ""
        yield from _body(kind.config, common)
        for info in kind.config.model_fields.values():
            for part in (info.annotation, *get_args(info.annotation)):  # `X` and `X | None`
                if isinstance(part, type) and issubclass(part, BaseModel) and not taken(info):
                    nested[part] = None
    nested[Resources] = None
    for model in nested:
        yield from _model(model)
    for section, models in SECTIONS:
        yield f"## {section}"
        yield ""
        for declared in models:
            yield from _model(declared)
    yield "## tables, claims, budget, tracking, cluster profiles"
    yield ""
    others = (
        TableSpec,
        Published,
        BarsFigure,
        LinesFigure,
        ClaimSpec,
        Budget,
        Tracking,
        Wandb,
        Profile,
        Login,
        Partition,
        Rule,
        Container,
        Mail,
        Webhook,
    )
    for other in (*others, TokenPrice):
        yield from _model(other)
    yield "## Error codes"
    yield ""
    yield "[Explained with examples](errors.md), also by `alignc explain-error CODE`."
    yield ""
    yield "| code | |"
    yield "|---|---|"
    for code, title in CODES.items():
        yield f"| {code} | {title} |"


def language_reference() -> str:
    """The whole page, as Markdown."""
    return "\n".join(_lines()) + "\n"


if __name__ == "__main__":
    print(language_reference(), end="")
