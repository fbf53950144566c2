"""Checks located values against pydantic models, and points each finding at its place."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError

from compiler.errors import Diagnostic, near
from compiler.frontend.source import Located
from runtime.known import UNKNOWN_NAME

_QUOTED = re.compile("`([^`]+)`")


@cache
def _adapter(type_: Any) -> TypeAdapter[Any]:
    return TypeAdapter(type_)


def _in_spec(loc: Sequence[str | int], tree: Located) -> tuple[str | int, ...]:
    """A pydantic location without the parts that pydantic adds (union tags, `[key]`)."""
    path: list[str | int] = []
    here = tree
    for index, step in enumerate(loc):
        deeper, depth = here.find([step])
        if depth == 1:
            path.append(step)
            here = deeper
        elif index == len(loc) - 1 and isinstance(step, str):
            path.append(step)  # a missing or unknown last key still is a key
    return tuple(path)


def _shown(tree: Located) -> str:
    """A value in a message, cut where it is long."""
    text = repr(tree.plain())
    return text if len(text) <= 60 else text[:57] + "..."


def _named(message: str, here: Located) -> list[Located]:
    """The written values of a mapping whose keys a message names in backquotes."""
    return [here.items[name] for name in _QUOTED.findall(message) if name in here.items]


def _models(type_: Any) -> list[type[BaseModel]]:
    """The pydantic models that a type may hold directly, through unions, Annotated and containers."""
    if isinstance(type_, type) and issubclass(type_, BaseModel):
        return [type_]
    return [model for argument in get_args(type_) for model in _models(argument)]


def _fields(type_: Any, path: Sequence[str | int]) -> list[str]:
    """Keys that are allowed at a path below a type."""
    models = _models(type_)
    for step in path:
        models = [
            model
            for owner in models
            for name, info in owner.model_fields.items()
            if (info.alias or name) == step
            for model in _models(info.annotation)
        ]
    return list(dict.fromkeys(info.alias or name for m in models for name, info in m.model_fields.items()))


def _finding(error: Any, tree: Located, what: str, type_: Any) -> Diagnostic:
    kind, loc = error["type"], error["loc"]
    path = _in_spec(loc, tree)
    last = str(path[-1]) if path else ""
    here, depth = tree.find(path)
    name = ".".join(str(p) for p in path)
    if kind == "extra_forbidden":
        return Diagnostic(
            "AC101",
            f"{what} has no key `{name}`",
            here.place,
            near(last, [k for k in _fields(type_, path[:-1]) if k != last]),
        )
    if kind in ("missing", "union_tag_not_found"):
        wanted = str(error.get("ctx", {}).get("discriminator", last)).strip("'")
        parent, _ = tree.find(path[:-1] if depth < len(path) else path)
        return Diagnostic("AC102", f"{what} needs `{wanted}`", parent.place)
    if kind == "union_tag_invalid":
        context = error["ctx"]
        tag = str(context["discriminator"]).strip("'")
        here = here.items.get(tag, here)
        known = [t.strip(" '") for t in str(context["expected_tags"]).split(",")]
        return Diagnostic(
            "AC103", f"unknown {tag} `{context['tag']}`", here.span, near(str(context["tag"]), known)
        )
    hint = ""
    message = error["msg"].removeprefix("Value error, ")
    if kind == "literal_error" and isinstance(here.value, str):
        known = [w.strip("'\" ") for w in error["ctx"]["expected"].replace(" or ", ",").split(",")]
        hint = near(here.value, known)
    elif kind == UNKNOWN_NAME:
        hint = near(error["ctx"]["name"], error["ctx"]["known"])
    elif kind == "model_attributes_type":  # where several models could stand
        message = "a mapping is needed"
    elif kind == "model_type":
        is_reference = error["ctx"]["class_name"] == "Reference"
        message = "name a stage or a declaration" if is_reference else "a mapping is needed"
    subject = f"`{name}` of {what}: " if name else f"{what}: "
    message = f"{subject}{message[0].lower()}{message[1:]}"
    if here.items:  # the whole mapping is wrong: point at the entries that the message names
        places = [named.span for named in _named(message, here)] or [here.place]
        return Diagnostic("AC103", message, places[0], hint, tuple(("see also", p) for p in places[1:]))
    shown = f", not {_shown(here)}" if depth == len(path) and path and kind != UNKNOWN_NAME else ""
    return Diagnostic("AC103", message + shown, here.span, hint)


def validate(type_: Any, tree: Located, what: str) -> tuple[Any, list[Diagnostic]]:
    """`tree` as a value of `type_`, or None with every finding."""
    if isinstance(type_, type) and issubclass(type_, BaseModel) and not isinstance(tree.value, dict):
        return None, [Diagnostic("AC104", f"{what} is a mapping, not {_shown(tree)}", tree.span)]
    try:
        return _adapter(type_).validate_python(tree.plain()), []
    except ValidationError as error:
        return None, [
            _finding(e, tree, what, type_) for e in error.errors(include_url=False, include_input=False)
        ]
