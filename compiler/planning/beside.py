"""Plan and cluster profile -> the plan with the tasks of an array side by side on whole nodes.

Where a partition gives whole nodes, a task that uses one of eight GPUs pays for eight. So as many tasks of
an array as fit on one node become the arms of one task. Nothing of this is part of a key.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

from compiler.cost.amounts import Cost, Costs, Range, exactly, total
from compiler.planning.plan import JobGroup, Plan, hours_at_most
from compiler.site.profile import Partition, Profile
from runtime.plural import counted


def side_by_side(plan: Plan, profile: Profile) -> Plan:
    """The plan, its jobs packed where their partition gives whole nodes."""
    whole = {name: p for name, p in profile.partitions.items() if p.whole_nodes}
    if not whole:
        return plan
    places = (whole.get(job.resources.partition or profile.partition or "") for job in plan.jobs)
    jobs = [job if p is None else _packed(job, p) for job, p in zip(plan.jobs, places, strict=True)]
    # Task 3 of one array is no longer what task 3 of the other reads.
    packed = {job.name for job in jobs if job.arms}
    made = tuple(
        replace(job, elementwise=tuple(n for n in job.elementwise if not {n, job.name} & packed))
        for job in jobs
    )
    cpu, gpu = hours_at_most(made)
    told = replace(plan.estimate, cpu_hours_at_most=cpu, gpu_hours_at_most=gpu)
    return replace(plan, jobs=made, estimate=told)


def _packed(job: JobGroup, there: Partition) -> JobGroup:
    """A job on whole nodes, as few arms in each of as few tasks as will do."""
    nodes = job.resources.nodes
    job = replace(job, whole=((there.cpus or 0) * nodes, (there.gpus or 0) * nodes))
    rows = [task for task in job.tasks if task]
    room = _room(job, there)
    if min(room, len(rows)) == 1:
        return job
    width = -(-len(rows) // -(-len(rows) // room))
    arms = tuple(tuple(rows[i : i + width]) for i in range(0, len(rows), width))
    return replace(job, tasks=tuple(tuple(chain(*task)) for task in arms), arms=arms)


def _room(job: JobGroup, there: Partition) -> int:
    """How many tasks of a job fit on one node."""
    if job.resources.nodes > 1:
        return 1
    cpus, gpus = job.resources.cpus * job.processes, job.resources.gpus
    asked = ((there.cpus, cpus), (there.gpus, gpus), (there.memory_gb, job.resources.memory_gb))
    return max(1, min(int(has // wanted) for has, wanted in asked if has and wanted))


def in_words(plan: Plan) -> list[str]:
    """A line on what goes side by side, and on the GPUs that are paid for and idle; none without either."""
    packed = [job for job in plan.jobs if job.arms]
    arms, tasks = sum(sum(map(len, job.arms)) for job in packed), sum(job.size for job in packed)
    told = [f"{arms} arms in {counted(tasks, 'task')}, side by side"] if arms else []
    idle = sum(map(_idle_hours, plan.jobs))
    told += [f"idle GPUs are paid for, {idle:.3g} GPU-hours at most"] if idle > 1e-6 else []
    return [f"whole nodes: {'; '.join(told)}"] if told else []


def _idle_hours(job: JobGroup) -> float:
    """GPU-hours of the GPUs of whole nodes that no arm has, by the time limit."""
    runs = sum(map(len, job.arms)) if job.arms else job.size
    return job.hours[1] - runs * job.resources.gpus * job.resources.minutes / 60


# ---------------------------------------------------------------- what it costs


def paid_gpus(plan: Plan) -> dict[int, float]:
    """Index of a node -> the GPUs that it pays for, where it is on whole nodes: its share of the task's."""
    found: dict[int, float] = {}
    for job in plan.jobs:
        if job.whole:
            for task in job.arms or tuple((row,) for row in job.tasks if row):
                found.update(dict.fromkeys(chain(*task), job.whole[1] / len(task)))
    return found


def with_whole_nodes(costs: Costs, plan: Plan) -> Costs:
    """Costs with the GPUs that are paid for and idle, also until the slowest arm beside one has ended."""
    shares, found = paid_gpus(plan), dict(costs.nodes)
    for index in shares.keys() & found.keys():
        found[index] = _billed(found[index], shares[index], exactly(0))
    for task in chain(*(job.arms for job in plan.jobs)):
        took = [total(costs.nodes[i].seconds for i in arm if i in costs.nodes) for arm in task]
        for arm, own in zip(task, took, strict=True):
            if arm[-1] in found:
                last = arm[-1]
                found[last] = _billed(costs.nodes[last], shares[last], _waits(own, took))
    return Costs(found)


def _waits(own: Range, all_: list[Range]) -> Range:
    """For how long an arm's share of the node is idle, in seconds."""
    low, likely, high = (
        max(getattr(one, name) for one in all_) - getattr(own, name) for name in ("low", "likely", "high")
    )
    return Range(low, likely, high)


def _billed(cost: Cost, gpus: float, idle: Range) -> Cost:
    return cost if cost.unknown else replace(cost, gpu_hours=(cost.seconds + idle) * (gpus / 3600))
