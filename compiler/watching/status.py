"""How far each node of an experiment is, and why.

Seals are believed first, then live owners, then the queue, then records of failures, and last what
accounting says. A task that left the queue and nothing else behind is `unknown` for a while, since
seals come late on network file systems; then it is `lost`.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from compiler.cost.words import duration, short
from compiler.output.describe import description_path
from compiler.planning.identify import Identity
from compiler.planning.plan import State
from compiler.planning.survey import survey
from compiler.program import Program
from compiler.slurm.failures import failure_of, kind_of
from compiler.slurm.queue import CLOCKS_S, GRACE_S, MISSING, NEW, Look, Queued, told_of
from compiler.slurm.reasons import ends, waits
from runtime.claims import owner_of
from runtime.files import read_json
from runtime.plural import counted
from runtime.slurm.again import read_again
from runtime.spending import paid_gpus, spent
from runtime.store import Store

Phase = Literal["done", "running", "queued", "unknown", "failed", "lost", "blocked", "waiting"]
PHASES: tuple[Phase, ...] = get_args(Phase)
OVER: tuple[Phase, ...] = ("done", "failed", "lost", "blocked")  # nothing more happens by itself
SILENT_S = 900.0  # how long Slurm may be silent before what it said last is no longer believed
UNTOLD = (MISSING, "COMPLETED")  # states that do not tell why there is no seal
SHOWN = 10  # nodes of a phase that are listed
IDLE = "not submitted"


@dataclass(frozen=True, slots=True)
class NodeState:
    """One node's phase in one word, and the rest in a sentence.

    `slurm_id`: its task in the queue; `reason`: why that waits, in words. `waited_s`: for how long;
    `ran_s`: how long it has run; `left_s`: how long it will go on. None where nobody knows.
    """

    id: str
    stage: str
    key: str
    phase: Phase
    detail: str
    slurm_id: str = ""
    reason: str = ""
    waited_s: float | None = None
    ran_s: float | None = None
    left_s: float | None = None


Usual = Callable[[str], float | None]  # kind -> seconds that a job of it takes, as far as is known


def _unknown(kind: str) -> None:
    """For those who do not ask how long things take."""


def node_states(program: Program, store: Store, seen: Look, usual: Usual = _unknown) -> list[NodeState]:
    """The state of every node. Never raises for what Slurm does or leaves undone."""
    state = survey(store, program.identities, {})
    states: list[NodeState] = []
    now, working = time.time(), store.working()
    for node, identity in zip(program.graph.nodes, program.identities, strict=True):
        key = identity.key
        common = (node.id, node.stage, key)
        task = seen.tasks.get(key) or seen.tasks.get(identity.asked)
        over = task is not None and _failed_beside(store, identity.asked, task)
        over = over or (node.follows is not None and states[node.follows].phase in ("failed", "blocked"))
        bad = [states[i].id for i in node.needs if states[i].phase in ("failed", "blocked", "lost")]
        if key in state.sealed:
            told = NodeState(*common, "done", "")
        elif key in state.busy and not _requeued(store, key, task):
            since = float((owner_of(store.claim_folder(key)) or {}).get("since") or now)
            text, left_s = _progress(store, identity.asked, since)
            job = task.slurm_id if task is not None and task.live else ""
            told = NodeState(
                *common, "running", state.busy[key] + text, job, ran_s=now - since, left_s=left_s
            )
        elif task is not None and (task.live or task.state == NEW) and not over:
            told = _in_queue(common, task, seen, now)
        elif bad:
            told = NodeState(*common, "blocked", f"needs {bad[0]}, which is not to be had")
        else:
            recorded = _recorded(store, identity, task, state)
            told = _out_of_queue(common, task, state, recorded, now)
            if told.phase == "failed":
                told = replace(told, detail=_why_failed(store, identity, task))
        if told.phase in ("running", "queued") and identity.asked in working:
            again = read_again(store, identity.asked).why
            told = replace(told, detail=f"{told.detail}; {again}") if again else told
        states.append(_with_time_left(told, usual(node.kind.name) if told.phase == "running" else None))
    return states


def _with_time_left(told: NodeState, usual_s: float | None) -> NodeState:
    """With the time left as jobs of this kind took it, where the job itself does not tell."""
    if told.left_s is None and told.ran_s is not None and usual_s is not None:
        told = replace(told, left_s=max(0.0, usual_s - told.ran_s))
    return replace(told, detail=f"{told.detail}, about {duration(told.left_s)} left") if told.left_s else told


def _requeued(store: Store, key: str, task: Queued | None) -> bool:
    """Whether Slurm has put the task of a claim's owner into the queue again, and that owner fell silent."""
    owner = owner_of(store.claim_folder(key)) or {}
    return task is not None and task.state == "PENDING" and owner.get("task") == task.slurm_id


def _failed_beside(store: Store, asked: str, task: Queued) -> bool:
    """Whether a job has failed in a task that still runs for the sake of others beside it."""
    told = (_read(store.failure(asked)) if task.state == "RUNNING" else None) or {"outcome": "interrupted"}
    ended = told["outcome"] not in ("interrupted", "warned") or "idle" in told
    return ended and 0 < task.starts < float(told.get("time") or 0.0)


def _why_failed(store: Store, identity: Identity, task: Queued | None) -> str:
    """What happened to a job that failed, and what to do."""
    failure = failure_of(store, identity.asked, **told_of(task))
    if failure.message:
        told = f"{failure.words}: {failure.line}"
    else:
        state = task.state if task is not None else ""
        how = ends(state) if failure.kind is kind_of(None, state=state) else failure.words
        told = f"Slurm job {task.slurm_id}: {how} ({state})" if task is not None else failure.words
    again = read_again(store, identity.asked)
    tried = again.tries.get(failure.kind.value, 0)
    if not again.used_up(failure.kind):
        return f"{told}; {failure.advice}"
    return f"{told}; it was tried again {counted(tried, 'time')}, so `alignc retry` alone submits it"


def _progress(store: Store, asked: str, since: float) -> tuple[str, float | None]:
    """What a job says of its progress, and the seconds left at the pace since it began."""
    told = _read(store.progress(asked))
    try:
        done, total, at = float(told["done"]), float(told["total"]), float(told.get("time") or 0.0)
        text = f", {told['done']} of {told['total']} {told['text']}".rstrip()
    except (TypeError, KeyError, ValueError):
        return "", None
    if not 0 < done <= total or at <= since:  # of an earlier try
        return text, None
    return text, (at - since) * (total - done) / done


def _read(path: Path) -> Any:
    try:
        return read_json(path)
    except (OSError, ValueError):
        return None


def _in_queue(common: tuple[str, str, str], task: Queued, seen: Look, now: float) -> NodeState:
    phase: Phase = "running" if task.state == "RUNNING" else "queued"
    reason = waits(task.reason) if phase == "queued" else ""
    detail = f"Slurm job {task.slurm_id}, {task.state.lower()}" if task.slurm_id else "is being submitted"
    waited_s = max(0.0, now - task.submitted) if phase == "queued" and task.submitted else None
    ran_s = max(0.0, now - task.starts) if phase == "running" and task.starts else None
    if waited_s is not None:
        detail += f" for {duration(waited_s)}"
    if phase == "queued" and task.starts > now:
        detail += f", to start in about {duration(task.starts - now)}"
    detail += f": {reason}" if reason else ""
    if seen.problem:
        silent = "never answered" if not seen.answered else f"does not answer since {clock(seen.answered)}"
        if seen.answered and now - seen.answered > SILENT_S:
            phase, detail = "unknown", f"was {phase} ({detail})"
        detail += f" (Slurm {silent})"
    return NodeState(*common, phase, detail, task.slurm_id, reason, waited_s, ran_s)


def _recorded(store: Store, identity: Identity, task: Queued | None, state: State) -> bool:
    """Whether there is a record of how the last submission ended, and not only of one before it."""
    if task is None or (identity.key not in state.failed and identity.key not in state.stopped):
        return True
    told = _read(store.failure(identity.asked)) or {}
    return float(told.get("time") or 0.0) >= task.submitted - CLOCKS_S


def _out_of_queue(
    common: tuple[str, str, str], task: Queued | None, state: State, recorded: bool, now: float
) -> NodeState:
    """Of a node that is neither sealed nor worked on nor queued."""
    key = common[2]
    if recorded and key in state.failed:
        return NodeState(*common, "failed", state.failed[key], task.slurm_id if task else "")
    if recorded and key in state.stopped and (task is None or task.state in (*UNTOLD, "FAILED")):
        return NodeState(*common, "waiting", state.stopped[key])
    if task is None:
        return NodeState(*common, "waiting", IDLE)
    gone = f"Slurm job {task.slurm_id}"
    if task.state == "CANCELLED" and task.reason == "DependencyNeverSatisfied":
        told = f"{gone} was called off by Slurm: what it came after did not end well; `alignc submit` goes on"
        return NodeState(*common, "waiting", told, task.slurm_id)
    if task.state not in UNTOLD:
        return NodeState(*common, "failed", f"{gone}: {ends(task.state)}", task.slurm_id)
    how = ends(task.state) if task.state != MISSING else "left the queue"
    if now - task.since < GRACE_S:
        told = f"{gone} {how} {duration(now - task.since)} ago, and no seal is seen yet"
        return NodeState(*common, "unknown", told, task.slurm_id)
    told = f"{gone} {how} at {clock(task.since)} and left neither a seal nor a failure behind"
    return NodeState(*common, "lost", f"{told}; `alignc logs` and `alignc retry` go on", task.slurm_id)


def clock(seconds: float) -> str:
    """A time of day, with the day where that is not today."""
    then, today = time.localtime(seconds), time.localtime()
    return time.strftime("%H:%M" if then[:3] == today[:3] else "%Y-%m-%d %H:%M", then)


# ---------------------------------------------------------------- telling


@dataclass(frozen=True, slots=True)
class Report:
    """What is told of an experiment. `gpu_hours`: spent until now, None where no node needs a GPU."""

    experiment: str
    states: Sequence[NodeState]
    left_s: Mapping[str, float]  # stage -> seconds until it is done at today's pace
    problem: str = ""
    gpu_hours: float | None = None


def report(
    program: Program,
    store: Store,
    seen: Look,
    *,
    usual: Usual = _unknown,
    selected: frozenset[int] | None = None,
) -> Report:
    nodes = program.graph.nodes
    states = node_states(program, store, seen, usual)
    hours: float | None = None
    gpus = _gpus(program, store, states)
    if any(gpus.values()) or any(node.resources.gpus for node in nodes):
        hours = spent(store, program.spec.experiment).gpu_hours
        hours += sum(gpus[i] * (states[i].ran_s or 0.0) for i in gpus) / 3600
    chosen = range(len(nodes)) if selected is None else sorted(selected)
    shown = [states[i] for i in chosen]
    kinds = {nodes[i].stage: nodes[i].kind.name for i in chosen}
    return Report(program.spec.experiment, shown, _left(shown, kinds, usual), seen.problem, hours)


def _gpus(program: Program, store: Store, states: Sequence[NodeState]) -> dict[int, float]:
    """Index -> GPUs as submitted, by the cluster profile too: of what runs, and of one node of each stage."""
    nodes, keys = program.graph.nodes, program.keys
    found: dict[int, float] = {}
    running = {i for i, state in enumerate(states) if state.ran_s}
    for index in running.union(some[0] for some in program.graph.by_stage.values() if some):
        described = _read(description_path(store, program, keys[index]))
        found[index] = paid_gpus(described) if described else float(nodes[index].resources.gpus)
    return found


def _left(states: Sequence[NodeState], kinds: Mapping[str, str], usual: Usual) -> dict[str, float]:
    """Of stages at work: the time that their open nodes need, as many at once as run now."""
    found: dict[str, float] = {}
    for stage, some in by_stage(states).items():
        running = [s for s in some if s.phase == "running"]
        usual_s = usual(kinds[stage]) if running else None
        needed = [s.left_s if s.phase == "running" else usual_s for s in some if s.phase not in OVER]
        known = [n for n in needed if n is not None]
        if running and len(known) == len(needed):
            found[stage] = max(sum(known) / len(running), max(known))
    return found


def by_stage(states: Sequence[NodeState]) -> dict[str, list[NodeState]]:
    stages: dict[str, list[NodeState]] = {}
    for state in states:
        stages.setdefault(state.stage, []).append(state)
    return stages


def to_json(told: Report) -> str:
    body = {
        "schema": "alignc.status/1",
        "nodes": [asdict(s) for s in told.states],
        "problem": told.problem,
        "left_s": told.left_s,
        "gpu_hours": told.gpu_hours,
    }
    return json.dumps(body, indent=2)


def stage_lines(told: Report) -> dict[str, str]:
    """A line for each stage: counts, what its queued nodes wait for, the time left."""
    stages = by_stage(told.states)
    width = max((len(name) for name in stages), default=0)
    lines: dict[str, str] = {}
    for name, some in stages.items():
        left = f"; about {duration(told.left_s[name])} left" if told.left_s.get(name) else ""
        lines[name] = f"{name:<{width}}  {_counts(some)}{_waiting(some)}{left}"
    return lines


def _waiting(states: Sequence[NodeState]) -> str:
    reasons = Counter(s.reason for s in states if s.reason)
    told = [f"{n}: {reason}" if len(reasons) > 1 else reason for reason, n in reasons.most_common()]
    longest = max((s.waited_s for s in states if s.waited_s is not None), default=None)
    told += [f"for {duration(longest)}"] if longest is not None else []
    return f" ({'; '.join(told)})" if told else ""


def summary(told: Report) -> str:
    done = sum(s.phase == "done" for s in told.states)
    hours = f"; {short(told.gpu_hours)} GPU-hours spent" if told.gpu_hours is not None else ""
    counts = f"; {_counts(told.states)}" if told.states else ""
    return f"{told.experiment}: {done:,} of {counted(len(told.states), 'node')} done{counts}{hours}"


def node_line(state: NodeState, width: int) -> str:
    return f"{state.phase:<8} {state.id:<{width}}  {state.detail}".rstrip()


def to_text(told: Report, *, every_node: bool) -> str:
    """A line for each stage with its counts, then what needs attention."""
    if every_node:
        width = max((len(s.id) for s in told.states), default=0)
        return "\n".join(node_line(s, width) for s in told.states)
    details: list[str] = []
    for phase in ("failed", "lost", "unknown", "running", "waiting"):
        some = [s for s in told.states if s.phase == phase and s.detail != IDLE]
        details += [f"{phase}: {s.id}: {s.detail}" for s in some[:SHOWN]]
        more = len(some) - SHOWN
        details += [f"{phase}: {more} more; `--nodes --select state:{phase}` shows all"] if more > 0 else []
    problem = [f"Slurm does not answer: {told.problem}"] if told.problem else []
    gap = [""] if details or problem else []
    return "\n".join([*stage_lines(told).values(), "", *details, *problem, *gap, summary(told)])


def _counts(states: Sequence[NodeState]) -> str:
    counts = Counter(s.phase for s in states)
    return ", ".join(f"{counts[phase]} {phase}" for phase in PHASES if counts[phase])
