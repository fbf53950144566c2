"""Presets: named values that lie beneath what a stage writes.

Some ship as templates/presets/NAME.yaml; a spec has its own under `presets`. Each is a mapping stage kind ->
fields; with `preset: NAME` beside the kinds it lies over another one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache

from compiler.errors import Diagnostic, near
from compiler.frontend.source import Located, noted, parse
from runtime import templates
from runtime.stage import StageKind, kind_names, stage_kind

KEY = "preset"

Fields = Mapping[str, Located]
Presets = Mapping[str, Mapping[str, Fields]]  # name -> stage kind -> fields


@cache
def shipped() -> Presets:
    """Every preset that ships, by name."""
    found: dict[str, Mapping[str, Fields]] = {}
    for path in sorted((templates.folder() / "presets").glob("*.yaml")):
        tree, problems = parse(path.read_text(encoding="utf-8"), f"presets/{path.name}")
        if tree is None or problems:
            raise RuntimeError(f"{path} cannot be read: {problems}")
        found[path.stem] = {kind: fields.items for kind, fields in tree.items.items()}
    return found


def names_for(kind: str, presets: Presets | None = None) -> list[str]:
    """The presets that speak of a stage kind; where none are given, of those that ship."""
    return [name for name, kinds in (presets or shipped()).items() if kind in kinds]


def read_presets(entries: Fields, problems: list[Diagnostic]) -> Presets:
    """The presets of a spec beside those that ship, each with all that it lies over."""
    found = dict(shipped())
    own = {name: body for name, body in entries.items() if name not in found}
    for name, body in entries.items():
        if name not in own:
            hint = f"give yours another name; `preset: {name}` in it takes that one's values"
            message = f"a preset `{name}` ships with alignc"
            problems.append(Diagnostic("AC107", message, body.place, hint))
    for name, body in own.items():
        _check(name, body, problems)
        _resolve(name, own, found, (), problems)
    return found


def _resolve(
    name: str,
    own: Fields,
    found: dict[str, Mapping[str, Fields]],
    above: tuple[str, ...],
    problems: list[Diagnostic],
) -> None:
    """Find the fields of a preset by kind, over those of the one that it names. `above`: who asks for it."""
    if name in found:
        return
    under = own[name].items.get(KEY)
    kinds: dict[str, Fields] = {k: fields.items for k, fields in own[name].items.items() if k != KEY}
    below = name if under is None else str(under.value)
    if under is not None and below in (*above, name):
        problems.append(Diagnostic("AC103", f"preset `{below}` lies over itself", under.span))
    elif under is not None and below not in found and below not in own:
        known = [n for n in (*shipped(), *own) if n != name]
        message = f"there is no preset `{under.plain()}` for `{name}` to lie over"
        problems.append(Diagnostic("AC103", message, under.span, near(below, known)))
    elif under is not None:
        _resolve(below, own, found, (*above, name), problems)
        kinds = {
            k: _over(kinds.get(k, {}), found[below].get(k, {}), under) for k in {**found[below], **kinds}
        }
    found[name] = kinds


def _check(name: str, body: Located, problems: list[Diagnostic]) -> None:
    """Tell of kinds and fields of a preset that there are none of. Values are checked in each stage."""
    if not isinstance(body.value, dict):
        message = f"preset `{name}` is a mapping of stage kinds to fields"
        problems.append(Diagnostic("AC104", message, body.span))
    for kind_name, fields in body.items.items():
        kind = stage_kind(kind_name)
        if kind_name == KEY:
            continue
        if kind is None:
            message, hint = f"there is no stage kind `{kind_name}`", near(kind_name, kind_names())
            problems.append(Diagnostic("AC105", message, fields.place, hint))
            continue
        if not isinstance(fields.value, dict):
            message = f"`{kind_name}` of preset `{name}` is a mapping of fields"
            problems.append(Diagnostic("AC104", message, fields.span))
        known = fields_of(kind)
        for field, value in fields.items.items():
            if field not in known:
                message, hint = f"the stage kind `{kind_name}` has no key `{field}`", near(field, known)
                problems.append(Diagnostic("AC101", message, value.place, hint))


def fields_of(kind: StageKind, body: Fields | None = None) -> set[str]:
    """The fields that a preset may give to stages of a kind, or to the one with this body.

    Those of what a stage makes on the spot are only for one that does.
    """
    found = {info.alias or name for name, info in kind.config.model_fields.items()} - {"kind"}
    short = kind.shorthand.model_fields if kind.shorthand else {}
    if body is None or all(name in body for name, info in short.items() if info.is_required()):
        found |= short.keys()
    return found


def _over(own: Fields, below: Fields, named: Located) -> dict[str, Located]:
    """Fields over those of the preset that `named` names."""
    laid = {key: noted(value, f"preset {named.value}, named at", named.span) for key, value in below.items()}
    over = {
        key: noted(value, f"overrides {below[key].plain()} at", below[key].span) if key in below else value
        for key, value in own.items()
    }
    return {**laid, **over}


def lay_under(
    kind: StageKind,
    body: Fields,
    swept: Iterable[str],
    presets: Presets,
    problems: list[Diagnostic],
) -> dict[str, Located]:
    """A stage's entries over those of the preset that it names, and without its name: no key knows it."""
    own = {key: value for key, value in body.items() if key != KEY}
    named = body.get(KEY)
    if named is None or named.value is None:
        return own
    known = names_for(kind.name, presets)
    if named.value not in known:
        message = f"there is no preset `{named.plain()}` for the stage kind `{kind.name}`"
        problems.append(Diagnostic("AC103", message, named.span, near(str(named.value), known)))
        return own
    wanted = fields_of(kind, own) - set(swept)
    fields = presets[str(named.value)][kind.name]
    below = {key: value for key, value in fields.items() if key in wanted}
    return _over(own, below, named)
