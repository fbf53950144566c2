"""Program and cluster profile -> what each node asks for on that site, and the partition it goes to.

What a stage says itself goes before the profile's rules, and these before the kind's default. A job that
no one sends anywhere goes to the partition that has all it asks for and wastes least.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import inf
from typing import Any

from compiler.cost.models import size_of
from compiler.errors import Diagnostic, SpecError
from compiler.graph import Node
from compiler.planning.plan import Plan, processes
from compiler.program import Program
from compiler.site.profile import Partition, Profile, Rule
from runtime.declare import ModelDecl
from runtime.plural import counted
from runtime.stage import Resources

GIVEN = ("cpus", "gpus", "memory_gb", "minutes", "partition")  # by a rule
NO_RULE = Rule.model_validate({})


def placed(program: Program, profile: Profile) -> Program:
    """The program, its nodes with the resources that a profile gives them.

    Those that fit nowhere stay without a partition: `require_places` tells of the ones that are to run.
    """
    if not (profile.resources or profile.partitions):
        return program
    sizes = model_sizes(program) if profile.resources else {}
    known: dict[tuple[Any, ...], Resources] = {}
    nodes: list[Node] = []
    for index, node in enumerate(program.graph.nodes):
        like = (id(node.config.resources), node.kind.name, processes(node), sizes.get(index))
        if like not in known:
            known[like] = resources_of(node, sizes.get(index), profile)
        nodes.append(replace(node, given=known[like]))
    return replace(program, graph=replace(program.graph, nodes=tuple(nodes)))


def resources_of(node: Node, size: float | None, profile: Profile) -> Resources:
    """What a node asks for on a site; `size`: parameters of its model, where they are known."""
    own = node.config.resources
    base = own or node.kind.resources
    rule = rule_for(node.kind.name, size, profile)
    written = own.model_fields_set if own else frozenset[str]()
    told = {name: getattr(rule, name) for name in GIVEN if name not in written}
    asked = base.model_copy(update={name: value for name, value in told.items() if value is not None})
    if asked.partition is None and profile.partition is None and profile.partitions:
        name = best_fit(asked, processes(node), profile, rule.gpu_memory_gb)
        asked = asked.model_copy(update={"partition": name})
    return asked


# ---------------------------------------------------------------- rules


def rule_for(kind: str, size: float | None, profile: Profile) -> Rule:
    """The tightest rule for a kind and a model's size; the empty one where none says anything.

    One that names the kind goes before one that names none, then the smaller size, then the earlier.
    """
    found = [
        rule
        for rule in profile.resources
        if rule.kind in (None, kind)
        and (rule.up_to_parameters is None or (size is not None and size <= rule.up_to_parameters))
    ]
    return min(found, key=lambda r: (r.kind is None, r.up_to_parameters or inf), default=NO_RULE)


def _too_large(node: Node, size: float | None, profile: Profile) -> str:
    """Why no rule speaks of a node though some do of its kind; empty where one does, or none has to."""
    own = node.config.resources
    limits = [r.up_to_parameters for r in profile.resources if r.kind == node.kind.name]
    if not limits or None in limits or any(r.kind is None for r in profile.resources) or own is not None:
        return ""
    most = max(limit for limit in limits if limit is not None)
    if size is not None and size <= most:
        return ""
    told = f"its model has {size:.3g}" if size is not None else "nobody knows the size of its model"
    return f"the profile's resources for {node.kind.name} end at {most:.3g} parameters, and {told}"


def model_sizes(program: Program) -> dict[int, float]:
    """Index of a node -> parameters of the model that it trains, asks or samples from, where known."""
    declared = {name: _declared(d.section, d.value) for name, d in program.spec.declarations.items()}
    found: dict[int, float] = {}
    for index, node in enumerate(program.graph.nodes):
        read = [bindings[0] for bindings in node.inputs.values() if bindings]
        sizes = [
            declared[b.name] if b.node is None else found.get(b.node, 0.0)
            for b in read
            if b.node is None or b.port.type in ("Model", "RewardModel")
        ]
        if any(sizes):
            found[index] = max(sizes)
    return found


def _declared(section: str, value: Any) -> float:
    """Parameters of a declared model, or of an llm that runs in its job; 0: neither, or not known."""
    model = getattr(value, "model", None) if section == "llms" else value
    size = size_of(model) if isinstance(model, ModelDecl) else None
    return size.total if size is not None else 0.0


# ---------------------------------------------------------------- partitions


def best_fit(
    asked: Resources, count: int, profile: Profile, gpu_memory_gb: float | None = None
) -> str | None:
    """The partition that has what `count` processes ask for and wastes least; None where none has.

    Least: no GPUs for work without, then the smallest GPU, the shortest limit, the fewest GPUs, CPUs and
    memory of a node; at last the first in the profile. What a partition does not say counts as large.
    """
    fits = [
        (name, partition)
        for name, partition in profile.partitions.items()
        if not lacks(asked, count, partition, gpu_memory_gb)
    ]

    def waste(p: Partition) -> tuple[float, ...]:
        gpu = (p.gpu_memory_gb or inf) if p.has_gpus else 0
        return gpu, p.max_minutes or inf, p.gpus or 0, p.cpus or inf, p.memory_gb or inf

    return min(fits, key=lambda pair: waste(pair[1]), default=(None, None))[0]


def lacks(asked: Resources, count: int, p: Partition, gpu_memory_gb: float | None = None) -> list[str]:
    """What a partition has too little of for a job of `count` processes, in words."""
    has = [
        ("nodes", asked.nodes, p.nodes),
        ("CPUs", asked.cpus * count // asked.nodes, p.cpus),
        ("GiB of memory", asked.memory_gb, p.memory_gb),
        ("minutes", asked.minutes, p.max_minutes),
        ("GPUs", asked.gpus // asked.nodes, p.gpus if p.gpus is not None or p.has_gpus else 0),
        ("GiB of GPU memory", gpu_memory_gb if asked.gpus else None, p.gpu_memory_gb),
    ]
    return [
        f"{most:g} {what}" if most else f"no {what}"
        for what, wanted, most in has
        if wanted is not None and most is not None and wanted > most
    ]


def require_places(plan: Plan, profile: Profile) -> None:
    """Raise SpecError where something is to run that no partition of the profile can take."""
    if not (profile.resources or profile.partitions):
        return
    sizes = model_sizes(plan.program) if profile.resources else {}
    hint = "change the stage's `resources`, or the profile"
    alike = {(plan.steps[i].node.stage, id(plan.steps[i].node.given)): i for i in reversed(plan.to_run())}
    found: list[Diagnostic] = []
    for index in sorted(alike.values()):
        node, size = plan.steps[index].node, sizes.get(index)
        problem = _too_large(node, size, profile) or _no_place(node, size, profile)
        if problem:
            found.append(Diagnostic("AC504", f"{node.id}: {problem}", node.place, hint))
    if found:
        raise SpecError(found, plan.program.texts)


def _no_place(node: Node, size: float | None, profile: Profile) -> str:
    asked, count = node.resources, processes(node)
    if asked.gpus % asked.nodes:
        return f"the profile gives it {asked.gpus} GPUs, not evenly shared out over {asked.nodes} nodes"
    memory = rule_for(node.kind.name, size, profile).gpu_memory_gb
    named = asked.partition or profile.partition
    if named is None:
        candidates: Mapping[str, Partition] = profile.partitions
    else:  # one that the profile does not describe is Slurm's to judge
        candidates = {name: p for name, p in profile.partitions.items() if name == named}
    lacking = {name: lacks(asked, count, p, memory) for name, p in candidates.items()}
    if not lacking or not all(lacking.values()):
        return ""
    told = "; ".join(f"{name} has {', '.join(less)}" for name, less in lacking.items())
    return f"no partition has what it asks for ({in_words(asked, count, memory)}): {told}"


def in_words(asked: Resources, count: int, gpu_memory_gb: float | None = None) -> str:
    gpus = counted(asked.gpus, "GPU")
    gpus += f" of {gpu_memory_gb:g} GiB" if gpu_memory_gb else ""
    words = [f"{asked.nodes} nodes"] if asked.nodes > 1 else []
    words += [counted(asked.cpus * count, "CPU"), f"{asked.memory_gb:g} GiB"]
    return ", ".join([*words, *([gpus] if asked.gpus else []), f"{asked.minutes} minutes"])
