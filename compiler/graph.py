"""The graph of an experiment: nodes with resolved configs and typed, bound inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from compiler.errors import Span
from compiler.frontend.interpolate import Label
from compiler.frontend.spec import Declaration
from runtime.artifacts import Port
from runtime.job import CHOICE
from runtime.stage import Resources, StageConfig, StageKind

# An axis is known by where it comes from: `seed` is declared, `tune/learning_rate` swept by stage
# `tune`. Two sweeps of the same field therefore are two axes.
AxisId = str


@cache
def axis_name(axis: AxisId) -> str:
    """The name of an axis as the user writes it."""
    return axis.rpartition("/")[2]


def is_local(axis: AxisId) -> bool:
    """Whether a stage added the axis, by a sweep or by its checkpoints."""
    return "/" in axis


@dataclass(frozen=True, slots=True)
class Binding:
    """What one input reads: an output of a node, or a declaration.

    `path` is the place inside the node's artifact, `metric` the field of a Scores artifact.
    """

    name: str
    port: Port
    node: int | None = None
    path: str = ""
    metric: str = ""
    axes: Mapping[AxisId, Label] = field(default_factory=dict[AxisId, Label])
    declaration: Declaration | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """One job to be: a stage at one point of its axes. Nodes only need nodes before them.

    `templates` shape its result. A training that goes on from a shorter one `follows` it; `segment` is
    the part of its run to which it belongs. `given`: resources that a cluster profile gives it.
    """

    id: str
    stage: str
    kind: StageKind
    axes: Mapping[AxisId, Label]
    config: StageConfig
    inputs: Mapping[str, tuple[Binding, ...]]
    outputs: Mapping[str, Port]
    templates: tuple[str, ...]
    place: Span
    follows: int | None = None
    segment: int = 0
    given: Resources | None = None

    @property
    def reads(self) -> list[int]:
        """Indices of the nodes whose artifacts this one reads, each once."""
        found = {b.node: None for bindings in self.inputs.values() for b in bindings if b.node is not None}
        return list(found)

    @property
    def needs(self) -> list[int]:
        """Indices of the nodes that this one reads or follows, each once."""
        return self.reads if self.follows is None else [*self.reads, self.follows]

    @property
    def is_choice(self) -> bool:
        """Whether its artifact stands for one of its candidates."""
        return any(port.path == CHOICE for port in self.outputs.values())

    def ports(self) -> dict[str, Port]:
        """The port that each input reads; of many candidates the first."""
        return {name: bindings[0].port for name, bindings in self.inputs.items()}

    @property
    def resources(self) -> Resources:
        return self.given or self.config.resources or self.kind.resources

    def shown_axes(self) -> dict[str, Label]:
        return {axis_name(a): v for a, v in self.axes.items()}


def node_id(stage: str, axes: Mapping[AxisId, Label]) -> str:
    inside = ",".join(f"{axis_name(a)}={v}" for a, v in axes.items())
    return f"{stage}[{inside}]" if inside else stage


@dataclass(frozen=True, slots=True)
class Graph:
    """All nodes in an order in which each comes after what it reads."""

    nodes: tuple[Node, ...]
    by_stage: Mapping[str, tuple[int, ...]]

    def readings(self, stage: str, output: str) -> list[Binding]:
        """See `readings`."""
        return readings(self.nodes, self.by_stage.get(stage, ()), output)


def readings(nodes: Sequence[Node], indices: Iterable[int], output: str) -> list[Binding]:
    """Everything that an output of a stage stands for: a binding for each node and checkpoint.

    `indices` are the stage's nodes. The output is an output's name or, for scores, a metric.
    """
    return [binding for index in indices for binding in _readings(index, nodes[index], output)]


def distinct_outputs(nodes: Sequence[Node], indices: Iterable[int]) -> Iterator[Mapping[str, Port]]:
    """The outputs that nodes of a stage have: mostly the same for all of them."""
    return iter({id(nodes[i].outputs): nodes[i].outputs for i in indices}.values())


def find_output(ports: Mapping[str, Port], output: str) -> tuple[Port, str] | None:
    """The port and metric that an output's name means, or None."""
    if output in ports:
        return ports[output], ""
    main = ports.get("")
    if main is not None and output in main.metrics:
        return main, output
    return None


def _readings(index: int, node: Node, output: str) -> Iterator[Binding]:
    found = find_output(node.outputs, output)
    if found is None:
        return
    port, metric = found
    name = f"{node.stage}.{output}" if output else node.stage
    yield Binding(name, port, index, port.path, metric, node.axes)
