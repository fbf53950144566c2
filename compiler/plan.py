"""Graph and state of the store -> what to do: an action and a reason for each node, and the jobs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from compiler.graph import Node
from compiler.program import Program
from runtime.stage import Resources

Action = Literal["run", "reuse", "wait", "blocked", "skip"]  # skip: not selected, and not to be had


@dataclass(frozen=True, slots=True)
class State:
    """What is known of a program's keys before planning."""

    sealed: frozenset[str] = frozenset()
    # key -> why its last try failed
    failed: Mapping[str, str] = field(default_factory=dict[str, str])
    # key -> who is at work on it or has it queued; `waiting_for` gives the Slurm job, where it is one
    busy: Mapping[str, str] = field(default_factory=dict[str, str])
    slurm_jobs: Mapping[str, str] = field(default_factory=dict[str, str])
    # trajectory -> how far its kept state has gone, in units of its kind's prefix field
    reached: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True)
class Step:
    """What happens to one node, and why."""

    node: Node
    key: str
    action: Action
    why: str
    needs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class JobGroup:
    """Nodes submitted together: one sbatch call, an array where there are several tasks.

    A task carries out its nodes one after the other: the legs of one run. `after` names groups of this
    plan, `after_slurm` jobs that are queued already.
    """

    name: str
    tasks: tuple[tuple[int, ...], ...]
    resources: Resources
    processes: int
    after: tuple[str, ...]
    after_slurm: tuple[str, ...]

    @property
    def steps(self) -> list[int]:
        return [step for task in self.tasks for step in task]

    @property
    def array(self) -> bool:
        return len(self.tasks) > 1


@dataclass(frozen=True, slots=True)
class Estimate:
    """Upper bounds, from time limits: what the jobs may use, not what they will."""

    nodes: int
    run: int
    reuse: int
    wait: int
    blocked: int
    cpu_hours_at_most: float
    gpu_hours_at_most: float
    critical_path_minutes_at_most: int


@dataclass(frozen=True, slots=True)
class Plan:
    program: Program
    steps: tuple[Step, ...]
    jobs: tuple[JobGroup, ...]
    estimate: Estimate
    selected: frozenset[int] | None = None  # indices of the nodes that it is about; None: all

    def shown(self) -> list[Step]:
        """The steps that the plan is about."""
        chosen = range(len(self.steps)) if self.selected is None else sorted(self.selected)
        return [self.steps[i] for i in chosen]

    def to_run(self) -> list[int]:
        """Indices of the nodes to run, each key once."""
        return [i for job in self.jobs for i in job.steps]


def processes(node: Node) -> int:
    """Processes of a node's job: those of a training run that is spread over several."""
    parallel = getattr(node.config, "parallel", None)
    return int(getattr(parallel, "processes", 1))


def _steps(program: Program, state: State, selected: frozenset[int] | None, *, on_slurm: bool) -> list[Step]:
    steps: list[Step] = []
    first: dict[str, str] = {}
    for node, key in zip(program.graph.nodes, program.keys, strict=True):
        needs = tuple(node.needs)
        action, why = _decide(key, [steps[i] for i in needs], state)
        if selected is not None:
            chosen = node.stage if len(steps) in selected else None
            action, why = _select(chosen, action, why, [steps[i] for i in needs], on_slurm)
        if action == "run" and on_slurm:
            action, why = _unsubmittable([steps[i] for i in needs], state) or (action, why)
        if action == "run" and key in first:
            why = f"the same work as {first[key]}, done once"
        first.setdefault(key, node.id)
        steps.append(Step(node, key, action, why, needs))
    return steps


def _decide(key: str, needs: Sequence[Step], state: State) -> tuple[Action, str]:
    if key in state.sealed:
        return "reuse", "sealed in the store"
    if key in state.busy:
        return "wait", state.busy[key]
    if key in state.failed:
        return "run", f"its last try failed: {state.failed[key]}"
    fresh = [s.node.id for s in needs if s.action != "reuse"]
    if fresh:
        more = f" and {len(fresh) - 1} more" if len(fresh) > 1 else ""
        return "run", f"needs {fresh[0]}{more}, not made yet"
    return "run", "not made yet"


def _select(
    chosen: str | None, action: Action, why: str, needs: Sequence[Step], on_slurm: bool
) -> tuple[Action, str]:
    """Skip what is not selected; block what needs it. `chosen` is the stage of a selected node."""
    if chosen is None:
        there = action == "reuse" or (action == "wait" and on_slurm)
        return (action, why) if there else ("skip", "not selected")
    lacking = [s for s in needs if s.action in ("skip", "blocked")] if action == "run" else []
    if not lacking:
        return action, why
    id_ = lacking[0].node.id
    if lacking[0].action == "blocked":
        return "blocked", f"needs {id_}, which is blocked"
    return "blocked", f"needs {id_}, which is not selected; `--select +{chosen}` takes it in"


def _unsubmittable(needs: Sequence[Step], state: State) -> tuple[Action, str] | None:
    """Slurm cannot wait for a process that it did not start."""
    for step in needs:
        if step.action == "blocked":
            return "blocked", f"needs {step.node.id}, which is blocked"
        if step.action == "wait" and step.key not in state.slurm_jobs:
            return "blocked", f"needs {step.node.id}, {step.why}: submit again when that is done"
    return None


@dataclass(frozen=True, slots=True)
class _Kind:
    """What the nodes of one group have in common. Groups are ordered by generation and rank."""

    generation: int
    rank: int
    segment: int
    stage: str
    resources: Resources
    processes: int
    part: int = 0


def _groups(program: Program, steps: Sequence[Step], state: State, max_array: int) -> list[JobGroup]:
    """Nodes to run, by stage and resources; at most `max_array` tasks in one group."""
    groups, owner = _members(program, steps, max_array)
    names = _names(program.spec.experiment, list(groups))
    made: list[JobGroup] = []
    for kind, tasks in groups.items():
        needed = [steps[n] for task in tasks for i in task for n in steps[i].needs]
        after = dict.fromkeys(
            names[owner[s.key][0]] for s in needed if s.action == "run" and owner[s.key][0] != kind
        )
        queued = dict.fromkeys(state.slurm_jobs[s.key] for s in needed if s.key in state.slurm_jobs)
        made.append(
            JobGroup(
                names[kind],
                tuple(map(tuple, tasks)),
                kind.resources,
                kind.processes,
                tuple(after),
                tuple(queued),
            )
        )
    return made


def _members(
    program: Program, steps: Sequence[Step], max_array: int
) -> tuple[dict[_Kind, list[list[int]]], dict[str, tuple[_Kind, list[int]]]]:
    """The tasks of each group, in order of submission, and the group and task of each key."""
    rank = {stage: number for number, stage in enumerate(program.graph.by_stage)}
    generations = _generations(steps)
    groups: dict[_Kind, list[list[int]]] = {}
    owner: dict[str, tuple[_Kind, list[int]]] = {}
    counts: dict[_Kind, int] = {}
    for index, step in enumerate(steps):
        if step.action != "run" or step.key in owner:
            continue
        node = step.node
        kind = _Kind(
            generations[index], rank[node.stage], node.segment, node.stage, node.resources, processes(node)
        )
        before = None if node.follows is None else owner.get(steps[node.follows].key)
        if before is not None and replace(before[0], part=0) == kind:
            before[1].append(index)
            owner[step.key] = before
            continue
        part = replace(kind, part=counts.get(kind, 0) // max_array)
        counts[kind] = counts.get(kind, 0) + 1
        task = [index]
        groups.setdefault(part, []).append(task)
        owner[step.key] = (part, task)
    order = sorted(groups, key=lambda k: (k.generation, k.rank, k.segment, groups[k][0][0]))
    return {kind: groups[kind] for kind in order}, owner


def _generations(steps: Sequence[Step]) -> list[int]:
    """How many runs of other stages each node goes on from, at most, on any way to it.

    Groups of one generation need each other only in the order of their stages.
    """
    found: list[int] = []
    for step in steps:
        follows = step.node.follows
        crossing = follows is not None and steps[follows].node.stage != step.node.stage
        here = max((found[n] for n in step.needs), default=0)
        found.append(max(here, found[follows] + 1) if follows is not None and crossing else here)
    return found


def _names(experiment: str, groups: Sequence[_Kind]) -> dict[_Kind, str]:
    """Job names: experiment and stage, numbered where a stage needs several jobs."""
    total = Counter(group.stage for group in groups)
    seen: Counter[str] = Counter()
    names: dict[_Kind, str] = {}
    for group in groups:
        seen[group.stage] += 1
        number = f".{seen[group.stage]}" if total[group.stage] > 1 else ""
        names[group] = f"{experiment}.{group.stage}{number}"
    return names


def _estimate(steps: Sequence[Step], jobs: Sequence[JobGroup], shown: Sequence[Step]) -> Estimate:
    cpu_hours = sum(len(j.tasks) * j.resources.cpus * j.processes * j.resources.minutes for j in jobs) / 60
    gpu_hours = sum(len(j.tasks) * j.resources.gpus * j.resources.minutes for j in jobs) / 60
    begins = {task[0] for job in jobs for task in job.tasks}  # a task has one time limit for all its nodes
    finish: list[int] = []
    for index, step in enumerate(steps):
        own = step.node.resources.minutes if index in begins else 0
        finish.append(own + max((finish[i] for i in step.needs), default=0))
    count = {action: sum(s.action == action for s in shown) for action in ("run", "reuse", "wait", "blocked")}
    return Estimate(
        nodes=len(shown),
        run=count["run"],
        reuse=count["reuse"],
        wait=count["wait"],
        blocked=count["blocked"],
        cpu_hours_at_most=round(cpu_hours, 2),
        gpu_hours_at_most=round(gpu_hours, 2),
        critical_path_minutes_at_most=max(finish, default=0),
    )


def make_plan(
    program: Program,
    state: State,
    *,
    on_slurm: bool = False,
    max_array: int | None = None,
    selected: frozenset[int] | None = None,
) -> Plan:
    """Decide for every node, and group those to run into jobs.

    `on_slurm`: nodes that read what a process outside Slurm is making are blocked. `selected`: the
    nodes that it is about; nothing else is run, and equal work is selected together.
    """
    if selected is not None:
        chosen = {program.identities[i].key for i in selected}
        selected = frozenset(i for i, key in enumerate(program.keys) if key in chosen)
    steps = _steps(program, state, selected, on_slurm=on_slurm)
    groups = _groups(program, steps, state, max_array or max(1, len(steps)))
    shown = steps if selected is None else [steps[i] for i in sorted(selected)]
    return Plan(program, tuple(steps), tuple(groups), _estimate(steps, groups, shown), selected)
