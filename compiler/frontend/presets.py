"""Presets: named values that lie beneath what a stage writes. They ship as templates/presets/NAME.yaml."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache

from compiler.errors import Diagnostic, near
from compiler.frontend.source import Located, noted, parse
from runtime import templates

KEY = "preset"


@cache
def presets() -> Mapping[str, Located]:
    """Every preset by name: a mapping kind -> fields."""
    found: dict[str, Located] = {}
    for path in sorted((templates.folder() / "presets").glob("*.yaml")):
        tree, problems = parse(path.read_text(encoding="utf-8"), f"presets/{path.name}")
        if tree is None or problems:
            raise RuntimeError(f"{path} cannot be read: {problems}")
        found[path.stem] = tree
    return found


def names_for(kind: str) -> list[str]:
    """The presets that speak of a stage kind."""
    return [name for name, tree in presets().items() if kind in tree.items]


def lay_under(
    kind: str, body: Mapping[str, Located], swept: Iterable[str], problems: list[Diagnostic]
) -> dict[str, Located]:
    """A stage's entries over those of the preset that it names, and without its name: no key knows it."""
    own = {key: value for key, value in body.items() if key != KEY}
    named = body.get(KEY)
    if named is None or named.value is None:
        return own
    known = names_for(kind)
    if named.value not in known:
        message = f"there is no preset `{named.plain()}` for the stage kind `{kind}`"
        problems.append(Diagnostic("AC103", message, named.span, near(str(named.value), known)))
        return own
    fields = presets()[str(named.value)].items[kind].items
    laid = {
        key: noted(value, f"preset {named.value}, named at", named.span)
        for key, value in fields.items()
        if key not in set(swept)
    }
    over = {
        key: noted(value, f"overrides {fields[key].plain()} at", fields[key].span) if key in fields else value
        for key, value in own.items()
    }
    return {**laid, **over}
