"""`${axis}` and `${axis.field}` in values: which axes a value mentions, and what it becomes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from compiler.errors import EXPANDED, Diagnostic, Span, near
from compiler.frontend.source import Located, made

_HOLE = re.compile(r"\$\{([^{}]*)\}")
_NAME = re.compile(r"[A-Za-z_][\w-]*(\.[\w-]+)*\Z")

Label = str | int | float | bool


@dataclass(frozen=True, slots=True)
class AxisValue:
    """One value of an axis: its label, and the record behind it where it has one."""

    label: Label
    place: Span
    record: Located | None = None


def _names(text: str) -> list[str]:
    return [hole.strip() for hole in _HOLE.findall(text)]


def mentions(tree: Located) -> list[str]:
    """Names of the axes that a value mentions, in order of appearance."""
    found: dict[str, None] = {}
    for scalar in tree.scalars():
        if isinstance(scalar.value, str) and "${" in scalar.value:
            for name in _names(scalar.value):
                found[name.partition(".")[0]] = None
    return list(found)


def check(tree: Located, axes: Mapping[str, Iterable[AxisValue]]) -> list[Diagnostic]:
    """What is wrong with the `${...}` of a value, whatever the axes' values."""
    problems: list[Diagnostic] = []
    for scalar in tree.scalars():
        if not isinstance(scalar.value, str) or "${" not in scalar.value:
            continue
        if "${" in _HOLE.sub("", scalar.value):
            problems.append(
                Diagnostic("AC203", f"`{scalar.value}` opens `${{` without closing it", scalar.span)
            )
        for name in _names(scalar.value):
            axis, _, attribute = name.partition(".")
            if not _NAME.match(name):
                hint = "write `${axis}` or `${axis.field}`"
                problems.append(Diagnostic("AC203", f"`${{{name}}}` is not a name", scalar.span, hint))
            elif axis not in axes:
                problems.append(
                    Diagnostic("AC201", f"there is no axis `{axis}`", scalar.span, near(axis, axes))
                )
            elif attribute:
                alone = _HOLE.fullmatch(scalar.value) is not None
                problems += _check_field(axis, attribute, axes[axis], scalar.span, alone=alone)
    return problems


def _check_field(
    axis: str, attribute: str, values: Iterable[AxisValue], span: Span, *, alone: bool
) -> list[Diagnostic]:
    """`alone`: nothing else stands in the value, so that null may be meant."""
    problems: list[Diagnostic] = []
    for value in values:
        found = _field(value, attribute)
        if found is None or (found.value is None and not alone):
            what = f"the value `{value.label}` of axis `{axis}`"
            if found is not None:
                message = f"`{attribute}` of {what} is null, which cannot stand in a text"
                hint = f"give it a value, or let `${{{axis}.{attribute}}}` stand alone"
            elif value.record is None:
                message, hint = f"{what} is no record", f"give it fields: `{value.label}: {{...}}`"
            else:
                message, hint = f"{what} has no field `{attribute}`", near(attribute, value.record.items)
            problems.append(Diagnostic("AC202", message, span, hint, (("the value is at", value.place),)))
    return problems


def _field(value: AxisValue, attribute: str) -> Located | None:
    """A field of an axis value's record, such as `epochs` or `optimizer.epochs`."""
    path = attribute.split(".")
    found, depth = value.record.find(path) if value.record else (None, 0)
    return found if found and depth == len(path) else None


def _value(name: str, chosen: Mapping[str, AxisValue]) -> tuple[Any, Span]:
    """What `${name}` stands for, and where that is written."""
    axis, _, attribute = name.partition(".")
    found = _field(chosen[axis], attribute) if attribute else None
    return (found.plain(), found.span) if found else (chosen[axis].label, chosen[axis].place)


def substitute(tree: Located, chosen: Mapping[str, AxisValue]) -> Located:
    """The value with every `${...}` filled in; one that stands alone keeps its type."""
    if isinstance(tree.value, dict):
        return replace(tree, value={k: substitute(v, chosen) for k, v in tree.value.items()})
    if isinstance(tree.value, tuple):
        return replace(tree, value=tuple(substitute(v, chosen) for v in tree.value))
    if not isinstance(tree.value, str) or "${" not in tree.value:
        return tree
    span = tree.span
    for name in reversed(_names(tree.value)):
        span = span.noted(EXPANDED, _value(name, chosen)[1])
    whole = _HOLE.fullmatch(tree.value)
    if whole:
        return made(_value(whole.group(1).strip(), chosen)[0], replace(tree, span=span))
    text = _HOLE.sub(lambda m: str(_value(m[1].strip(), chosen)[0]), tree.value)
    return replace(tree, value=text, span=span)
