"""Two programs -> what differs between them as experiments: nodes, causes, tables; and what does not."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import BaseModel

from compiler.errors import Span
from compiler.frontend.spec import Declaration
from compiler.frontend.tables import Cell, Table
from compiler.graph import Node
from compiler.output.emit import matrix
from compiler.planning.causes import Cause, Effect, causes, differences, effects, pairs, recipes, shown
from compiler.program import Program
from runtime.fields import affects, taken
from runtime.plural import counted

SCHEMA = "alignc.diff/1"


@dataclass(frozen=True, slots=True)
class Difference:
    """What makes of experiment `a` experiment `b`.

    `kept` counts nodes of `b` that have the same key in `a`. `renamed` are those among them with another
    id, as (id in a, id in b). `aside` tells changes that change nothing in the results.
    """

    a: Program
    b: Program
    kept: int
    renamed: tuple[tuple[str, str], ...]
    changed: Mapping[str, Cause]
    effects: tuple[Effect, ...]
    only_a: tuple[Node, ...]
    only_b: tuple[Node, ...]
    tables: tuple[str, ...]
    aside: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether both do the same work and show the same tables."""
        return not (self.changed or self.only_a or self.only_b or self.tables)


def compare(a: Program, b: Program) -> Difference:
    """The difference in experiments of two programs."""
    old = recipes(a)
    was = pairs(old, b)
    changed = causes(old, b)
    known = dict(zip(a.keys, (n.id for n in a.graph.nodes), strict=True))
    renamed: list[tuple[str, str]] = []
    only_b: list[Node] = []
    for node, key, before in zip(b.graph.nodes, b.keys, was, strict=True):
        if before is None and key not in known:
            only_b.append(node)
        elif before != node.id and node.id not in changed:
            renamed.append((before or known[key], node.id))
    found_again = {*was, *(one for one, _ in renamed)}
    present = set(b.keys)
    return Difference(
        a=a,
        b=b,
        kept=len(b.keys) - len(changed) - len(only_b),
        renamed=tuple(renamed),
        changed=changed,
        effects=tuple(effects(changed)),
        only_a=tuple(
            node
            for node, key in zip(a.graph.nodes, a.keys, strict=True)
            if node.id not in found_again and key not in present
        ),
        only_b=tuple(only_b),
        tables=tuple(_tables(a, b)),
        aside=tuple(_aside(a, b, was)),
    )


# ---------------------------------------------------------------- tables


def _tables(a: Program, b: Program) -> Iterator[str]:
    old, new = ({t.name: t for t in program.tables} for program in (a, b))
    for name in dict.fromkeys([*old, *new]):
        if name not in new:
            yield f"{name}: only in the first"
        elif name not in old:
            yield f"{name}: only in the second"
        else:
            yield from (f"{name}: {line}" for line in _table(old[name], new[name], a, b))


def _table(old: Table, new: Table, a: Program, b: Program) -> Iterator[str]:
    yield from _came_and_went("row", (r.label for r in old.rows), (r.label for r in new.rows))
    yield from _came_and_went(
        "column", (label for label, _ in old.columns), (label for label, _ in new.columns)
    )
    yield from _came_and_went("average over", old.over, new.over)
    yield from _came_and_went("comparison", _comparisons(old), _comparisons(new))
    before, after = _cells(old, a), _cells(new, b)
    both = [place for place in after if place in before]
    other = sum(before[place] != after[place] for place in both)
    if other:
        yield f"{other} of {len(both)} cells stand on other work"


def _came_and_went(what: str, old: Iterable[str], new: Iterable[str]) -> Iterator[str]:
    before, after = dict.fromkeys(old), dict.fromkeys(new)
    yield from (f"{what} `{label}` only in the first" for label in before if label not in after)
    yield from (f"{what} `{label}` only in the second" for label in after if label not in before)


def _comparisons(table: Table) -> list[str]:
    return [f"{c.a_label} - {c.b_label}" for c in table.comparisons]


def _cells(table: Table, program: Program) -> dict[tuple[str, str], set[tuple[str, str]]]:
    """The keys and metrics behind each cell, by the labels of its row and column."""

    def behind(cell: Cell) -> set[tuple[str, str]]:
        return {(program.identities[m.node].key, m.metric) for m in cell.members if m.node is not None}

    labels = [label for label, _ in table.columns]
    return {(r.label, c): behind(cell) for r in table.rows for c, cell in zip(labels, r.cells, strict=False)}


# ---------------------------------------------------------------- what changes no result


def _aside(a: Program, b: Program, was: Sequence[str | None]) -> Iterator[str]:
    """Places, prices, speed, notes: differences of fields that are no part of a key."""
    nodes = {n.id: n for n in a.graph.nodes}
    found: dict[str, None] = {}
    for node, before in zip(b.graph.nodes, was, strict=True):
        if before is not None and nodes[before].kind is node.kind:
            old, new = ({**_side(n.config), "resources": _plain(n.resources)} for n in (nodes[before], node))
            body = b.spec.stages[node.stage].body
            found.update(dict.fromkeys(_lines(node.stage, old, new, body.find)))
    for name, new_one in b.spec.declarations.items():
        old_one = a.spec.declarations.get(name)
        if old_one is not None and type(old_one.value) is type(new_one.value):
            label = f"{new_one.section}.{name}"
            found.update(
                dict.fromkeys(_lines(label, _written(old_one), _written(new_one), new_one.body.find))
            )
    for what in ("caption", "figure"):
        told, now = ({n: getattr(t, what) for n, (t, _) in p.spec.tables.items()} for p in (a, b))
        found |= {f"tables.{n}: another {what}": None for n in now if told.get(n, now[n]) != now[n]}
    clusters = [p.spec.cluster.plain() if p.spec.cluster else None for p in (a, b)]
    limits = [p.spec.budget.gpu_hours for p in (a, b)]
    for what, (one, other) in {"cluster": clusters, "budget.gpu_hours": limits}.items():
        if one != other:
            found[f"{what} {shown(one)} -> {shown(other)}"] = None
    yield from found


def _lines(owner: str, old: Any, new: Any, find: Any) -> Iterator[str]:
    for path, one, other in differences(old, new):
        place: Span = find(path)[0].span
        yield f"{owner}: {'.'.join(path)} {shown(one)} -> {shown(other)}, {place.file}:{place.line}"


def _side(value: Any) -> dict[str, Any]:
    """What of a config or declaration affects no result, inputs aside: the rest of `identity`."""
    found: dict[str, Any] = {}
    for name, info in type(value).model_fields.items():
        field = getattr(value, name)
        if isinstance(field, BaseModel) and not taken(info):
            found[name] = _side(field)
        elif affects(info) != "result" and not taken(info):
            found[name] = field
    return found


def _plain(model: BaseModel) -> Any:
    return model.model_dump(mode="json")


def _written(declaration: Declaration) -> dict[str, Any]:
    """`_side` of a declaration, with paths as they are written: the same file may lie elsewhere."""

    def written(value: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
        return {
            k: written(v, (*path, k))
            if isinstance(v, dict)
            else declaration.body.find((*path, k))[0].plain()
            if k == "path" and v is not None
            else v
            for k, v in value.items()
        }

    return written(_side(declaration.value), ())


# ---------------------------------------------------------------- told


def to_text(difference: Difference) -> str:
    """For a reader: counts, then causes with what they move, nodes on one side only, tables, and the rest."""
    d = difference
    a, b = d.a.spec.path, d.b.spec.path
    counts = [f"{d.kept} the same work"]
    counts += [f"{len(d.changed)} other work"] * bool(d.changed)
    counts += [f"{len(d.only_a)} only in the first"] * bool(d.only_a)
    counts += [f"{len(d.only_b)} only in the second"] * bool(d.only_b)
    sizes = [counted(len(side.keys), "node") for side in (d.a, d.b)]
    head = f"{a} ({sizes[0]}) -> {b} ({sizes[1]}): {', '.join(counts)}"
    index = {n.id: n for n in d.b.graph.nodes}
    blocks: list[list[str]] = []
    for effect in d.effects:
        rows = _folded([index[i] for i in effect.own], "~")
        if effect.after:
            stages = Counter(index[i].stage for i in effect.after)
            rows.append("      after it: " + ", ".join(f"{stage} ({n})" for stage, n in stages.items()))
        blocks.append([str(effect), *rows])
    if d.only_a:
        blocks.append(["only in the first", *_folded(d.only_a, "-", d.b)])
    if d.only_b:
        blocks.append(["only in the second", *_folded(d.only_b, "+", d.a)])
    if d.renamed:
        blocks.append(["the same work under another name", *_renamed(d.renamed)])
    if d.tables:
        blocks.append(["tables", *(f"    {line}" for line in d.tables)])
    if d.aside:
        blocks.append(["changes nothing in the results", *(f"    {line}" for line in d.aside)])
    return "\n\n".join("\n".join(block) for block in [[head], *blocks])


def _folded(nodes: Sequence[Node], sign: str, other: Program | None = None) -> list[str]:
    """A line for each stage; with `other`, which values of its axes are not there."""
    stages: dict[str, list[Node]] = {}
    for node in nodes:
        stages.setdefault(node.stage, []).append(node)
    lines: list[str] = []
    for stage, some in stages.items():
        size = counted(len(some), "node")
        values = _new_values(some, other) if other else ""
        lines.append(f"    {sign} {f'{stage} {matrix(some)}'.rstrip()}  {some[0].kind.name}, {size}{values}")
    return lines


def _new_values(nodes: Sequence[Node], other: Program) -> str:
    known = [other.graph.nodes[i].shown_axes() for i in other.graph.by_stage.get(nodes[0].stage, ())]
    found: dict[str, None] = {}
    for node in nodes:
        for axis, value in node.shown_axes().items():
            if known and all(axes.get(axis) != value for axes in known):
                found[f"{axis}={value}"] = None
    return f": {', '.join(found)}" if found else ""


def _renamed(pairs_: Iterable[tuple[str, str]]) -> list[str]:
    counts: Counter[tuple[str, str]] = Counter()
    for one, other in pairs_:
        stages = one.partition("[")[0], other.partition("[")[0]
        counts[stages if stages[0] != stages[1] else (one, other)] += 1
    return [f"    {a} -> {b}, {counted(n, 'node')}" for (a, b), n in counts.items()]


def to_json(difference: Difference) -> str:
    """The stable interface, schema `alignc.diff/1`."""
    d = difference
    told = {
        "schema": SCHEMA,
        "same": d.same,
        "a": {"spec": d.a.spec.path, "experiment": d.a.spec.experiment, "nodes": len(d.a.keys)},
        "b": {"spec": d.b.spec.path, "experiment": d.b.spec.experiment, "nodes": len(d.b.keys)},
        "kept": d.kept,
        "renamed": [{"a": one, "b": other} for one, other in d.renamed],
        "causes": [
            {
                **asdict(e.change),
                "place": f"{e.change.place.file}:{e.change.place.line}" if e.change.place else None,
                "nodes": list(e.own),
                "after": list(e.after),
            }
            for e in d.effects
        ],
        "changed": [{"a": cause.was, "b": id_} for id_, cause in d.changed.items()],
        "only_a": [n.id for n in d.only_a],
        "only_b": [n.id for n in d.only_b],
        "tables": list(d.tables),
        "aside": list(d.aside),
    }
    return json.dumps(told, indent=2, ensure_ascii=False)
