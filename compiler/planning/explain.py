"""One node of a plan, explained: recipe, parts of its key, where each value came from, readers."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from compiler.errors import Note
from compiler.graph import Binding, Node
from compiler.planning.causes import shown
from compiler.planning.origin import origin
from compiler.planning.plan import Plan
from runtime.fields import Affects, affects, taken

# What a field's value says for itself, and how.
TITLES: dict[Affects, str] = {
    "result": "settings, part of the key",
    "speed": "settings that change the speed alone",
    "nothing": "settings that change nothing of the result",
}
MOST_READERS = 12


@dataclass(frozen=True, slots=True)
class Value:
    """One setting. `place` is `file:line`, or empty for a default; `notes` tell how it came there."""

    name: str
    value: str
    affects: Affects
    place: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """One input: what it reads, by the name in the spec, and what of it is in the key."""

    name: str
    source: str
    identity: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a plan knows of one node. `asked` is its key before any choice was made."""

    id: str
    stage: str
    kind: str
    version: int
    place: str
    action: str
    why: str
    key: str
    asked: str
    values: tuple[Value, ...]
    templates: Mapping[str, str]
    inputs: tuple[Reading, ...]
    follows: str
    shares: tuple[str, ...]  # other nodes of the same key
    readers: tuple[str, ...]
    needed_by: int  # nodes that need it, near or far


def explain(plan: Plan, index: int) -> Explanation:
    """Explain the node at an index of a plan."""
    program, step = plan.program, plan.steps[index]
    node, identity = step.node, program.identities[index]
    readers = [i for i, other in enumerate(plan.steps) if index in other.node.reads]
    return Explanation(
        id=node.id,
        stage=node.stage,
        kind=node.kind.name,
        version=node.kind.version,
        place=f"{node.place.file}:{node.place.line}",
        action=step.action,
        why=step.why,
        key=identity.key,
        asked=identity.asked,
        values=tuple(_values(plan, node)),
        templates=identity.recipe["templates"],
        inputs=tuple(_inputs(plan, node, identity.recipe["inputs"])),
        follows="" if node.follows is None else plan.steps[node.follows].node.id,
        shares=tuple(s.node.id for i, s in enumerate(plan.steps) if s.key == step.key and i != index),
        readers=tuple(plan.steps[i].node.id for i in readers),
        needed_by=len(_after(plan, readers)),
    )


def _after(plan: Plan, first: Sequence[int]) -> set[int]:
    """These nodes and all that need them."""
    found = set(first)
    for index, step in enumerate(plan.steps):
        if not found.isdisjoint(step.node.reads):
            found.add(index)
    return found


def _values(plan: Plan, node: Node) -> Iterator[Value]:
    run = f"{node.stage}/epoch"
    for name, info in type(node.config).model_fields.items():
        told = affects(info)
        if taken(info) or told is None or name == "kind":
            continue
        written = origin(plan.program.spec, node, (info.alias or name,))
        value = getattr(node.config, name)
        if told == "nothing" and written is not None:
            value = written.plain()  # a leg does not know what its run was asked for
        place = f"{written.span.file}:{written.span.line}" if written is not None else ""
        notes = tuple(map(_note, written.span.notes)) if written is not None else ()
        if name == "resources" and node.given is not None:
            value, by = node.given, "the cluster profile"
            place, notes = (place, (*notes, f"the rest by {by}")) if place else (by, ())
        if name == node.kind.prefix and run in node.axes and written is not None:
            notes = (f"the run goes on to {shown(written.plain())}", *notes)
        yield Value(name, shown(_plain(value)), told, place, notes)


def _note(note: Note) -> str:
    word, place = note
    return f"{word} {place.file}:{place.line}"


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value


def _inputs(plan: Plan, node: Node, recipe: Mapping[str, Sequence[Any]]) -> Iterator[Reading]:
    for name, bindings in node.inputs.items():
        for binding, known in zip(bindings, recipe[name], strict=True):
            yield Reading(name, _source(plan, binding), _identity(known))


def _source(plan: Plan, binding: Binding) -> str:
    if binding.node is None:
        assert binding.declaration is not None
        place = binding.declaration.body.place
        return f"{binding.declaration.section}.{binding.name} ({place.file}:{place.line})"
    return f"{plan.steps[binding.node].node.id}{f'.{binding.metric}' if binding.metric else ''}"


def _identity(known: Any) -> str:
    if isinstance(known, Mapping):
        content = f", content {known['content'][:12]}" if known["content"] else ""
        return f"its settings{content}"
    key, path, _ = known
    return f"{key[:12]}/{path}"


# ---------------------------------------------------------------- text


def to_json(found: Explanation) -> dict[str, Any]:
    return {"schema": "alignc.node/1", **asdict(found)}


def to_text(found: Explanation, sign: str) -> str:
    """An explanation for a reader, with the sign of what will be done."""
    lines = [f"{found.id}: {found.kind} version {found.version}, {found.place}", f"  {sign} {found.why}", ""]
    lines += [f"key {found.key}"]
    if found.asked != found.key:
        lines += [f"    {found.asked} as long as the choices before it were not made"]
    lines += [f"the same work as {', '.join(_some(found.shares))}"] if found.shares else []
    lines += [f"goes on from {found.follows}"] if found.follows else []
    for group, title in TITLES.items():
        lines += _settings(title, [v for v in found.values if v.affects == group])
    if found.templates:
        lines += ["", "templates, part of the key"]
        lines += [f"  {name}  {digest[:12]}" for name, digest in found.templates.items()]
    lines += ["", "reads, part of the key", *_columns([(i.name, i.source, i.identity) for i in found.inputs])]
    lines += ["", f"read by {len(found.readers)}, needed by {found.needed_by} in all"]
    lines += [f"  {id_}" for id_ in _some(found.readers)]
    return "\n".join(lines)


def _settings(title: str, values: Sequence[Value]) -> list[str]:
    """A line for each value that is written somewhere, and one for all defaults."""
    given = [v for v in values if v.place]
    rows = [(v.name, v.value, "; ".join((v.place, *v.notes))) for v in given]
    defaults = ", ".join(f"{v.name} {v.value}" for v in values if not v.place)
    if not rows and not defaults:
        return []
    told = textwrap.wrap(f"by default: {defaults}", 100, initial_indent="  ", subsequent_indent="    ")
    return ["", title, *_columns(rows), *(told if defaults else [])]


def _columns(rows: Sequence[tuple[str, str, str]]) -> list[str]:
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(2)]
    return [f"  {a:<{widths[0]}}  {b:<{widths[1]}}  {c}".rstrip() for a, b, c in rows]


def _some(ids: Sequence[str]) -> list[str]:
    more = len(ids) - MOST_READERS
    return [*ids[:MOST_READERS], *([f"and {more} more"] if more > 0 else [])]
