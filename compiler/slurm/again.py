"""Failed jobs and the policy of a profile -> which are submitted again and with what, which are held back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from math import inf
from typing import Any

from compiler.graph import Graph, Node
from compiler.output.describe import description_path
from compiler.planning.answers import Answers
from compiler.program import Program
from compiler.site.profile import Profile
from compiler.slurm.failures import failure_of
from compiler.slurm.queue import NEW, Queued, told_of
from runtime.claims import last_node
from runtime.files import read_json
from runtime.slurm.again import had_last, limits_of, micro_batch, read_again
from runtime.slurm.kinds import REPEATS, Kind
from runtime.slurm.policy import Again, Asked, Most, UsedUp, answer
from runtime.store import Store


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
    again: dict[str, Again] = {}
    why: dict[str, str] = {}
    held: dict[str, str] = {}
    for index, identity in enumerate(program.identities):
        key, asked = identity.key, identity.asked
        task = tasks.get(key) or tasks.get(asked)
        ended = task is not None and task.state not in (NEW, "COMPLETED")
        ended = ended and not _never_begun(program, index, tasks, over)
        if key in over or not (ended or asked in failures or asked in working):
            continue
        before = read_again(store, asked) if asked in working else Again()
        before = Again() if force else before
        if ended or asked in failures:
            try:
                before = _answer(program, store, index, task, before, profile, force=force)
                if before.of:
                    why[key] = before.why
            except UsedUp as error:
                if not force:
                    held[key] = f"{error}; `alignc retry` submits it all the same"
        if before.why:
            again[key] = replace(before, tries={}) if force else before
    return Answers(again, why, held)


def _never_begun(program: Program, index: int, tasks: Mapping[str, Queued], over: frozenset[str]) -> bool:
    """Whether a leg's task ended with a leg before it, so that its own turn never came."""
    follows = program.graph.nodes[index].follows
    if follows is None or program.identities[follows].key in over:
        return False
    both = [program.identities[i] for i in (index, follows)]
    mine, before = (tasks.get(i.key) or tasks.get(i.asked) for i in both)
    return mine is not None and before is not None and mine.slurm_id == before.slurm_id


def _answer(
    program: Program,
    store: Store,
    index: int,
    task: Queued | None,
    before: Again,
    profile: Profile,
    *,
    force: bool,
) -> Again:
    """What the next try of a node has; `of` is 0 where that is no answer to a failure. Raises UsedUp."""
    node, identity = program.graph.nodes[index], program.identities[index]
    failure = failure_of(store, identity.asked, **told_of(task))
    of = failure.time or (task.submitted if task is not None else 0.0)
    most = _most(node.resources.partition or profile.partition, profile)
    if of and of == before.of:  # that try was prepared, and did not come about
        memory_gb, minutes = min(before.memory_gb, most.memory_gb), min(before.minutes, most.minutes)
        return replace(before, memory_gb=memory_gb, minutes=int(minutes))
    if failure.kind is Kind.EXCEPTION and failure.repeats >= REPEATS and not force:
        raise UsedUp(f"the same error {failure.repeats} times: {failure.line}")
    rule = profile.retry.rule(failure.kind)
    if rule is None:
        return replace(before, of=0.0)
    claims = (store.claim_folder(k) for k in (identity.key, identity.asked))
    on = next(filter(None, map(last_node, claims)), "")
    had = had_last(_described(store, program, index), before, on)
    if _given_more(node, had):
        return replace(before, tries={}, of=0.0)
    return answer(rule, failure.kind, had, before, of=of, most=most)


def _most(name: str | None, profile: Profile) -> Most:
    """What a partition gives to one job, as Slurm and the profile tell."""
    most, said = limits_of(name), profile.partitions.get(name or "")
    if said is None:
        return most
    memory_gb, minutes = (
        min(most.memory_gb, said.memory_gb or inf),
        min(most.minutes, said.max_minutes or inf),
    )
    return replace(most, memory_gb=memory_gb, minutes=minutes)


def _described(store: Store, program: Program, index: int) -> Mapping[str, Any]:
    """How a node was described when it was submitted last; as it is now, where nobody knows."""
    node, identity = program.graph.nodes[index], program.identities[index]
    for key in (identity.key, identity.asked):
        with suppress(OSError, ValueError):
            described: dict[str, Any] = read_json(description_path(store, program, key))
            return described
    return {"config": node.config.model_dump(), "resources": node.resources.model_dump()}


def _given_more(node: Node, had: Asked) -> bool:
    """Whether the spec gives a node more than its last try had: a person has looked."""
    size = micro_batch(node.config.model_dump(include={"micro_batch", "batch_size", "parallel"}))
    smaller = size is not None and had.micro_batch is not None and size < had.micro_batch
    return smaller or node.resources.memory_gb > had.memory_gb or node.resources.minutes > had.minutes


def with_asks(program: Program, again: Mapping[str, Again]) -> Program:
    """The program whose nodes ask for what their next tries have; what goes on from one asks for the same."""
    if not again:
        return program
    nodes: list[Node] = []
    asks: list[Again] = []  # of each node, with those of the legs before it
    for node, key in zip(program.graph.nodes, program.keys, strict=True):
        asked, had = again.get(key, Again()), node.resources
        before = asks[node.follows] if node.follows is not None else Again()
        memory_gb = max(had.memory_gb, asked.memory_gb, before.memory_gb)
        minutes = max(had.minutes, asked.minutes, before.minutes)
        most = max(asked.memory_gb, before.memory_gb), max(asked.minutes, before.minutes)
        asks.append(Again(memory_gb=most[0], minutes=most[1]))
        if (memory_gb, minutes) != (had.memory_gb, had.minutes):
            resources = had.model_copy(update={"memory_gb": memory_gb, "minutes": minutes})
            node = replace(node, given=resources)
        nodes.append(node)
    return replace(program, graph=Graph(tuple(nodes), program.graph.by_stage))


def excluded(again: Iterable[Again], options: Sequence[str]) -> list[str]:
    """Options of sbatch that keep a job away from nodes, beside those that its profile names."""
    own = [found[1] for o in options if (found := re.match(r"(?:--exclude[= ]|-x ?)(\S+)", o))]
    nodes = sorted({node for each in again for node in each.exclude})
    return [f"--exclude={','.join([*own, *nodes])}"] if nodes else []
