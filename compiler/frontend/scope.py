"""`include: {file: FILE, as: NAME}`: stages, axes, tables and claims of a spec under names of their own.

What is called `x` becomes `NAME-x`, and so does whatever speaks of it in that spec. Declarations (models,
sources, llms) keep their names: specs side by side share them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from compiler.frontend.source import Located
from runtime.fields import taken
from runtime.stage import stage_kind, stage_kinds

_HOLE = re.compile(r"\$\{\s*([\w-]+)\.?([^{}]*)\}")


def renamed(tree: Located, prefix: str) -> Located:
    """A spec's tree with the prefix before the names of its stages, axes, tables and claims."""
    stages, axes = (frozenset(_section(tree, name)) for name in ("stages", "axes"))
    names = _Names(prefix, stages, axes)
    sections = dict(tree.items)
    changes = {"stages": names.stage, "axes": names.axis, "tables": names.table, "claims": names.claim}
    for section, change in changes.items():
        entries = _section(tree, section)
        if entries:  # stages come first: they tell which fields of an axis may name stages
            made = {f"{prefix}-{name}": change(name, body) for name, body in entries.items()}
            sections[section] = replace(sections[section], value=made)
    return replace(tree, value=sections)


def _section(tree: Located, name: str) -> dict[str, Located]:
    return tree.items[name].items if name in tree.items else {}


@dataclass(frozen=True, slots=True)
class _Names:
    """The names to change. `plain` gathers the axes' fields that are read as anything but references."""

    prefix: str
    stages: frozenset[str]
    axes: frozenset[str]
    plain: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])

    def stage(self, name: str, body: Located) -> Located:
        inputs = _input_keys(body)

        def entry(key: str, value: Located) -> Located:
            if key == "sweep":
                return _entries(value, entry)
            if key in inputs:
                return _each(value, self.reference)
            return _each(value, self.axis_name) if key == "over" else self.holes(value)

        return _entries(body, entry)

    def table(self, name: str, body: Located) -> Located:
        rows = body.items.get("rows")
        by_stage = rows is not None and isinstance(rows.value, dict)

        def entry(key: str, value: Located) -> Located:
            if key == "rows":
                return _entries(value, lambda _, v: self.reference(v)) if by_stage else self.names_axes(value)
            if key == "over":
                return self.names_axes(value)
            if key == "figure":
                return _entries(value, lambda key, v: self.axis_name(v) if key == "x" else v)
            columns = value.items or {str(v.value): v for v in value.elements}
            if key == "columns" and columns and not by_stage:  # one of a list is labelled as it was written
                return replace(value, value={label: self.reference(v) for label, v in columns.items()})
            return value

        return _entries(body, entry)

    def claim(self, name: str, body: Located) -> Located:
        def entry(key: str, value: Located) -> Located:
            ours = key == "table" and isinstance(value.value, str)
            return replace(value, value=f"{self.prefix}-{value.value}") if ours else value

        return _entries(body, entry)

    def axis(self, name: str, body: Located) -> Located:
        def one(key: str, value: Located) -> Located:
            return value if (name, key) in self.plain else self.reference(value)

        def record(_: str, value: Located) -> Located:
            return _entries(value, one)

        if body.elements:
            return _each(body, lambda element: _entries(element, record))
        choices = {label: record(label, fields) for label, fields in (body.choices or {}).items()}
        return replace(_entries(body, record), choices=choices or None)

    def reference(self, value: Located) -> Located:
        """A reference in its short or its long form."""
        if isinstance(value.value, dict):
            return _entries(value, lambda key, v: self.at(v) if key == "at" else self.reference(v))
        if not isinstance(value.value, str):
            return value
        if _HOLE.fullmatch(value.value):
            return self.text(value)
        head = re.sub(r"\$\{[^{}]*\}", "\0", value.value).partition(".")[0]
        pattern = re.compile(".+".join(map(re.escape, head.split("\0"))))
        ours = any(map(pattern.fullmatch, self.stages))
        filled = self.text(value)
        return replace(filled, value=f"{self.prefix}-{filled.value}") if ours else filled

    def at(self, value: Located) -> Located:
        entries = {self.changed(axis): self.holes(v) for axis, v in value.items.items()}
        return replace(value, value=entries) if value.items else value

    def names_axes(self, value: Located) -> Located:
        return _each(value, self.axis_name)

    def axis_name(self, value: Located) -> Located:
        return replace(value, value=self.changed(value.value)) if isinstance(value.value, str) else value

    def changed(self, axis: str) -> str:
        return f"{self.prefix}-{axis}" if axis in self.axes else axis

    def holes(self, value: Located) -> Located:
        """The value with every `${axis}` in it changed."""
        if isinstance(value.value, dict):
            return _entries(value, lambda _, v: self.holes(v))
        if isinstance(value.value, tuple):
            return _each(value, self.holes)
        if isinstance(value.value, str):
            self.plain.update(_HOLE.findall(value.value))
        return self.text(value)

    def text(self, value: Located) -> Located:
        if not isinstance(value.value, str):
            return value
        return replace(
            value, value=_HOLE.sub(lambda m: m[0].replace(m[1], self.changed(m[1]), 1), value.value)
        )


def _entries(tree: Located, change: Callable[[str, Located], Located]) -> Located:
    """A mapping with every entry changed; anything else as it is."""
    if not isinstance(tree.value, dict):
        return tree
    return replace(tree, value={key: change(key, value) for key, value in tree.items.items()})


def _each(tree: Located, change: Callable[[Located], Located]) -> Located:
    """A list with every element changed, or the one value that stands in its place."""
    if isinstance(tree.value, tuple):
        return replace(tree, value=tuple(change(value) for value in tree.elements))
    return change(tree)


def _input_keys(body: Located) -> frozenset[str]:
    """The keys of a stage that hold references; those of any kind, where it does not say its own."""
    written = body.items.get("kind")
    kind = stage_kind(str(written.value)) if written else None
    kinds = [kind] if kind else stage_kinds().values()
    models = [model for k in kinds for model in (k.config, k.shorthand) if model]
    fields = ((name, info) for model in models for name, info in model.model_fields.items())
    return frozenset(info.alias or name for name, info in fields if taken(info))
