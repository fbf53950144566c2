"""How far each node of an experiment is, and why."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from compiler.program import Program
from compiler.slurm import Queued
from compiler.survey import survey
from runtime.files import read_json
from runtime.store import Store

Phase = Literal["done", "running", "queued", "failed", "blocked", "waiting"]
PHASES: tuple[Phase, ...] = ("done", "running", "queued", "failed", "blocked", "waiting")
IDLE = "not submitted"


@dataclass(frozen=True, slots=True)
class NodeState:
    """One node's phase in one word, and the rest in a sentence."""

    id: str
    stage: str
    key: str
    phase: Phase
    detail: str


def node_states(program: Program, store: Store, queued: Mapping[str, Queued]) -> list[NodeState]:
    """The state of every node: seals first, then live owners, then the queue, then failures."""
    state = survey(store, program.identities, {})
    states: list[NodeState] = []
    phase: Phase
    for node, identity in zip(program.graph.nodes, program.identities, strict=True):
        key = identity.key
        bad = [states[i].id for i in node.needs if states[i].phase in ("failed", "blocked")]
        task = queued.get(key) or queued.get(identity.asked)
        if key in state.sealed:
            phase, detail = "done", ""
        elif key in state.busy:
            phase, detail = "running", state.busy[key] + _progress(store, identity.asked)
        elif task is not None:
            phase = "running" if task.state == "RUNNING" else "queued"
            detail = f"Slurm job {task.slurm_id}, {task.state.lower()}, {task.reason}".removesuffix(", None")
        elif bad:
            phase, detail = "blocked", f"needs {bad[0]}, which is not to be had"
        elif key in state.failed:
            phase, detail = "failed", state.failed[key]
        else:
            phase, detail = "waiting", state.stopped.get(key, IDLE)
        states.append(NodeState(node.id, node.stage, key, phase, detail))
    return states


def _progress(store: Store, key: str) -> str:
    try:
        told = read_json(store.progress(key))
    except (OSError, ValueError):
        return ""
    return f", {told['done']} of {told['total']} {told['text']}".rstrip()


def to_json(states: Sequence[NodeState]) -> str:
    return json.dumps({"schema": "alignc.status/1", "nodes": [asdict(s) for s in states]}, indent=2)


def to_text(program: Program, states: Sequence[NodeState], *, every_node: bool) -> str:
    """A line for each stage with its counts, then what needs attention."""
    if every_node:
        width = max((len(s.id) for s in states), default=0)
        return "\n".join(f"{s.phase:<8} {s.id:<{width}}  {s.detail}".rstrip() for s in states)
    stages: dict[str, list[NodeState]] = {}
    for state in states:
        stages.setdefault(state.stage, []).append(state)
    width = max((len(name) for name in stages), default=0)
    lines = [f"{name:<{width}}  {_counts(some)}" for name, some in stages.items()]
    attention = [s for s in states if s.phase in ("failed", "running") or _stopped(s)]
    details = [f"{s.phase}: {s.id}: {s.detail}" for s in attention]
    done = sum(s.phase == "done" for s in states)
    counts = f"; {_counts(states)}" if states else ""
    summary = f"{program.spec.experiment}: {done} of {len(states)} nodes done{counts}"
    return "\n".join([*lines, "", *details, *([""] if details else []), summary])


def _stopped(state: NodeState) -> bool:
    return state.phase == "waiting" and state.detail != IDLE


def _counts(states: Sequence[NodeState]) -> str:
    counts = [(phase, sum(s.phase == phase for s in states)) for phase in PHASES]
    return ", ".join(f"{n} {phase}" for phase, n in counts if n)
