"""Cancelling nodes and all that depends on them: what to stop, and stopping it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from compiler.errors import UsageError
from compiler.graph import Node
from compiler.program import Program
from compiler.slurm.queue import Queued, remember_cancelled
from runtime.claims import is_here, owner_of
from runtime.slurm.submission import waiting_tasks, withdraw
from runtime.store import Store

AT_ONCE = 500  # tasks that one scancel is told of


@dataclass(frozen=True, slots=True)
class Task:
    """Something to stop, and the nodes it makes.

    A task in Slurm's queue, a process of this machine, or what Slurm has no room for yet: the key of that.
    """

    slurm_id: str
    pid: int
    waits: str
    nodes: tuple[str, ...]

    @property
    def name(self) -> str:
        if self.waits:
            return "waits for room in Slurm"
        return f"Slurm job {self.slurm_id}" if self.slurm_id else f"process {self.pid} of this machine"


_Place = tuple[str, int, str]  # the first three fields of a task


def with_dependents(nodes: Sequence[Node], chosen: Iterable[int]) -> frozenset[int]:
    """These nodes, and every node that needs one of them, directly or not."""
    found = set(chosen)
    for index, node in enumerate(nodes):
        if not found.isdisjoint(node.needs):
            found.add(index)
    return frozenset(found)


def find_tasks(
    program: Program, store: Store, queued: Mapping[str, Queued], chosen: frozenset[int]
) -> tuple[list[Task], list[str]]:
    """What makes these nodes now, what comes last first, and in words what is out of reach.

    A task that makes several nodes in a row is named with all of them.
    """
    wanted: dict[_Place, None] = {}
    makes: dict[_Place, list[str]] = {}
    beyond: list[str] = []
    working, waiting = store.working(), waiting_tasks(store)
    for index, (node, identity) in enumerate(zip(program.graph.nodes, program.identities, strict=True)):
        task = queued.get(identity.key) or queued.get(identity.asked)
        owner = owner_of(store.claim_folder(identity.key)) if identity.key in working else None
        first = waiting.get(identity.key) or waiting.get(identity.asked)
        place: _Place
        if first is not None:
            place = "", 0, first
        elif task is not None and task.live:
            place = task.slurm_id, 0, ""
        elif owner is None or index not in chosen:
            continue
        elif owner.get("slurm_job"):
            place = str(owner.get("task") or owner["slurm_job"]), 0, ""
        elif is_here(owner):
            place = "", int(owner["pid"]), ""
        else:
            where = (
                f"process {owner['pid']} of {owner['host']}" if owner else "a process that does not answer"
            )
            beyond.append(f"{node.id} is made by {where}: stop it there")
            continue
        makes.setdefault(place, []).append(node.id)
        if index in chosen:
            wanted[place] = None
    # What depends on others goes first, so that it does not start when they end.
    return [Task(*place, tuple(makes[place])) for place in reversed(wanted)], beyond


def stop(store: Store, tasks: Sequence[Task]) -> Iterator[Task]:
    """Stop tasks; each is yielded when it has been told to. Raises UsageError where scancel fails."""
    withdraw(store, [t.waits for t in tasks if t.waits])
    yield from (t for t in tasks if t.waits)
    in_slurm = [t for t in tasks if t.slurm_id]
    for first in range(0, len(in_slurm), AT_ONCE):
        some = in_slurm[first : first + AT_ONCE]
        _scancel([t.slurm_id for t in some])
        remember_cancelled(store, [t.slurm_id for t in some])
        yield from some
    for task in tasks:
        if task.pid:
            try:
                os.kill(task.pid, signal.SIGTERM)
            except ProcessLookupError:
                continue  # it has ended meanwhile
            except PermissionError as error:
                raise UsageError(f"{task.name} is somebody else's") from error
            yield task


def _scancel(slurm_ids: Sequence[str]) -> None:
    try:
        done = subprocess.run(
            ["scancel", *slurm_ids], capture_output=True, text=True, timeout=120, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"scancel does not answer: {error}") from error
    problems = [line for line in done.stderr.splitlines() if "already completing or completed" not in line]
    if done.returncode and problems:
        raise UsageError(f"scancel failed: {problems[0].strip()}")
