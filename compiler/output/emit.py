"""Plan -> text, JSON, DOT, Mermaid, sbatch: pure functions from a plan to a string."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

from compiler.graph import Node, axis_name, is_local
from compiler.planning import beside
from compiler.planning.causes import Effect
from compiler.planning.plan import Plan, Step, processes
from compiler.site.profile import Profile
from runtime.plural import counted
from runtime.store import Store

SCHEMA = "alignc.plan/1"
SIGNS = {"run": "+", "rerun": "~", "reuse": "=", "wait": ">", "blocked": "x"}


def plan_json(plan: Plan) -> dict[str, Any]:
    """The stable interface; its JSON schema is docs/plan.schema.json."""
    steps = plan.steps

    def names(row: Sequence[int]) -> list[str]:
        return [steps[i].node.id for i in row]

    return {
        "schema": SCHEMA,
        "experiment": plan.program.spec.experiment,
        "nodes": [
            {
                "id": s.node.id,
                "stage": s.node.stage,
                "kind": s.node.kind.name,
                "axes": s.node.shown_axes(),
                "key": s.key,
                "action": s.action,
                "why": s.why,
                "needs": [steps[i].node.id for i in s.needs],
                "resources": {**s.node.resources.model_dump(mode="json"), "processes": processes(s.node)},
            }
            for s in plan.shown()
        ],
        "jobs": [
            {
                "name": j.name,
                "nodes": names(j.steps),
                "tasks": [names(task) for task in j.tasks],
                "array": j.array,
                "after": list(j.after),
                "elementwise": list(j.elementwise),
                "after_slurm": list(j.after_slurm),
                **({"arms": [[names(arm) for arm in task] for task in j.arms]} if j.arms else {}),
            }
            for j in plan.jobs
        ],
        "changes": [
            {
                "what": e.change.text,
                "place": e.change.place and f"{e.change.place.file}:{e.change.place.line}",
                "nodes": list(e.own),
                "after": list(e.after),
            }
            for e in plan.effects
        ],
        "estimate": asdict(plan.estimate),
    }


def to_json(plan: Plan) -> str:
    return json.dumps(plan_json(plan), indent=2, ensure_ascii=False)


# ---------------------------------------------------------------- folded by stage


def by_stage(plan: Plan) -> dict[str, list[Step]]:
    """Steps of each stage that the plan is about, in graph order."""
    stages: dict[str, list[Step]] = {}
    for step in plan.shown():
        stages.setdefault(step.node.stage, []).append(step)
    return stages


def needed_stages(plan: Plan, steps: Sequence[Step], shown: Mapping[str, Any]) -> dict[str, None]:
    """The other stages, of those shown, that these steps of a stage need."""
    needed = dict.fromkeys(plan.steps[i].node.stage for s in steps for i in s.needs)
    return {stage: None for stage in needed if stage in shown and stage != steps[0].node.stage}


def matrix(nodes: Sequence[Node]) -> str:
    """`[seed=2, learning_rate=3]`: how many values each axis of a stage has."""
    counts: dict[str, set[Any]] = {}
    for node in nodes:
        for axis, value in node.axes.items():
            counts.setdefault(axis, set()).add(value)
    inside = ", ".join(f"{axis_name(a)}={len(v)}" for a, v in counts.items() if len(v) > 1 or is_local(a))
    return f"[{inside}]" if inside else ""


def _title(stage: str, steps: Sequence[Step]) -> str:
    return f"{stage} {matrix([s.node for s in steps])}".rstrip()


def reasons(steps: list[Step]) -> str:
    """The reason that most of these steps share, and how many have another."""
    counts: Counter[str] = Counter()
    for told, number in Counter(step.why for step in steps).items():
        why = re.sub(r"\[[^\]]*=[^\]]*\]", "", told)  # the stage is enough where many nodes are one line
        counts[why] += number
    most = max(counts, key=lambda why: counts[why])
    others = len(counts) - 1
    return most + (f" (and {counted(others, 'other reason')})" if others else "")


def to_text(
    plan: Plan, *, every_node: bool = False, gpu_hours: Mapping[str, float] = MappingProxyType({})
) -> str:
    """The plan for a reader: a line for each stage and action (or each node), then the jobs and the sum.

    gpu_hours: what nodes are likely to take, by id.
    """
    selected = "" if plan.selected is None else f" of {len(plan.steps)} selected"
    lines = [f"{plan.program.spec.experiment}: {counted(plan.estimate.nodes, 'node')}{selected}", ""]
    rows: list[tuple[str, str, str, str]] = []
    for stage, steps in by_stage(plan).items():
        for action, sign in SIGNS.items():
            some = [s for s in steps if s.action == action]
            if every_node:
                rows += [(sign, s.node.id, s.key[:12], s.why) for s in some]
            elif some:
                what = f"{some[0].node.kind.name}, {counted(len(some), 'node')}"
                rows.append((sign, _title(stage, some), what, reasons(some)))
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(4)]
    lines += [f"  {r[0]} {r[1]:<{widths[1]}}  {r[2]:<{widths[2]}}  {r[3]}" for r in rows]
    if plan.effects:
        lines += ["", "changed since the last run:", *(f"  {_effect(e, gpu_hours)}" for e in plan.effects)]
    return "\n".join([*lines, "", *totals(plan)])


def _effect(effect: Effect, gpu_hours: Mapping[str, float]) -> str:
    """A change with all that runs again for it."""
    hours = sum(gpu_hours.get(id_, 0.0) for id_ in (*effect.own, *effect.after))
    return f"{effect}, {hours:.3g} GPU-h" if hours else str(effect)


def totals(plan: Plan) -> list[str]:
    e = plan.estimate
    acts = [f"{e.run - e.rerun} to run (+)"] + ([f"{e.rerun} to run again (~)"] if e.rerun else [])
    acts += [f"{e.reuse} reused (=)", f"{e.wait} queued or running (>)"]
    acts += [f"{e.blocked} blocked (x)"] if e.blocked else []
    lines = [", ".join(acts) + f"; {counted(len(plan.jobs), 'sbatch call')} on Slurm"]
    lines += _shared(plan)
    places: Counter[str] = Counter()
    for job in plan.jobs:
        if job.resources.partition:
            places[job.resources.partition] += job.size
    if places:
        told = (f"{name} ({counted(tasks, 'task')})" for name, tasks in places.items())
        lines.append(f"partitions: {', '.join(told)}")
    lines += beside.in_words(plan)
    if e.run:
        gpu = f", {e.gpu_hours_at_most:g} GPU-hours" if e.gpu_hours_at_most else ""
        lines.append(
            f"time limits add up to {e.cpu_hours_at_most:g} CPU-hours{gpu} at most; "
            f"the longest chain to {e.critical_path_minutes_at_most / 60:.1f} h"
        )
    return lines


def _shared(plan: Plan) -> list[str]:
    """How much of the work is distinct, where nodes of several stages do the same."""
    nodes = Counter(step.node.kind.name for step in plan.shown())
    distinct = Counter(kind for _, kind in {(step.key, step.node.kind.name) for step in plan.shown()})
    if nodes == distinct:
        return []
    told = ", ".join(f"{kind} {distinct[kind]} of {number}" for kind, number in nodes.items())
    return [f"distinct work: {distinct.total():,} of {counted(nodes.total(), 'node')} ({told})"]


# ---------------------------------------------------------------- drawings


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def to_dot(plan: Plan) -> str:
    """The graph of stages for Graphviz: one box a stage, with its matrix."""
    lines = ["digraph alignc {", "  rankdir=LR; node [shape=box, fontname=sans-serif];"]
    stages = by_stage(plan)
    for stage, steps in stages.items():
        label = f"{_title(stage, steps)}\n{steps[0].node.kind.name}, {len(steps)}"
        style = ', style="filled", fillcolor="#d9ead3"' if all(s.action == "reuse" for s in steps) else ""
        lines.append(f"  {_quoted(stage)} [label={_quoted(label)}{style}];".replace("\n", "\\n"))
    for stage, steps in stages.items():
        lines += [f"  {_quoted(need)} -> {_quoted(stage)};" for need in needed_stages(plan, steps, stages)]
    return "\n".join([*lines, "}"])


def to_mermaid(plan: Plan) -> str:
    """The graph of stages for Mermaid (Markdown viewers draw it)."""
    stages = by_stage(plan)
    names = {stage: f"s{i}" for i, stage in enumerate(stages)}
    lines = ["flowchart LR"]
    for stage, steps in stages.items():
        text = f"{_title(stage, steps)}<br/>{steps[0].node.kind.name}, {len(steps)}".replace('"', "#quot;")
        lines.append(f'  {names[stage]}["{text}"]')
    for stage, steps in stages.items():
        lines += [f"  {names[need]} --> {names[stage]}" for need in needed_stages(plan, steps, stages)]
    return "\n".join(lines)


def to_sbatch(plan: Plan, profile: Profile, store: Store) -> str:
    """Every script that `submit` would submit, each under its command line and its tasks."""
    from compiler.slurm.script import preview  # which few plans need, and takes a while to import

    parts: list[str] = []
    for script, call in preview(plan, profile, store):
        rows = script.job.arms or tuple((row,) for row in script.job.tasks)
        tasks = [
            f"#   {n}: {' | '.join(', '.join(plan.steps[i].node.id for i in arm) for arm in task)}"
            for n, task in enumerate(rows)
            if any(task)
        ]
        parts.append("\n".join([f"# $ {call}", "# tasks:", *tasks, script.text]))
    return "\n".join(parts) if parts else "# nothing to submit"


DRAWINGS: Mapping[str, Any] = {"text": to_text, "json": to_json, "dot": to_dot, "mermaid": to_mermaid}
