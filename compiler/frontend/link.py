"""Spec -> order of stages: who reads whom, unknown names, circles."""

from __future__ import annotations

import graphlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from compiler.errors import Diagnostic, near
from compiler.frontend import interpolate
from compiler.frontend.source import Located
from compiler.frontend.spec import Spec, Stage
from runtime.fields import taken
from runtime.stage import StageConfig, StageKind


@dataclass(frozen=True, slots=True)
class Linked:
    """Stages in an order in which each comes after those it reads.

    `broken` stages and declarations have problems; the values of `unfilled` stages cannot even be
    filled in.
    """

    order: tuple[str, ...]
    needs: Mapping[str, frozenset[str]]
    broken: frozenset[str]
    unfilled: frozenset[str]


def input_keys(kind: StageKind) -> Mapping[str, str]:
    """Keys of a kind's inputs as written in a spec -> field names."""
    return _input_keys(kind.config)


@cache
def _input_keys(config: type[StageConfig]) -> Mapping[str, str]:
    return {info.alias or name: name for name, info in config.model_fields.items() if taken(info)}


def _written(stage: Stage, key: str) -> list[Located]:
    """The values that an input key is given: in the body, or by the sweep."""
    if key in stage.sweep:
        return list(stage.sweep[key].elements)
    return [stage.body.items[key]] if key in stage.body.items else []


def _target(value: Located) -> Located:
    """The scalar of a reference that names its stage, in the short or the long form."""
    return value.items.get("stage", value)


def _names(spec: Spec, target: Located) -> Iterator[Located]:
    """Every name that a reference can become over the axes that it mentions."""
    axes = [a for a in interpolate.mentions(target) if a in spec.axes]
    for combination in itertools.product(*(spec.axes[a] for a in axes)):
        yield interpolate.substitute(target, dict(zip(axes, combination, strict=True)))


def _holes(spec: Spec, stage: Stage) -> list[Diagnostic]:
    """What is wrong with a stage's `${...}`."""
    return [p for tree in (stage.body, *stage.sweep.values()) for p in interpolate.check(tree, spec.axes)]


def mentioned(stage: Stage) -> list[str]:
    """The axes that a stage mentions, in its body or its sweep."""
    return [name for tree in (stage.body, *stage.sweep.values()) for name in interpolate.mentions(tree)]


def _link_stage(spec: Spec, stage: Stage) -> tuple[set[str], list[Diagnostic]]:
    """Names of the stages and declarations that a stage reads."""
    needs: set[str] = set()
    problems = _holes(spec, stage)
    for key in input_keys(stage.kind):
        for target in (_target(v) for v in _written(stage, key)):
            if interpolate.check(target, spec.axes):
                continue
            for named in _names(spec, target):
                if not isinstance(named.value, str):
                    continue  # told when the config is validated
                name = named.value.partition(".")[0]
                if name in spec.stages or name in spec.declarations:
                    needs.add(name)
                else:
                    problems.append(_unknown(spec, name, named))
    return needs, problems


def _unknown(spec: Spec, name: str, named: Located) -> Diagnostic:
    known = [*(s for s in spec.stages if "~" not in s), *spec.declarations]
    return Diagnostic("AC301", f"there is no stage or declaration `{name}`", named.span, near(name, known))


def link(spec: Spec) -> tuple[Linked, list[Diagnostic]]:
    """Order the stages; stages with unknown names or in circles are reported and marked broken."""
    problems: list[Diagnostic] = []
    needs: dict[str, frozenset[str]] = {}
    broken = {name for name, declaration in spec.declarations.items() if declaration.value is None}
    for name, stage in spec.stages.items():
        found, wrong = _link_stage(spec, stage)
        needs[name] = frozenset(found)
        problems += wrong
        if wrong:
            broken.add(name)
    empty = {name for name, values in spec.axes.items() if not values}  # told already
    unfilled = frozenset(
        name for name, stage in spec.stages.items() if _holes(spec, stage) or empty & set(mentioned(stage))
    )
    left = dict(needs)
    circles: list[str] = []
    while True:
        try:
            order = (*circles, *graphlib.TopologicalSorter(left).static_order())
            break
        except graphlib.CycleError as error:
            circle = list(reversed(error.args[1]))
            names = " -> ".join(name for name in circle if "~" not in name)
            place = spec.stages[circle[0]].body.place
            problems.append(Diagnostic("AC304", f"stages read each other in a circle: {names}", place))
            broken.update(circle)
            circles += circle[1:]
            left = {name: wanted - set(circle) for name, wanted in left.items() if name not in circle}
    return Linked(order, needs, frozenset(broken), unfilled), problems
