"""Graph and state of the store -> what to do: an action and a reason for each node, and the jobs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from compiler.graph import Node
from compiler.planning.answers import NO_ANSWERS, Answers
from compiler.planning.causes import Cause, Effect, causes, effects
from compiler.planning.identify import Chosen, Identity, nothing_chosen
from compiler.planning.memory import Past
from compiler.program import Program
from runtime.fields import takes_many
from runtime.stage import Resources

if TYPE_CHECKING:
    from runtime.slurm.policy import Again

# run: for the first time; rerun: made before under this name, of another recipe; reuse: sealed; wait:
# queued or being made; blocked: needs what a process outside Slurm is making, or failed too often; skip:
# not selected
Action = Literal["run", "rerun", "reuse", "wait", "blocked", "skip"]
MADE = ("run", "rerun")


@dataclass(frozen=True, slots=True)
class State:
    """What is known of a program's keys before planning."""

    sealed: frozenset[str] = frozenset()
    # key -> why its last try failed
    failed: Mapping[str, str] = field(default_factory=dict[str, str])
    # key -> what ended its last try, where it did not fail but was asked to stop
    stopped: Mapping[str, str] = field(default_factory=dict[str, str])
    # key -> who is at work on it or has it queued; `waiting_for` gives the Slurm job, where it is one
    busy: Mapping[str, str] = field(default_factory=dict[str, str])
    slurm_jobs: Mapping[str, str] = field(default_factory=dict[str, str])
    # trajectory -> how far its kept state has gone, in units of its kind's prefix field
    reached: Mapping[str, float] = field(default_factory=dict[str, float])
    # keys of jobs that were sealed under another one, since a choice had been made meanwhile
    realised: frozenset[str] = frozenset()
    answers: Answers = NO_ANSWERS  # of the profile's policy to failures


@dataclass(frozen=True, slots=True)
class Step:
    """What happens to one node, and why."""

    node: Node
    key: str
    action: Action
    why: str
    needs: tuple[int, ...]
    after_choice: str = ""  # the stage of a choice that, if it falls as before, makes this node reused


@dataclass(frozen=True, slots=True)
class JobGroup:
    """Nodes submitted together: one sbatch call, an array where there are several tasks.

    A task carries out its nodes one after the other: the legs of one run; an array may have no task of
    some index. `after` names groups of this plan, `after_slurm` jobs that are queued already. Of the groups
    `elementwise`, each task needs but the one of its own index. `arms`: the rows of nodes that each task
    carries out side by side, where it does (`compiler/planning/beside.py`); `resources` are those of one.
    """

    name: str
    tasks: tuple[tuple[int, ...], ...]
    resources: Resources
    processes: int
    after: tuple[str, ...]
    after_slurm: tuple[str, ...]
    elementwise: tuple[str, ...] = ()  # some of `after`
    arms: tuple[tuple[tuple[int, ...], ...], ...] = ()
    whole: tuple[int, int] | None = None  # CPUs and GPUs of a task's nodes, where whole nodes are paid for

    @property
    def size(self) -> int:
        """How many tasks it has."""
        return sum(map(bool, self.tasks))

    @property
    def width(self) -> int:
        """How many arms are side by side in a task, at most."""
        return max(map(len, self.arms), default=1)

    @property
    def paid(self) -> tuple[int, int]:
        """CPUs and GPUs that each task pays for."""
        return self.whole or (self.resources.cpus * self.processes, self.resources.gpus)

    @property
    def hours(self) -> tuple[float, float]:
        """CPU-hours and GPU-hours that the time limits of all tasks allow."""
        cpus, gpus = self.paid
        return self.size * cpus * self.resources.minutes / 60, self.size * gpus * self.resources.minutes / 60

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
    rerun: int  # of `run`, those that were made before of another recipe
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
    effects: tuple[Effect, ...] = ()  # what was changed since the last run, and what runs again for it
    again: Mapping[str, Again] = field(default_factory=dict)  # key -> what another try has
    estimated: Mapping[str, Mapping[str, Any]] = field(
        default_factory=dict
    )  # key -> what it is likely to cost

    def shown(self) -> list[Step]:
        """The steps that the plan is about."""
        chosen = range(len(self.steps)) if self.selected is None else sorted(self.selected)
        return [self.steps[i] for i in chosen]

    def to_run(self) -> list[int]:
        """Indices of the nodes to run, each key once."""
        return [i for job in self.jobs for i in job.steps]


def processes(node: Node) -> int:
    """Processes of a node's job: those of a training run that is spread over several."""
    parallel = vars(node.config).get("parallel")  # getattr is slow where a model lacks the field
    return int(getattr(parallel, "processes", 1))


def _steps(
    program: Program,
    state: State,
    selected: frozenset[int] | None,
    moved: Mapping[str, Cause],
    fresh: frozenset[str],
    *,
    on_slurm: bool,
) -> list[Step]:
    steps: list[Step] = []
    first: dict[str, str] = {}
    for node, identity in zip(program.graph.nodes, program.identities, strict=True):
        key, follows = identity.key, node.follows
        # What goes on from a run that nobody wants now starts from the beginning, or where that got to.
        left_out = follows is not None and steps[follows].action == "skip"
        needs = tuple(node.reads if left_out else node.needs)
        needed = [steps[i] for i in needs]
        action, why = _decide(node, identity, needed, state)
        if selected is not None:
            chosen = node.stage if len(steps) in selected else None
            action, why = _select(chosen, action, why, needed, on_slurm)
        if action == "run" and (on_slurm or state.answers.held):
            action, why = _unsubmittable(needed, state, on_slurm) or (action, why)
        if action == "run" and key in first:
            why = f"the same work as {first[key]}, done once"
        spared = ""
        if action == "run" and node.id in moved and key not in first:
            spared = _spared(moved[node.id], needed, fresh)
            action, why = "rerun", _because(moved[node.id], spared)
        first.setdefault(key, node.id)
        steps.append(Step(node, key, action, why, needs, spared))
    return steps


def _decide(node: Node, identity: Identity, needs: Sequence[Step], state: State) -> tuple[Action, str]:
    key = identity.key
    if key in state.sealed:
        return "reuse", "sealed in the store"
    if key in state.busy:
        return "wait", state.busy[key]
    if key in state.answers.held:
        return "blocked", state.answers.held[key]
    if key in state.answers.why:
        return "run", state.answers.why[key]
    if key in state.failed:
        return "run", f"its last try failed: {state.failed[key]}"
    fresh = [s.node.id for s in needs if s.action != "reuse"]
    if fresh:
        more = f" and {len(fresh) - 1} more" if len(fresh) > 1 else ""
        return "run", f"needs {fresh[0]}{more}, not made yet"
    why = state.stopped.get(key, "not made yet")
    reached = state.reached.get(identity.trajectory, 0.0) if state.reached else 0.0
    if 0 < reached <= getattr(node.config, node.kind.prefix, 0):
        why += f"; goes on from {node.kind.prefix.removesuffix('s')} {reached:g}"
    return "run", why


def _moved(program: Program, past: Past, state: State) -> dict[str, Cause]:
    """Nodes that were made before under another key, and why it is another."""
    made = state.sealed | state.realised
    found = causes(past, program.symbolic())
    return {id_: c for id_, c in found.items() if made & {past[c.was]["key"], past[c.was].get("real")}}


def _fresh_choices(program: Program, past: Past, moved: Mapping[str, Cause], fell: Chosen) -> frozenset[str]:
    """Choices that cannot fall as before: what they fell on is no candidate now, or none is as it was."""
    found: set[str] = set()
    for node, identity in zip(program.graph.nodes, program.identities, strict=True):
        if node.id in moved and node.is_choice:
            fields = node.kind.config.model_fields.items()
            name = next(name for name, info in fields if takes_many(info))
            was = past[moved[node.id].was]
            chosen = fell(node.kind.name, was.get("real", was["key"]))
            now = [*identity.recipe["inputs"][name], *identity.symbolic().recipe["inputs"][name]]
            before = was["recipe"]["inputs"].get(name, ())
            if not any(one[0] == chosen[0] if chosen else one in before for one in now):
                found.add(node.id)
    return frozenset(found)


def _because(cause: Cause, spared: str) -> str:
    first, *others = cause.changes
    more = f" and {len(others)} more" if others else ""
    return (f"unless {spared} falls as before: " if spared else "") + f"{first}{more}"


def _spared(cause: Cause, needs: Sequence[Step], fresh: frozenset[str]) -> str:
    """The stage of the choice that may spare a node from running again; empty where none can.

    A choice that falls as before spares whatever changed by nothing else; those of `fresh` cannot.
    """
    stages = {
        step.node.stage if step.node.is_choice and step.node.id not in fresh else step.after_choice
        for step in needs
        if step.action in (*MADE, "wait")
    }
    return " and ".join(sorted(stages)) if stages and all(stages) and not cause.own else ""


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


def _unsubmittable(needs: Sequence[Step], state: State, on_slurm: bool) -> tuple[Action, str] | None:
    """Nothing comes after what is held back, and Slurm cannot wait for a process that it did not start."""
    for step in needs:
        if step.action == "blocked":
            return "blocked", f"needs {step.node.id}, which is blocked"
        if on_slurm and step.action == "wait" and step.key not in state.slurm_jobs:
            return "blocked", f"needs {step.node.id}, {step.why}: submit again when that is done"
    return None


# Where a group stands: generation, rank of its stage, segment, and the last segment (rank of its stage,
# number) that it waits for. Nodes that go on from runs of later stages are of a later generation.
_Order = tuple[int, int, int, tuple[int, int]]


@dataclass(slots=True, eq=False)
class _Group:
    """A group while it is filled. Each comes after all groups that its nodes need."""

    stage: str
    resources: Resources
    processes: int
    order: _Order
    tasks: list[list[int]] = field(default_factory=list[list[int]])


def _groups(program: Program, steps: Sequence[Step], state: State, max_array: int) -> list[JobGroup]:
    """Nodes to run, by stage and resources; at most `max_array` tasks in one group."""
    if not any(step.action in MADE for step in steps):
        return []
    groups, owner = _members(program, steps, state, max_array)
    names = _names(program.spec.experiment, groups)
    made: list[JobGroup] = []
    for group in groups:
        needs = [[steps[n] for i in task for n in steps[i].needs] for task in group.tasks]
        queued = dict.fromkeys(
            state.slurm_jobs[s.key] for needed in needs for s in needed if s.key in state.slurm_jobs
        )
        ahead = [_tasks_ahead(group, needed, owner) for needed in needs]
        after = dict.fromkeys(other for tasks in ahead for other in tasks)
        alike = _align(group, list(after), ahead)
        made.append(
            JobGroup(
                names[group],
                tuple(map(tuple, group.tasks)),
                group.resources,
                group.processes,
                tuple(names[other] for other in after),
                tuple(queued),
                tuple(names[other] for other in alike),
            )
        )
    return made


_Owner = Mapping[str, tuple["_Group", list[int]]]  # key -> the group and the task that make it


def _tasks_ahead(group: _Group, needs: Sequence[Step], owner: _Owner) -> dict[_Group, list[list[int]]]:
    """The tasks of other groups that a task needs."""
    found: dict[_Group, list[list[int]]] = {}
    for step in needs:
        if step.action in MADE:
            other, task = owner[step.key]
            if other is not group and task not in found.setdefault(other, []):
                found[other].append(task)
    return found


def _align(
    group: _Group, after: Sequence[_Group], ahead: Sequence[Mapping[_Group, list[list[int]]]]
) -> list[_Group]:
    """Give each task the index of the one that it needs; returns the groups of which it needs but that.

    The group that comes last decides where several could. Without any, tasks stay in a row.
    """
    if len(group.tasks) == 1:
        return []
    alike: list[_Group] = []
    indices: list[int] = []
    for other in reversed(after):
        if any(len(tasks.get(other, ())) != 1 for tasks in ahead):
            continue
        position = {id(task): index for index, task in enumerate(other.tasks)}
        theirs = [position[id(tasks[other][0])] for tasks in ahead]
        if len(set(theirs)) == len(theirs) and theirs == (indices or theirs):
            indices = theirs
            alike.append(other)
    if alike:
        tasks: list[list[int]] = [[] for _ in range(max(indices) + 1)]
        for index, task in zip(indices, group.tasks, strict=True):
            tasks[index] = task
        group.tasks = tasks
    return alike


def _members(
    program: Program, steps: Sequence[Step], state: State, max_array: int
) -> tuple[list[_Group], dict[str, tuple[_Group, list[int]]]]:
    """The groups in order of submission, and the group and task of each key."""
    rank = {stage: number for number, stage in enumerate(program.graph.by_stage)}
    groups: list[_Group] = []
    open_groups: dict[tuple[object, ...], _Group] = {}
    owner: dict[str, tuple[_Group, list[int]]] = {}
    orders: list[_Order | None] = []  # of each step's group
    for index, step in enumerate(steps):
        known = owner.get(step.key)
        if step.action not in MADE or known is not None:
            orders.append(known and known[0].order)
            continue
        node, asked = step.node, _asked(step.node)
        reads = [o for n in step.needs if (o := orders[n]) is not None and n != node.follows]
        order = _order(rank[node.stage], node.segment, reads)
        before = None if node.follows is None else owner.get(steps[node.follows].key)
        if before is not None:
            ahead, task = before
            same = ahead.order[1:] == order[1:] and _asked(steps[task[0]].node) == asked
            if same and ahead.order >= order:
                task.append(index)
                owner[step.key] = before
                orders.append(ahead.order)
                continue
            order = _order(rank[node.stage], node.segment, reads, ahead.order)
        # What waits for nothing must not wait with others.
        waits = bool(reads or before) or any(steps[n].key in state.slurm_jobs for n in step.needs)
        group = open_groups.get((order, asked, waits))
        if group is None or len(group.tasks) == max_array:
            group = _Group(node.stage, node.resources, processes(node), order)
            open_groups[order, asked, waits] = group
            groups.append(group)
        task = [index]
        group.tasks.append(task)
        owner[step.key] = (group, task)
        orders.append(order)
    return sorted(groups, key=lambda g: g.order), owner


def _asked(node: Node) -> tuple[object, ...]:
    """What a node asks of the scheduler, cheaply compared."""
    r = node.resources
    return r.cpus, r.gpus, r.memory_gb, r.minutes, r.nodes, r.partition, processes(node)


def _order(rank: int, segment: int, reads: Sequence[_Order], *ahead: _Order) -> _Order:
    """The place of a node behind all groups that it reads, and that of the run that it goes on from."""
    waits = max(((o[1], o[2]) if o[2] else o[3] for o in reads), default=(0, 0))
    place = (rank, segment, waits)
    return (max((o[0] + (o[1:] >= place) for o in (*reads, *ahead)), default=0), *place)


def _names(experiment: str, groups: Sequence[_Group]) -> dict[_Group, str]:
    """Job names: experiment and stage, numbered where a stage needs several jobs."""
    total = Counter(group.stage for group in groups)
    seen: Counter[str] = Counter()
    names: dict[_Group, str] = {}
    for group in groups:
        seen[group.stage] += 1
        number = f".{seen[group.stage]}" if total[group.stage] > 1 else ""
        names[group] = f"{experiment}.{group.stage}{number}"
    return names


def _estimate(steps: Sequence[Step], shown: Sequence[Step], jobs: Sequence[JobGroup]) -> Estimate:
    cpu_hours, gpu_hours = hours_at_most(jobs)
    # A task has one time limit for all its nodes.
    begins = {task[0] for job in jobs for task in job.tasks if task}
    finish: list[int] = []
    for index, step in enumerate(steps if jobs else ()):
        own = step.node.resources.minutes if index in begins else 0
        finish.append(own + max((finish[i] for i in step.needs), default=0))
    count = Counter(s.action for s in shown)
    return Estimate(
        nodes=len(shown),
        run=count["run"] + count["rerun"],
        rerun=count["rerun"],
        reuse=count["reuse"],
        wait=count["wait"],
        blocked=count["blocked"],
        cpu_hours_at_most=cpu_hours,
        gpu_hours_at_most=gpu_hours,
        critical_path_minutes_at_most=max(finish, default=0),
    )


def hours_at_most(jobs: Sequence[JobGroup]) -> tuple[float, float]:
    """CPU-hours and GPU-hours that time limits allow, in all."""
    hours = [job.hours for job in jobs]
    return round(sum(cpu for cpu, _ in hours), 2), round(sum(gpu for _, gpu in hours), 2)


def make_plan(
    program: Program,
    state: State,
    *,
    on_slurm: bool = False,
    max_array: int | None = None,
    selected: frozenset[int] | None = None,
    past: Past | None = None,
    fell: Chosen = nothing_chosen,
) -> Plan:
    """Decide for every node, and group those to run into jobs.

    `on_slurm`: nodes that read what a process outside Slurm is making are blocked. `selected`: the
    nodes that it is about; nothing else is run, and equal work is selected together. `past`: the
    experiment as it was when it last ran, to say what changed; `fell`: what its choices fell on.
    """
    if selected is not None:
        chosen = {program.identities[i].key for i in selected}
        selected = frozenset(i for i, key in enumerate(program.keys) if key in chosen)
    moved = _moved(program, past, state) if past else {}
    fresh = _fresh_choices(program, past, moved, fell) if past and moved else frozenset[str]()
    steps = _steps(program, state, selected, moved, fresh, on_slurm=on_slurm)
    groups = _groups(program, steps, state, max_array or max(1, len(steps)))
    shown = steps if selected is None else [steps[i] for i in sorted(selected)]
    again = {s.node.id: moved[s.node.id] for s in shown if s.action == "rerun"}
    estimate = _estimate(steps, shown, groups)
    return Plan(
        program,
        tuple(steps),
        tuple(groups),
        estimate,
        selected,
        tuple(effects(again)),
        state.answers.again,
    )
