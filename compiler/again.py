"""Failed jobs and the policy of a profile -> which are submitted again and with what, which are held back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

from compiler.cluster import Profile
from compiler.failures import failure_of
from compiler.graph import Graph, Node
from compiler.program import Program
from compiler.queue import NEW, Queued, told_of
from runtime.again import limits_of, micro_batch, read_again
from runtime.claims import last_node
from runtime.kinds import REPEATS, Kind
from runtime.policy import Again, Asked, Most, UsedUp, answer
from runtime.store import Store


@dataclass(frozen=True, slots=True)
class Answers:
    """By key: what the next try has, and why, in words; and why there is none."""

    again: Mapping[str, Again] = field(default_factory=dict[str, Again])
    why: Mapping[str, str] = field(default_factory=dict[str, str])
    held: Mapping[str, str] = field(default_factory=dict[str, str])


NO_ANSWERS = Answers()


def answers(
    program: Program,
    store: Store,
    tasks: Mapping[str, Queued],
    over: frozenset[str],
    profile: Profile,
    *,
    force: bool = False,
) -> Answers:
    """What the policy says of every node that is not made and not being made.

    tasks: by key, what Slurm said last. over: keys that are made, queued or worked on. force: a person asks
    for another try; nothing is held back, and counting begins anew.
    """
    failures, working = store.failures(), store.working()
    most = cache(limits_of)
    again: dict[str, Again] = {}
    why: dict[str, str] = {}
    held: dict[str, str] = {}
    for node, identity in zip(program.graph.nodes, program.identities, strict=True):
        key, asked = identity.key, identity.asked
        task = tasks.get(key) or tasks.get(asked)
        ended = task is not None and task.state not in (NEW, "COMPLETED")
        if key in over or not (ended or asked in failures or asked in working):
            continue
        before = read_again(store, asked) if asked in working else Again()
        before = replace(before, tries={}) if force else before
        if ended or asked in failures:
            try:
                made = _answer(store, node, asked, task, before, profile, most, force=force)
                before = made
                if made.of:
                    why[key] = made.why
            except UsedUp as error:
                if not force:
                    held[key] = f"{error}; `alignc retry` submits it all the same"
        if before.why:
            again[key] = before
    return Answers(again, why, held)


def _answer(
    store: Store,
    node: Node,
    asked: str,
    task: Queued | None,
    before: Again,
    profile: Profile,
    most: Callable[[str | None], Most],
    *,
    force: bool,
) -> Again:
    """What the next try of a node has. Raises UsedUp."""
    failure = failure_of(store, asked, **told_of(task))
    of = failure.time or (task.submitted if task is not None else 0.0)
    if of and of == before.of:  # that try was prepared, and did not come about
        return before
    if failure.kind is Kind.EXCEPTION and failure.repeats >= REPEATS and not force:
        raise UsedUp(f"the same error {failure.repeats} times: {failure.line}")
    rule = profile.retry.rule(failure.kind)
    if rule is None:
        return replace(before, of=0.0)
    resources = node.resources
    size = micro_batch(node.config.model_dump(include={"micro_batch", "batch_size", "parallel"}))
    had = Asked(
        max(resources.memory_gb, before.memory_gb),
        max(resources.minutes, before.minutes),
        size and (before.micro_batch or size),
        last_node(store.claim_folder(asked)),
    )
    return answer(rule, failure.kind, had, before, of=of, most=most(resources.partition or profile.partition))


def with_asks(program: Program, again: Mapping[str, Again]) -> Program:
    """The program whose nodes ask for what their next tries have; what goes on from one asks for the same."""
    if not again:
        return program
    nodes: list[Node] = []
    for node, key in zip(program.graph.nodes, program.keys, strict=True):
        before = nodes[node.follows].resources if node.follows is not None else node.resources
        asked, had = again.get(key, Again()), node.resources
        memory_gb = max(had.memory_gb, asked.memory_gb, before.memory_gb)
        minutes = max(had.minutes, asked.minutes, before.minutes)
        if (memory_gb, minutes) != (had.memory_gb, had.minutes):
            resources = had.model_copy(update={"memory_gb": memory_gb, "minutes": minutes})
            node = replace(node, given=resources)
        nodes.append(node)
    return replace(program, graph=Graph(tuple(nodes), program.graph.by_stage))


def excluded(again: Iterable[Again], options: Sequence[str]) -> list[str]:
    """Options of sbatch that keep a job away from nodes, beside those that its profile names."""
    own = [o.partition("=")[2] for o in options if o.startswith("--exclude=")]
    nodes = sorted({node for each in again for node in each.exclude})
    return [f"--exclude={','.join([*own, *nodes])}"] if nodes else []
