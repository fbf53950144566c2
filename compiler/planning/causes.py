"""Old recipes and a new program -> the smallest causes for which nodes have other keys now.

A key changes because something in the node's own recipe did, or because an input's key did. The
second is followed back to the first: what is left are the changes of the spec, its files, the
templates or the code, each with its place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from compiler.errors import Span
from compiler.frontend.link import input_keys
from compiler.frontend.source import Located
from compiler.frontend.spec import Declaration
from compiler.graph import Binding, Node, axis_name
from compiler.planning.origin import origin
from compiler.program import Program
from runtime.fields import identity
from runtime.plural import counted

What = Literal["config", "declaration", "content", "template", "code", "input", "candidates", "choice"]
TAGS = ("provider", "kind")  # where these differ, two records have nothing else in common


HORIZON = "horizon"  # of a schedule; where it is not written, it follows from the epochs
BEGINS_ANEW = "the schedule falls over all epochs, so a longer run begins anew; `horizon` would let it go on"


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that is not as it was. `owner` is a stage or, as `models.tiny`, a declaration.

    `old` and `new` are texts; `place` is where the new value is written, or the nearest key to it, and
    None for what does not stand in a spec (templates, the code).
    """

    what: What
    owner: str
    field: str
    old: str
    new: str
    place: Span | None = None
    note: str = ""

    @property
    def name(self) -> str:
        """What changed, without the values: `epochs`, `models.tiny.init.layers`."""
        return f"{self.owner}.{self.field}" if self.what in ("declaration", "content") else self.field

    @property
    def text(self) -> str:
        """What changed and how, without the place: `epochs 6 -> 9`."""
        if self.what == "choice":
            return f"{self.owner} chose {self.old}, now {self.new}"
        if self.what == "content":
            return f"the files of {self.owner} have other content"
        if self.what == "template":
            return f"template {self.owner} has another text"
        return f"{self.name} {self.old} -> {self.new}" + (f" ({self.note})" if self.note else "")

    def __str__(self) -> str:
        return f"{self.text}, {self.place.file}:{self.place.line}" if self.place else self.text


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a node's key changed. `was` is its id of before; `own` are the changes in its own recipe."""

    was: str
    changes: tuple[Change, ...]
    own: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Effect:
    """What one change moves: nodes that have it in their own recipe, and those after them."""

    change: Change
    own: tuple[str, ...]
    after: tuple[str, ...]

    def __str__(self) -> str:
        stages = len({id_.partition("[")[0] for id_ in self.after})
        if not stages:
            return str(self.change)
        nodes = len(self.after)
        return f"{self.change}; {counted(stages, 'stage')} after it ({counted(nodes, 'node')})"


def recipes(program: Program) -> dict[str, dict[str, Any]]:
    """What must be kept of a program to compare a later one with it: key, kind and recipe by node id."""
    both = zip(program.graph.nodes, program.identities, strict=True)
    return {n.id: {"key": i.key, "kind": n.kind.name, "recipe": i.recipe} for n, i in both}


def causes(old: Mapping[str, Mapping[str, Any]], program: Program) -> dict[str, Cause]:
    """For each node of `program` that is in `old` with another key, why; in graph order.

    `old` gives each node's `key` and `recipe` by its id. A node under a new name counts as the old
    one where its key is the same, or where the same reader takes it in the same place.
    """
    return _Tracer(old, program).trace()


def effects(found: Mapping[str, Cause]) -> list[Effect]:
    """The other way round: for each change the nodes that it moves, in graph order."""
    own: dict[Change, list[str]] = {}
    after: dict[Change, list[str]] = {}
    for id_, cause in found.items():
        for change in cause.changes:
            own.setdefault(change, [])
            (own if change in cause.own else after).setdefault(change, []).append(id_)
    return [Effect(change, tuple(ids), tuple(after.get(change, ()))) for change, ids in own.items()]


def pairs(old: Mapping[str, Mapping[str, Any]], program: Program) -> list[str | None]:
    """For each node its id of before: the same id, or that of a node which it stands for; None if new."""
    return _Tracer(old, program).was


def differences(old: Any, new: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """The leaves in which two trees of plain data differ: (path, old value, new value)."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        tag = next((t for t in TAGS if old.get(t) != new.get(t)), None)
        names = [tag] if tag else dict.fromkeys([*new, *old])
        for name in names:
            yield from differences(old.get(name), new.get(name), (*path, name))
    elif old != new:
        yield path, old, new


def shown(value: Any) -> str:
    """A value as a spec would write it, cut where it is long."""
    if value is None:
        return "none"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


@dataclass(slots=True)
class _Tracer:
    """Pairs old nodes with new ones, and follows changed inputs back to what changed first."""

    old: Mapping[str, Mapping[str, Any]]
    program: Program
    was: list[str | None] = field(init=False)
    keys: list[str] = field(init=False)
    _ids: dict[str, list[str]] = field(default_factory=dict[str, list[str]])  # old key -> old ids
    _index: dict[str, int] = field(default_factory=dict[str, int])  # new key -> its first node
    _found: dict[int, dict[Change, None]] = field(default_factory=dict[int, dict[Change, None]])
    _places: dict[tuple[str, ...], Span] = field(default_factory=dict[tuple[str, ...], Span])
    _records: dict[str, Any] = field(default_factory=dict[str, Any])  # by a declaration's name
    _names: dict[str, int] = field(default_factory=dict[str, int])  # new id -> its index

    def __post_init__(self) -> None:
        self.keys = self.program.keys
        for id_, node in self.old.items():
            self._ids.setdefault(node["key"], []).append(id_)
        for index, key in enumerate(self.keys):
            self._index.setdefault(key, index)
        self._names.update({node.id: i for i, node in enumerate(self.program.graph.nodes)})
        self.was = self._pair()

    # ------------------------------------------------------------ pairs

    def _pair(self) -> list[str | None]:
        nodes, keys = self.program.graph.nodes, self.keys
        was: list[str | None] = [node.id if node.id in self.old else None for node in nodes]
        gone = {id_ for id_ in self.old if id_ not in self._names}
        for index, key in enumerate(keys):
            if was[index] is None:
                was[index] = next((i for i in self._ids.get(key, ()) if i in gone), None)
        for index in range(len(nodes) - 1, -1, -1):  # readers come after what they read
            before = was[index]
            if before is None or not gone or self.old[before]["key"] == keys[index]:
                continue
            if self.old[before]["recipe"]["hash"] != self.program.identities[index].recipe["hash"]:
                continue  # a recipe of another shape
            for one, other in self._read_alike(index, before):
                source = self._index.get(other)
                id_ = next((i for i in self._ids.get(one, ()) if i in gone), None)
                if source is not None and was[source] is None and id_ and self._alike(nodes[source], id_):
                    was[source] = id_
        return was

    def _alike(self, node: Node, id_: str) -> bool:
        """Whether a node may be an old one under a new name, not another point of the same axes."""
        if self.old[id_]["recipe"]["kind"] != node.kind.name:
            return False
        return _stage(id_) != node.stage or _labels(id_).keys() != node.shown_axes().keys()

    def _read_alike(self, index: int, before: str) -> Iterator[tuple[str, str]]:
        """Keys that a node read and reads in the same place, of inputs with as many places as before."""
        inputs = self.program.identities[index].recipe["inputs"]
        for name, past in self.old[before]["recipe"]["inputs"].items():
            present = inputs.get(name, ())
            if len(past) == len(present):
                yield from (
                    (a[0], b[0])
                    for a, b in zip(past, present, strict=True)
                    if not (isinstance(a, Mapping) or isinstance(b, Mapping))
                )

    # ------------------------------------------------------------ causes

    def trace(self) -> dict[str, Cause]:
        told: dict[str, Cause] = {}
        for index, node in enumerate(self.program.graph.nodes):
            was = self.was[index]
            if was is None or self.old[was]["key"] == self.keys[index]:
                continue
            own, followed = self._compare(index, node, self.old[was]["recipe"])
            changes = {**own}
            for source in followed:
                changes.update(self._found[source])
            self._found[index] = changes
            told[node.id] = Cause(was, tuple(changes), tuple(own))
        return told

    def _compare(
        self, index: int, node: Node, old: Mapping[str, Any]
    ) -> tuple[dict[Change, None], dict[int, None]]:
        """Changes in a node's own recipe, and the inputs that changed themselves."""
        new = self.program.identities[index].recipe
        for part in ("hash", "kind", "version"):
            if old[part] != new[part]:
                values = shown(old[part]), shown(new[part])
                if part == "kind":
                    place = self._place(node, (part,), new[part])
                    return {Change("config", node.stage, part, *values, place): None}, {}
                owner = "version of keys" if part == "hash" else f"code version of {node.kind.name}"
                return {Change("code", owner, owner, *values): None}, {}
        own: dict[Change, None] = {}
        for path, before, after in differences(old["config"], new["config"]):
            if path == (HORIZON,) and origin(self.program.spec, node, path) is None:
                own[self._another_horizon(node, before, after)] = None
                continue
            place = self._place(node, path, after)
            own[Change("config", node.stage, ".".join(path), shown(before), shown(after), place)] = None
        for name, digest in new["templates"].items():
            if old["templates"].get(name, digest) != digest:
                own[Change("template", name, "", "", "")] = None
        followed: dict[int, None] = {}
        many = False
        for name in dict.fromkeys([*new["inputs"], *old["inputs"]]):
            past, present = old["inputs"].get(name, ()), new["inputs"].get(name, ())
            if past == present:
                continue
            if present and max(len(past), len(present)) > 1:
                changes, more = self._candidates(node, name, past, present)
                changes = changes if not many else []  # scores only line up with the candidates
                many = True
            else:
                changes, more = self._input(node, name, past, present)
            own.update(dict.fromkeys(changes))
            followed.update(dict.fromkeys(more))
        if not own and not followed:
            own[Change("config", node.stage, "recipe", "as it was", "another", node.place)] = None
        return own, followed

    def _another_horizon(self, node: Node, before: Any, after: Any) -> Change:
        """A change of `epochs`, where the schedule falls over all of them."""
        place = self._place(node, (node.kind.prefix,), after)
        return Change("config", node.stage, node.kind.prefix, shown(before), shown(after), place, BEGINS_ANEW)

    def _input(
        self, node: Node, name: str, past: Sequence[Any], present: Sequence[Any]
    ) -> tuple[list[Change], list[int]]:
        binding = node.inputs[name][0] if node.inputs.get(name) else None
        before, after = (past[0] if past else None), (present[0] if present else None)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            assert binding is not None and binding.declaration is not None
            return list(self._declared(node, name, before, after, binding.declaration)), []
        if isinstance(before, Sequence) and isinstance(after, Sequence) and before[0] != after[0]:
            source = self._follow(before[0], after[0], binding)
            if source is not None:
                return [], [source]
            choice = self._choice(before, after, binding)
            if choice is not None:
                return [choice], []
        written = _written(node, name)
        old_label, new_label = self._labels_of(before, after, binding)
        place = self._place(node, (written,), new_label)
        return [Change("input", node.stage, written, old_label, new_label, place)], []

    def _choice(self, before: Sequence[str], after: Sequence[str], binding: Binding | None) -> Change | None:
        """A choice that fell on something else, where an input reads the same choice as before."""
        if binding is None or binding.node is None:
            return None
        chooser, asked = self.program.graph.nodes[binding.node], self.keys[binding.node]
        if before[0] != asked and not self._could_choose(binding.node, before[0]):
            return None
        old, new = ("nothing yet" if r[0] == asked else self._label(r) for r in (before, after))
        return Change("choice", chooser.stage, "", old, new, chooser.place)

    def _follow(self, old_key: str, new_key: str, binding: Binding | None) -> int | None:
        """The node that changed, where an input still reads the same node; None where it reads another."""
        source = self._source(new_key, binding)
        if source is None:
            return None
        if source in self._found and self._stands_for(source, old_key):
            return source
        chooser = binding.node if binding else None  # a choice stands for what it chose
        return chooser if chooser in self._found and self._could_choose(chooser, old_key) else None

    def _source(self, key: str, binding: Binding | None) -> int | None:
        """The node that an input reads: the one bound, or what a choice fell on."""
        bound = binding.node if binding else None
        if bound is not None and self.keys[bound] == key:
            return bound
        return self._index.get(key, bound)

    def _could_choose(self, index: int, old_key: str) -> bool:
        """Whether a node was a choice that may have fallen on what has this key."""
        was = self.was[index]
        inputs = self.old[was]["recipe"]["inputs"].values() if was else ()
        many = (r for readings in inputs if len(readings) > 1 for r in readings)
        return any(not isinstance(r, Mapping) and r[0] == old_key for r in many)

    def _stands_for(self, index: int, old_key: str) -> bool:
        """Whether a node is an old one, or one of several old ones that fell into one."""
        was = self.was[index]
        ids = self._ids.get(old_key, ())
        return was in ids or any(i not in self._names and _stage(i) == _stage(was or "") for i in ids)

    def _candidates(
        self, node: Node, name: str, past: Sequence[Any], present: Sequence[Any]
    ) -> tuple[list[Change], list[int]]:
        """Many readings: those that came and went are a change of this node, the others are followed."""
        after: dict[str | None, int] = {}
        for reading, binding in zip(present, node.inputs[name], strict=True):
            source = self._source(reading[0], binding)
            if source is not None:
                after[self.was[source] or self.program.graph.nodes[source].id] = source
        before: dict[str | None, None] = {}
        for key, *_ in past:  # of nodes that did the same work, the one that still is a candidate
            ids = self._ids.get(key, [key])
            before[next((i for i in ids if i in after), ids[0])] = None
        followed = [source for was, source in after.items() if was in before and source in self._found]
        if after.keys() == before.keys() and followed:
            return [], followed
        return [self._came_and_went(node, name, [i for i in before if i])], followed

    def _came_and_went(self, node: Node, name: str, before: Sequence[str]) -> Change:
        """Values of a sweep, an axis or checkpoints that are others than before; else another reference."""
        spec = self.program.spec
        bindings = node.inputs[name]
        for axis in bindings[0].axes:
            short = axis_name(axis)
            new = dict.fromkeys(b.axes[axis] for b in bindings)
            old = dict.fromkeys(labels[short] for labels in map(_labels, before) if short in labels)
            if not old or list(old) == [str(v) for v in new]:
                continue
            texts = f"[{', '.join(old)}]", f"[{', '.join(map(str, new))}]"
            stage = axis.rpartition("/")[0]
            if not stage:
                written: Iterable[tuple[Any, Span]] = ((v.label, v.place) for v in spec.axes[axis])
            elif short in spec.stages[stage].sweep:
                written = ((v.value, v.span) for v in spec.stages[stage].sweep[short].elements)
            else:
                assert bindings[0].node is not None
                place = self._place(self.program.graph.nodes[bindings[0].node], ("epochs",), texts[1])
                return Change("candidates", stage, short, *texts, place)
            places = {value: place for value, place in written if value in new}
            arrived = [v for v in new if str(v) not in old]
            place = places[arrived[0] if arrived else next(iter(new))]
            return Change("candidates", stage, short, *texts, place)
        key = _written(node, name)
        old_text, new_text = f"{len(before)} candidates", f"{len(bindings)}"
        return Change("candidates", node.stage, key, old_text, new_text, self._place(node, (key,), None))

    def _declared(
        self, node: Node, name: str, before: Mapping[str, Any], after: Mapping[str, Any], now: Declaration
    ) -> Iterator[Change]:
        """Changes of a declaration; or of the reference, where the old one is still declared elsewhere."""
        if before["declared"] != after["declared"]:
            for other in self.program.spec.declarations.values():
                if other.section == now.section and self._record(other) == before:
                    written = _written(node, name)
                    place = self._place(node, (written,), None)
                    yield Change("input", node.stage, written, other.name, now.name, place)
                    return
        owner = f"{now.section}.{now.name}"
        for path, old, new in differences(before["declared"], after["declared"]):
            place = now.body.find(path)[0].span
            yield Change("declaration", owner, ".".join(path), shown(old), shown(new), place)
        if before["content"] != after["content"]:
            place = now.body.items.get("path", now.body).span
            yield Change("content", owner, "content", "", "", place)

    def _record(self, declaration: Declaration) -> Any:
        """What recipes say of a declaration; of one that nothing reads, what they would but for its files."""
        if not self._records:
            for node, known in zip(self.program.graph.nodes, self.program.identities, strict=True):
                for name, bindings in node.inputs.items():
                    if bindings[0].declaration is not None:
                        self._records[bindings[0].declaration.name] = known.recipe["inputs"][name][0]
        unread = {"declared": identity(declaration.value), "content": ""}
        return self._records.setdefault(declaration.name, unread)

    def _labels_of(self, before: Any, after: Any, binding: Binding | None) -> tuple[str, str]:
        """What an input read and reads, as a spec would name it: by stage where the stages differ."""
        old = self._label(before)
        new = binding.declaration.name if binding and binding.declaration else self._label(after)
        if _stage(old) == _stage(new):
            return old, new
        return _without_axes(old), _without_axes(new)

    def _label(self, reading: Any) -> str:
        if reading is None:
            return "none"
        if isinstance(reading, Mapping):
            return "a declaration"
        key, path, metric = reading
        new = self._index.get(key)
        id_ = self.program.graph.nodes[new].id if new is not None else self._ids.get(key, [key[:12]])[0]
        if metric:
            return f"{id_}.{metric}"
        node = self.program.graph.nodes[self._names[id_]] if id_ in self._names else None
        outputs = {port.path: name for name, port in node.outputs.items()} if node else {}
        return f"{id_}.{outputs[path]}" if outputs.get(path) else id_

    # ------------------------------------------------------------ places

    def _place(self, node: Node, path: tuple[str, ...], value: Any) -> Span:
        """Where a value of a node's config is written: in the body, the sweep, or an axis."""
        memo = (node.stage, *path, shown(value))
        if memo not in self._places:
            self._places[memo] = self._find(node, path)
        return self._places[memo]

    def _find(self, node: Node, path: tuple[str, ...]) -> Span:
        written = origin(self.program.spec, node, path)
        return node.place if written is None else written.origin or written.span


def _element(values: Located, value: Any) -> Span:
    """The place of one value in a list of values."""
    return next((v.span for v in values.elements if v.value == value), values.span)


def _stage(id_: str) -> str:
    return id_.partition("[")[0].partition(".")[0]


def _without_axes(label: str) -> str:
    return re.sub(r"\[.*\]", "", label)


def _labels(id_: str) -> dict[str, str]:
    """The axis values in a node's id: names -> texts."""
    parts = re.split(r",(?=[A-Za-z_][\w-]*=)", id_.partition("[")[2].removesuffix("]"))
    return {name: value for name, _, value in (p.partition("=") for p in parts if p)}


def _written(node: Node, name: str) -> str:
    """An input's key as a spec writes it."""
    return next((key for key, field_ in input_keys(node.kind).items() if field_ == name), name)
