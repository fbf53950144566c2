"""Identified graph -> the same graph with runs that share their first steps one behind the other.

Trainings of one trajectory differ in their length alone, whichever stages ask for them: the longer one
goes on from where the shorter one ended, and therefore follows it.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import replace

from compiler.graph import Graph, Node
from compiler.planning.identify import Identity


def chain(graph: Graph, identities: Sequence[Identity]) -> tuple[Graph, tuple[Identity, ...]]:
    """The graph with `follows` filled in, in an order in which each node comes after what it follows."""
    follows = _follows(graph, identities)
    if not follows:
        return graph, tuple(identities)
    nodes = [replace(n, follows=follows[i]) if i in follows else n for i, n in enumerate(graph.nodes)]
    if all(before < after for after, before in follows.items()):
        return Graph(tuple(nodes), graph.by_stage), tuple(identities)
    order = _order(nodes)
    place = {old: new for new, old in enumerate(order)}
    moved = tuple(_moved(nodes[old], place) for old in order)
    by_stage = {stage: tuple(place[i] for i in indices) for stage, indices in graph.by_stage.items()}
    return Graph(moved, by_stage), tuple(identities[old] for old in order)


def _follows(graph: Graph, identities: Sequence[Identity]) -> dict[int, int]:
    """Node -> the next shorter run of its trajectory."""
    runs: dict[str, list[tuple[int, int]]] = {}
    for members in _by_kind(graph).values():
        if len({length for length, _ in members}) > 1:  # else none is shorter than another
            for length, index in members:
                runs.setdefault(identities[index].trajectory, []).append((length, index))
    follows: dict[int, int] = {}
    for members in runs.values():
        first = dict(sorted(members, reverse=True))
        lengths = sorted(first)
        shorter = dict(zip(lengths[1:], lengths, strict=False))
        follows |= {index: first[shorter[length]] for length, index in members if length in shorter}
    return follows


def _by_kind(graph: Graph) -> dict[str, list[tuple[int, int]]]:
    """The runs of each kind that has any: their lengths and indices."""
    found: dict[str, list[tuple[int, int]]] = {}
    for index, node in enumerate(graph.nodes):
        if node.kind.prefix:
            length = int(getattr(node.config, node.kind.prefix))
            found.setdefault(node.kind.name, []).append((length, index))
    return found


def _order(nodes: Sequence[Node]) -> list[int]:
    """A topological order that keeps to the given one as far as it can."""
    waiting = [len(n.needs) for n in nodes]
    readers: dict[int, list[int]] = {}
    for index, node in enumerate(nodes):
        for need in node.needs:
            readers.setdefault(need, []).append(index)
    ready = [i for i, count in enumerate(waiting) if count == 0]
    order: list[int] = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for reader in readers.get(index, ()):
            waiting[reader] -= 1
            if waiting[reader] == 0:
                heapq.heappush(ready, reader)
    return order


def _moved(node: Node, place: Mapping[int, int]) -> Node:
    inputs = {
        name: tuple(b if b.node is None else replace(b, node=place[b.node]) for b in bindings)
        for name, bindings in node.inputs.items()
    }
    follows = None if node.follows is None else place[node.follows]
    return replace(node, inputs=inputs, follows=follows)
