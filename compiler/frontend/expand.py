"""Stages -> nodes: each stage once for every point of the axes that it mentions or inherits.

The rows a stage exists for are the natural join of the axes it mentions, its sweep, and the rows of
its inputs. `select` groups instead of joining. Nothing else multiplies nodes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from compiler.errors import Diagnostic, Span, near
from compiler.frontend import interpolate
from compiler.frontend.interpolate import AxisValue, Label
from compiler.frontend.link import Linked, input_keys
from compiler.frontend.source import Located
from compiler.frontend.spec import Declaration, Spec, Stage
from compiler.frontend.validate import validate
from compiler.graph import (
    AxisId,
    Binding,
    Graph,
    Node,
    axis_name,
    distinct_outputs,
    find_output,
    is_local,
    node_id,
    readings,
)
from runtime.artifacts import Port, is_a
from runtime.fields import Reference, taken, takes_many
from runtime.stage import Leg, StageConfig, StageKind, shared_out

Axes = dict[AxisId, Label]
Ports = dict[str, Port]
Row = tuple[Axes, dict[str, tuple[Binding, ...]]]  # a point of the axes, and what each input reads there


@dataclass(frozen=True, slots=True)
class _Variant:
    """A stage's config at one point of the axes it mentions and sweeps.

    `legs` are the configs of its nodes, with the axes that tell them apart: see StageKind.
    """

    axes: Axes
    body: Located
    config: StageConfig
    legs: tuple[Leg, ...]


class _Input(NamedTuple):
    """An input of a kind: its key as written, its field, the types it takes, and whether it takes many."""

    key: str
    name: str
    takes: tuple[str, ...]
    many: bool


class _Outcome(NamedTuple):
    """What a config makes of its inputs' ports."""

    config: StageConfig
    ports: Ports
    outputs: Ports
    templates: tuple[str, ...]


@dataclass(slots=True)
class _Expander:
    """Builds nodes stage by stage, in link order; problems are collected."""

    spec: Spec
    nodes: list[Node] = field(default_factory=list[Node])
    by_stage: dict[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    problems: list[Diagnostic] = field(default_factory=list[Diagnostic])
    # By identity of config and ports; the memo holds both, so that the ids stay theirs.
    _outcomes: dict[Any, _Outcome] = field(default_factory=dict[Any, "_Outcome"])
    _ports: dict[Port, Port] = field(default_factory=dict[Port, Port])
    _declared_ports: dict[str, Port] = field(default_factory=dict[str, Port])
    _readings: dict[Any, list[Binding]] = field(default_factory=dict[Any, list[Binding]])
    _ranks: dict[AxisId, int] = field(default_factory=dict[AxisId, int])
    _orders: dict[Any, tuple[AxisId, ...] | None] = field(default_factory=dict[Any, Any])

    def stage(self, stage: Stage, *, inputs_known: bool) -> bool:
        """Check a stage's configs and, where its inputs are known, add its nodes; true if it has some."""
        before = len(self.problems)
        variants = list(self._variants(stage))
        if len(self.problems) > before or not inputs_known:
            return False
        made: list[Node] = []
        asked = _inputs(stage.kind)
        for variant in variants:
            made += self._nodes(stage, variant, asked)
        if len(self.problems) == before and not made:
            message = f"stage `{stage.name}` has no instances: its inputs have no axis values in common"
            self.problems.append(Diagnostic("AC205", message, stage.body.place))
        if len(self.problems) > before:
            return False
        first = len(self.nodes)
        self.nodes += made
        self.by_stage[stage.name] = tuple(range(first, len(self.nodes)))
        return True

    # ------------------------------------------------------------ configs

    def _variants(self, stage: Stage) -> Iterator[_Variant]:
        mentioned = dict.fromkeys([*interpolate.mentions(stage.body)])
        for values in stage.sweep.values():
            mentioned.update(dict.fromkeys(interpolate.mentions(values)))
        axes = [a for a in self.spec.axes if a in mentioned]
        for point in itertools.product(*(self.spec.axes[a] for a in axes)):
            chosen = dict(zip(axes, point, strict=True))
            labels: Axes = {a: v.label for a, v in chosen.items()}
            filled = interpolate.substitute(stage.body, chosen)
            for swept, entries in self._sweep(stage, chosen):
                body = replace(filled, value={**filled.items, **entries})
                config, problems = validate(
                    stage.kind.config, body, f"stage `{stage.name.partition('~')[0]}`"
                )
                self.problems += problems
                if config is not None:
                    yield _Variant({**labels, **swept}, body, config, tuple(stage.kind.legs(config)))

    def _sweep(
        self, stage: Stage, chosen: Mapping[str, AxisValue]
    ) -> Iterator[tuple[Axes, dict[str, Located]]]:
        keys = list(stage.sweep)
        for point in itertools.product(*(stage.sweep[k].elements for k in keys)):
            values = [interpolate.substitute(v, chosen) for v in point]
            labels = {f"{stage.name}/{k}": v.value for k, v in zip(keys, values, strict=True)}
            yield labels, dict(zip(keys, values, strict=True))  # type: ignore[misc]

    # ------------------------------------------------------------ inputs

    def _nodes(self, stage: Stage, variant: _Variant, asked: Sequence[_Input]) -> list[Node]:
        rows: list[Row] = [(variant.axes, {})]
        many: list[tuple[str, list[Binding]]] = []
        for key, name, wanted, reduced in asked:
            reference: Reference | None = getattr(variant.config, name)
            if reference is None:
                continue
            readings = self._read_once(reference, variant.body.items[key], wanted)
            if readings is None:
                return []
            if reduced:
                many.append((name, readings))
            else:
                rows = _join(rows, name, readings)
        if many:
            rows = self._reduce(stage, variant, rows, many)
        nodes = [
            self._node(stage, variant, leg, axes, inputs) for axes, inputs in rows for leg in variant.legs
        ]
        return [n for n in nodes if n is not None]

    def _read_once(
        self, reference: Reference, place: Located, wanted: tuple[str, ...]
    ) -> list[Binding] | None:
        """See `_read`; variants of a stage mostly read the same, which is then the same list."""
        memo = (reference.stage, *reference.at.items(), *wanted)
        found = self._readings.get(memo)
        if found is None:
            found = self._read(reference, place, wanted)
            if found is not None:
                self._readings[memo] = found
        return found

    def _read(self, reference: Reference, place: Located, wanted: Sequence[str]) -> list[Binding] | None:
        """Everything that a reference stands for; None (and a problem) where it stands for nothing."""
        span = place.items.get("stage", place).span
        declared = self.spec.declarations.get(reference.name)
        if declared is not None:
            return self._declared(declared, reference, span, wanted)
        indices = self.by_stage[reference.name]
        for ports in distinct_outputs(self.nodes, indices):
            if not self._serves(reference, ports, span, wanted):
                return None
        return self._at(readings(self.nodes, indices, reference.output), reference, place)

    def _serves(
        self, reference: Reference, ports: Mapping[str, Port], span: Span, wanted: Sequence[str]
    ) -> bool:
        """Whether the outputs of a node have what a reference asks for."""
        found = find_output(ports, reference.output)
        if found is None:
            self.problems.append(_unknown_output(reference, ports, span))
            return False
        port, metric = found
        if not self._fits(reference, port, span, wanted):
            return False
        if port.type == "Scores" and "Scores" in wanted and not metric:
            hint = f"as `{reference.name}.{port.metrics[0]}`; there are {', '.join(port.metrics)}"
            self.problems.append(
                Diagnostic("AC302", f"name the score of `{reference.name}` to use", span, hint)
            )
            return False
        return True

    def _declared(
        self, declared: Declaration, reference: Reference, span: Span, wanted: Sequence[str]
    ) -> list[Binding] | None:
        if reference.output or reference.at:
            hint = f"write `{declared.name}` alone"
            self.problems.append(
                Diagnostic("AC302", f"`{declared.name}` is declared: it has no outputs", span, hint)
            )
            return None
        chat = getattr(declared.value, "chat", None)
        made = Port(
            type=declared.type, name=declared.name, declared=declared.value, chat=chat, base=declared.name
        )
        port = self._declared_ports.setdefault(declared.name, made)
        if not self._fits(reference, port, span, wanted):
            return None
        return [Binding(declared.name, port, declaration=declared)]

    def _fits(self, reference: Reference, port: Port, span: Span, wanted: Sequence[str]) -> bool:
        if any(is_a(port.type, w) for w in wanted):
            return True
        message = f"`{reference.stage}` is {port.type}, but {' or '.join(wanted)} is needed here"
        self.problems.append(Diagnostic("AC303", message, span, self._offer(wanted)))
        return False

    def _offer(self, wanted: Sequence[str]) -> str:
        """Names in the spec that would fit."""
        names = [d.name for d in self.spec.declarations.values() if any(is_a(d.type, w) for w in wanted)]
        for stage, indices in self.by_stage.items():
            ports = self.nodes[indices[0]].outputs
            names += [
                f"{stage}.{o}" if o else stage
                for o, p in ports.items()
                if any(is_a(p.type, w) for w in wanted)
            ]
        names = [n for n in names if "~" not in n]
        return (
            f"these would do: {', '.join(names[:8])}" if names else "nothing in the spec is of that type yet"
        )

    def _at(self, readings: list[Binding], reference: Reference, place: Located) -> list[Binding] | None:
        """Read along another axis: keep the rows at the given values, and drop those axes."""
        for name, value in reference.at.items():
            at = place.items["at"].items[name]
            values = dict.fromkeys(v for r in readings for a, v in r.axes.items() if axis_name(a) == name)
            if not values:
                axes = dict.fromkeys(axis_name(a) for r in readings for a in r.axes)
                message = f"`{reference.stage}` does not vary over `{name}`"
                self.problems.append(Diagnostic("AC206", message, at.place, near(name, axes)))
                return None
            if value not in values:
                message = f"`{reference.stage}` has no value `{value}` of axis `{name}`"
                self.problems.append(Diagnostic("AC206", message, at.span, near(str(value), values)))
                return None
            readings = [
                replace(r, axes={a: v for a, v in r.axes.items() if axis_name(a) != name})
                for r in readings
                if all(v == value for a, v in r.axes.items() if axis_name(a) == name)
            ]
        return readings

    # ------------------------------------------------------------ reduction

    def _reduce(
        self, stage: Stage, variant: _Variant, rows: list[Row], many: list[tuple[str, list[Binding]]]
    ) -> list[Row]:
        """Group the candidates by the axes that stay; every other many-input lines up with them."""
        (lead, candidates), *others = many
        over = self._reduced_axes(stage, variant, candidates)
        if over is None:
            return []
        aligned = {name: self._align(variant, name, candidates, found) for name, found in others}
        if any(a is None for a in aligned.values()):
            return []
        groups: dict[tuple[tuple[AxisId, Label], ...], list[int]] = {}
        for index, candidate in enumerate(candidates):
            kept = tuple((a, v) for a, v in candidate.axes.items() if a not in over)
            groups.setdefault(kept, []).append(index)
        grouped: list[Row] = []
        for kept, members in groups.items():
            for axes, inputs in rows:
                if any(axes.get(a, v) != v for a, v in kept):
                    continue
                bound = {lead: tuple(candidates[i] for i in members)}
                for name, found in aligned.items():
                    assert found is not None
                    bound[name] = tuple(found[i] for i in members)
                grouped.append(({**axes, **dict(kept)}, {**inputs, **bound}))
        return grouped

    def _reduced_axes(self, stage: Stage, variant: _Variant, candidates: list[Binding]) -> set[AxisId] | None:
        axes = dict.fromkeys(a for c in candidates for a in c.axes)
        wanted: Iterable[str] | None = getattr(variant.config, "over", None)
        if wanted is None:
            over = {a for a in axes if is_local(a)}
            if over:
                return over
            hint = f"name the axes in `over`: {', '.join(map(axis_name, axes)) or 'there are none'}"
            message = f"stage `{stage.name}` has no sweep or checkpoint to choose from"
            self.problems.append(Diagnostic("AC209", message, stage.body.place, hint))
            return None
        named: set[AxisId] = set()
        for name in wanted:
            found = {a for a in axes if axis_name(a) == name}
            if not found:
                place = variant.body.items["over"].span
                hint = near(name, map(axis_name, axes))
                self.problems.append(
                    Diagnostic("AC209", f"the candidates do not vary over `{name}`", place, hint)
                )
                return None
            named |= found
        return named

    def _align(
        self, variant: _Variant, name: str, candidates: list[Binding], found: list[Binding]
    ) -> list[Binding] | None:
        """For each candidate its one partner with the same axes."""
        ours = {a for c in candidates for a in c.axes}
        theirs = {a for f in found for a in f.axes}
        if ours != theirs:
            more = ", ".join(map(axis_name, sorted(theirs - ours)))
            less = ", ".join(map(axis_name, sorted(ours - theirs)))
            words = [f"it also varies over {more}"] * bool(more) + [f"it does not vary over {less}"] * bool(
                less
            )
            message = f"`{found[0].name}` does not line up with `{candidates[0].name}`: {' and '.join(words)}"
            self.problems.append(Diagnostic("AC208", message, variant.body.items[name].span))
            return None
        partners = {frozenset(f.axes.items()): f for f in found}
        missing = [c for c in candidates if frozenset(c.axes.items()) not in partners]
        if missing:
            what = node_id(missing[0].name, missing[0].axes)
            message = f"`{found[0].name}` has nothing for the candidate {what}"
            self.problems.append(Diagnostic("AC208", message, variant.body.items[name].span))
            return None
        return [partners[frozenset(c.axes.items())] for c in candidates]

    # ------------------------------------------------------------ nodes

    def _node(
        self,
        stage: Stage,
        variant: _Variant,
        leg: Leg,
        axes: Axes,
        inputs: dict[str, tuple[Binding, ...]],
    ) -> Node | None:
        config = leg.config
        if leg.axes:
            axes = {**axes, **{f"{stage.name}/{name}": value for name, value in leg.axes.items()}}
        given = tuple(axes)
        order = self._ordered(stage, given)
        if order is None:
            return None
        if order != given:
            axes = {axis: axes[axis] for axis in order}
        ports = {name: _merged(bindings) for name, bindings in inputs.items()}
        memo = (id(config), *map(id, ports.values()))  # the config tells which inputs there are
        found = self._outcomes.get(memo)
        if found is None:
            self._check(stage, variant, ports)
            made = stage.kind.outputs(config, ports)
            # Equal ports are one, so that what reads them is looked up by identity.
            shared = {name: self._ports.setdefault(port, port) for name, port in made.items()}
            templates = tuple(stage.kind.templates(config, ports))
            found = self._outcomes[memo] = _Outcome(config, ports, shared, templates)
        return Node(
            id=node_id(stage.name, axes),
            stage=stage.name,
            kind=stage.kind,
            axes=axes,
            config=config,
            inputs=inputs,
            outputs=found.outputs,
            templates=found.templates,
            place=stage.body.place,
            segment=leg.segment,
        )

    def _ordered(self, stage: Stage, axes: tuple[AxisId, ...]) -> tuple[AxisId, ...] | None:
        """Declared axes first, in their order; then those of stages, in order of appearance.

        None (and a problem) where two have the same name.
        """
        memo = (stage.name, axes)
        if memo not in self._orders:
            if not self._ranks:
                self._ranks.update({a: i for i, a in enumerate(self.spec.axes)})
            for axis in axes:
                self._ranks.setdefault(axis, len(self._ranks))
            self._orders[memo] = tuple(sorted(axes, key=self._ranks.__getitem__))
            first: dict[str, AxisId] = {}
            for axis in axes:
                other = first.setdefault(axis_name(axis), axis)
                if other != axis:
                    self._clash(stage, other, axis)
                    self._orders[memo] = None
                    break
        return self._orders[memo]

    def _clash(self, stage: Stage, one: AxisId, other: AxisId) -> None:
        owners = " and ".join(a.rpartition("/")[0] or "`axes`" for a in (one, other))
        message = f"stage `{stage.name}` would have two axes called `{axis_name(one)}`, from {owners}"
        hint = "reduce one with `select`, or read one of the inputs with `at`"
        self.problems.append(Diagnostic("AC204", message, stage.body.place, hint))

    def _check(self, stage: Stage, variant: _Variant, ports: Mapping[str, Port]) -> None:
        aliases = {name: key for key, name in input_keys(stage.kind).items()}
        problems = *stage.kind.check(variant.config, ports), *shared_out(stage.kind, variant.config)
        for problem in problems:
            place = variant.body.items.get(aliases.get(problem.field, problem.field), variant.body)
            span = place.span if place is not variant.body else place.place
            self.problems.append(Diagnostic(problem.code, problem.message, span, problem.hint))


def _inputs(kind: StageKind) -> list[_Input]:
    fields = kind.config.model_fields
    keys = input_keys(kind)
    return [_Input(key, name, taken(fields[name]), takes_many(fields[name])) for key, name in keys.items()]


def _join(rows: list[Row], name: str, readings: list[Binding]) -> list[Row]:
    """Natural join on the axes that both sides have; what lacks an axis holds all along it."""
    if len(readings) == 1 and not readings[0].axes:  # fits everywhere; the most frequent case
        only = tuple(readings)
        return [(axes, {**inputs, name: only}) for axes, inputs in rows]
    alike: dict[tuple[AxisId, ...], list[Binding]] = {}
    for reading in readings:
        alike.setdefault(tuple(reading.axes), []).append(reading)
    indexes: dict[Any, tuple[list[AxisId], dict[tuple[Label, ...], list[Binding]]]] = {}
    joined: list[Row] = []
    for axes, inputs in rows:
        for theirs, group in alike.items():
            memo = (tuple(axes), theirs)
            if memo not in indexes:
                shared = [a for a in theirs if a in axes]
                index: dict[tuple[Label, ...], list[Binding]] = {}
                for reading in group:
                    index.setdefault(tuple(reading.axes[a] for a in shared), []).append(reading)
                indexes[memo] = shared, index
            shared, index = indexes[memo]
            for reading in index.get(tuple(axes[a] for a in shared), ()):
                joined.append(({**axes, **reading.axes}, {**inputs, name: (reading,)}))
    return joined


def _merged(bindings: Sequence[Binding]) -> Port:
    """One port for many candidates: they share their type; what any has seen counts."""
    first = bindings[0].port
    if len(bindings) == 1:
        return first
    ports = [b.port for b in bindings]
    if all(p is first for p in ports):
        return first
    return replace(
        first,
        pools=frozenset().union(*(p.pools for p in ports)),
        seen=frozenset().union(*(p.seen for p in ports)),
        chosen=frozenset().union(*(p.chosen for p in ports)),
    )


def _unknown_output(reference: Reference, ports: Mapping[str, Port], span: Span) -> Diagnostic:
    names = [o for o in ports if o] + [m for p in ports.values() for m in p.metrics]
    if not reference.output:
        hint = f"one of {', '.join(f'{reference.name}.{n}' for n in names)}"
        return Diagnostic("AC302", f"`{reference.name}` has several outputs: name one", span, hint)
    message = f"`{reference.name}` has no output `{reference.output}`"
    hint = near(reference.output, names) if names else f"it has only one: write `{reference.name}`"
    return Diagnostic("AC302", message, span, hint)


def expand(spec: Spec, linked: Linked) -> tuple[Graph, list[Diagnostic]]:
    """All nodes of a spec. Stages that read a broken one are left out without a word of their own."""
    expander = _Expander(spec)
    broken = set(linked.broken)
    for name in linked.order:
        if name not in spec.stages:
            continue  # a declaration
        known = not (name in broken or linked.needs[name] & broken)
        if name in linked.unfilled or not expander.stage(spec.stages[name], inputs_known=known):
            broken.add(name)
    return Graph(tuple(expander.nodes), expander.by_stage), expander.problems
