"""Graph and state of the store -> what to do: an action and a reason for each node, and the jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from compiler.graph import Node
from compiler.program import Program
from runtime.stage import Resources

Action = Literal["run", "reuse", "wait", "blocked", "skip"]  # skip: not selected, and not to be had


@dataclass(frozen=True, slots=True)
class State:
    """What is known of recipe keys before planning."""

    sealed: frozenset[str] = frozenset()
    # key -> why its last try failed
    failed: Mapping[str, str] = field(default_factory=dict[str, str])
    # key -> who is at work on it or has it queued; `waiting_for` gives the Slurm job, where it is one
    busy: Mapping[str, str] = field(default_factory=dict[str, str])
    slurm_jobs: Mapping[str, str] = field(default_factory=dict[str, str])


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
    """Nodes submitted together: one sbatch call, an array where there are several.

    `after` names groups of this plan, `after_slurm` jobs that are queued already.
    """

    name: str
    steps: tuple[int, ...]
    resources: Resources
    processes: int
    after: tuple[str, ...]
    after_slurm: tuple[str, ...]

    @property
    def array(self) -> bool:
        return len(self.steps) > 1


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


def _group_key(step: Step) -> tuple[str, Resources, int]:
    return step.node.stage, step.node.resources, processes(step.node)


def _groups(program: Program, steps: Sequence[Step], state: State, max_array: int) -> list[JobGroup]:
    """Nodes to run, by stage and resources, in graph order; at most `max_array` in one group."""
    members: dict[tuple[str, Resources, int, int], list[int]] = {}
    counts: dict[tuple[str, Resources, int], int] = {}
    owner: dict[str, tuple[str, Resources, int, int]] = {}
    for index, step in enumerate(steps):
        if step.action != "run" or step.key in owner:
            continue
        kind = _group_key(step)
        group = (*kind, counts.get(kind, 0) // max_array)
        counts[kind] = counts.get(kind, 0) + 1
        members.setdefault(group, []).append(index)
        owner[step.key] = group
    names = _names(program.spec.experiment, list(members))
    groups: list[JobGroup] = []
    for group, indices in members.items():
        needed = [steps[n] for i in indices for n in steps[i].needs]
        after = dict.fromkeys(
            names[owner[s.key]] for s in needed if s.action == "run" and owner[s.key] != group
        )
        queued = dict.fromkeys(state.slurm_jobs[s.key] for s in needed if s.key in state.slurm_jobs)
        groups.append(JobGroup(names[group], tuple(indices), group[1], group[2], tuple(after), tuple(queued)))
    return groups


def _names(
    experiment: str, groups: Sequence[tuple[str, Resources, int, int]]
) -> dict[tuple[str, Resources, int, int], str]:
    """Job names: experiment and stage, numbered where a stage needs several jobs."""
    total: dict[str, int] = {}
    for group in groups:
        total[group[0]] = total.get(group[0], 0) + 1
    seen: dict[str, int] = {}
    names: dict[tuple[str, Resources, int, int], str] = {}
    for group in groups:
        stage = group[0]
        seen[stage] = seen.get(stage, 0) + 1
        names[group] = f"{experiment}.{stage}" + (f".{seen[stage]}" if total[stage] > 1 else "")
    return names


def _estimate(steps: Sequence[Step], shown: Sequence[Step]) -> Estimate:
    unique = {s.key: s for s in steps if s.action == "run"}.values()
    hours = {"cpu": 0.0, "gpu": 0.0}
    for step in unique:
        asked = step.node.resources
        hours["cpu"] += asked.cpus * processes(step.node) * asked.minutes / 60
        hours["gpu"] += asked.gpus * asked.minutes / 60
    finish: list[int] = []
    for step in steps:
        own = step.node.resources.minutes if step.action == "run" else 0
        finish.append(own + max((finish[i] for i in step.needs), default=0))
    count = {action: sum(s.action == action for s in shown) for action in ("run", "reuse", "wait", "blocked")}
    return Estimate(
        nodes=len(shown),
        run=count["run"],
        reuse=count["reuse"],
        wait=count["wait"],
        blocked=count["blocked"],
        cpu_hours_at_most=round(hours["cpu"], 2),
        gpu_hours_at_most=round(hours["gpu"], 2),
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
        chosen = {program.keys[i] for i in selected}
        selected = frozenset(i for i, key in enumerate(program.keys) if key in chosen)
    steps = _steps(program, state, selected, on_slurm=on_slurm)
    groups = _groups(program, steps, state, max_array or max(1, len(steps)))
    shown = steps if selected is None else [steps[i] for i in sorted(selected)]
    return Plan(program, tuple(steps), tuple(groups), _estimate(steps, shown), selected)
