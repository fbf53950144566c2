"""Checks of a site, from what was found there: pure functions to findings, each with what to fix."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from compiler.cost.prices import PAID, Tables, price_of
from compiler.errors import SpecError, near
from compiler.planning.place import in_words, lacks, placed, require_places
from compiler.planning.plan import State, make_plan, processes
from compiler.program import Program
from compiler.site.facts import Site, SlurmPartition
from compiler.site.profile import Profile
from runtime.plural import counted
from runtime.provenance import code_digest

SCHEMA = "alignc.doctor/1"
OLDEST_PYTHON = (3, 11)
SKEW_S = 30.0  # between clocks: claims are given up after minutes of silence

Outcome = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Check:
    """One finding: what was looked at, and what to do where it is not well."""

    group: str
    outcome: Outcome
    text: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Needs:
    """What an experiment needs beside Python; without a spec nothing is sure, and lacks are warnings."""

    known: bool = False
    torch: bool = False
    deepspeed: bool = False
    clients: frozenset[str] = frozenset()  # packages that ask models
    keys: Mapping[str, bool] = field(default_factory=dict[str, bool])  # variable -> whether one is needed


def needs_of(program: Program | None) -> Needs:
    if program is None:
        return Needs()
    nodes = program.graph.nodes
    parallel = [vars(node.config).get("parallel") for node in nodes]
    used = {b.name for node in nodes for bs in node.inputs.values() for b in bs if b.node is None}
    llms = [d.value for d in program.spec.declarations.values() if d.section == "llms" and d.name in used]
    paid = [llm for llm in llms if llm.provider in PAID]
    keys: dict[str, bool] = {}
    for llm in paid:
        keys[llm.api_key_env] = keys.get(llm.api_key_env, False) or llm.base_url is None
    return Needs(
        known=True,
        torch=any("torch" in node.kind.preload for node in nodes) or any(x.provider == "local" for x in llms),
        deepspeed=any(getattr(p, "deepspeed", None) for p in parallel),
        clients=frozenset(llm.provider for llm in paid),
        keys=keys,
    )


# ---------------------------------------------------------------- Slurm


def check_slurm(missing: list[str], site: Site | None) -> Iterator[Check]:
    """`missing`: commands that are not on this machine."""
    group = "Slurm"
    if missing:
        yield Check(group, "problem", f"not on this machine: {', '.join(missing)}", "go to a login node")
    if site is None:
        yield Check(group, "problem", "slurmctld does not answer", "try `scontrol ping`; ask the site")
        return
    yield Check(group, "ok", f"slurmctld answers: {site.title}")
    size, count = site.config.get("MaxArraySize", "?"), site.config.get("MaxJobCount", "?")
    yield Check(group, "ok", f"at most {size} tasks in an array, {count} jobs (MaxArraySize, MaxJobCount)")
    if site.config.get("JobRequeue") == "0":
        fix = "jobs are submitted with --requeue; ask the site whether that is allowed"
        yield Check(group, "warning", "the site does not requeue jobs by default (JobRequeue=0)", fix)
    if site.associations is None:
        text = "no accounting: how jobs ended is known for minutes only, and limits of accounts are not"
        yield Check(group, "warning", text, "look at `alignc status` now and then while jobs run")


def check_profile(profile: Profile, site: Site) -> Iterator[Check]:
    """Whether Slurm has and allows what the profile says."""
    named = [profile.partition, *profile.partitions, *(rule.partition for rule in profile.resources)]
    names = list(dict.fromkeys(filter(None, named)))
    if not names:
        if site.default is None:
            fix = f"name `partition` in the profile: {', '.join(site.partitions)}"
            yield Check("profile", "problem", "it names no partition, and Slurm has no default", fix)
        else:
            yield Check("profile", "ok", f"it names no partition; Slurm's default is {site.default}")
        names = [site.default] if site.default else []
    for name in names:
        found = site.partitions.get(name)
        if found is None:
            hint = near(name, site.partitions)
            yield Check("profile", "problem", f"Slurm has no partition {name}", hint)
        else:
            yield from _check_partition(name, found, profile, site)


def _check_partition(name: str, found: SlurmPartition, profile: Profile, site: Site) -> Iterator[Check]:
    if not found.up:
        yield Check("profile", "problem", f"partition {name} takes no jobs now", "name another, or wait")
    problems = list(_too_much(name, found, profile)) + list(_not_allowed(name, found, profile, site))
    yield from problems
    said = profile.partitions.get(name)
    if found.whole_nodes and not (said and said.whole_nodes):
        text = f"partition {name} gives whole nodes: a task that needs a part of one pays for all"
        yield Check("profile", "warning", text, f"`partitions: {{{name}: {{whole_nodes: true, ...}}}}`")
    if found.up and not problems:
        limit = "no time limit" if found.max_minutes is None else f"{found.max_minutes} minutes at most"
        yield Check("profile", "ok", f"partition {name} is there: {limit}")


def _too_much(name: str, found: SlurmPartition, profile: Profile) -> Iterator[Check]:
    """What the profile says of a partition beyond what that has."""
    has, said = found.described(), profile.partitions.get(name)
    for key, what in (
        ("max_minutes", "minutes"),
        ("nodes", "nodes"),
        ("cpus", "CPUs a node"),
        ("memory_gb", "GiB of memory a node"),
        ("gpus", "GPUs a node"),
    ):
        wanted, most = getattr(said, key, None), getattr(has, key)
        if wanted is not None and most is not None and wanted > most:
            text = f"partition {name}: the profile says {wanted:g} {what}, Slurm has {most:g}"
            yield Check("profile", "problem", text, f"`{key}: {most:g}` in the profile")
    type_ = profile.at(name).gpu_type
    if type_ and has.gpus and type_ not in found.gpu_types:
        types = ", ".join(found.gpu_types) or "none named: leave `gpu_type` out"
        text = f"partition {name} has no GPU of type {type_}"
        yield Check("profile", "problem", text, f"its types: {types}")


def _not_allowed(name: str, found: SlurmPartition, profile: Profile, site: Site) -> Iterator[Check]:
    there = profile.at(name)
    account = there.account or site.default_account
    mine = sorted({a.account for a in site.associations or ()})
    if account and found.accounts is not None and account not in found.accounts:
        text = f"partition {name} is not for the account {account}"
        yield Check("profile", "problem", text, f"it is for {', '.join(sorted(found.accounts))}")
    if there.account and mine and there.account not in mine:
        text = f"you may not charge the account {there.account}"
        yield Check("profile", "problem", text, f"accounting knows of {', '.join(mine)}")
    if there.qos and found.qos is not None and there.qos not in found.qos:
        text = f"partition {name} does not take the QOS {there.qos}"
        yield Check("profile", "problem", text, f"it takes {', '.join(sorted(found.qos))}")
    allowed = {q for a in site.associations or () if a.account == account for q in a.qos}
    if there.qos and allowed and there.qos not in allowed:
        text = f"account {account} may not use the QOS {there.qos}"
        yield Check("profile", "problem", text, f"it may use {', '.join(sorted(allowed))}")


# ---------------------------------------------------------------- the spec


def check_spec(
    program: Program, profile: Profile, site: Site | None, tables: Tables, *, local: bool
) -> Iterator[Check]:
    """Whether jobs fit into partitions (not where all is `local`), and what models cost is known."""
    if not local:
        yield from _places(placed(program, profile), profile, site)
    for declaration in program.spec.declarations.values():
        llm = declaration.value
        if declaration.section == "llms" and price_of(llm, tables) is None:
            fix = "`usd_per_million_input` and `..._output` of the llm, or `prices` of the profile"
            yield Check("spec", "warning", f"nobody knows what {llm.model} costs ({declaration.name})", fix)


def _places(program: Program, profile: Profile, site: Site | None) -> Iterator[Check]:
    try:
        require_places(make_plan(program, State()), profile)
    except SpecError as error:
        for one in error.diagnostics:
            yield Check("spec", "problem", one.message, one.hint)
        return
    if site is not None:
        problems = list(_unfit(program, profile, site))
        yield from problems or [Check("spec", "ok", "every stage's jobs fit into their partitions")]


def _unfit(program: Program, profile: Profile, site: Site) -> Iterator[Check]:
    """Jobs that Slurm's own partition is too small for, whatever the profile says."""
    asked = {(n.stage, n.resources, processes(n)): None for n in program.graph.nodes}
    for stage, resources, count in asked:
        name = resources.partition or profile.partition or site.default
        if name is None or name not in site.partitions:
            text = f"{stage} goes to partition {name}, which Slurm does not have"
            yield Check("spec", "problem", text, f"it has {', '.join(site.partitions)}")
        elif less := lacks(resources, count, site.partitions[name].described()):
            text = f"{stage} asks for {in_words(resources, count)}; partition {name} has {', '.join(less)}"
            yield Check("spec", "problem", text, "change the stage's `resources`, or the profile")


# ---------------------------------------------------------------- a machine


def check_machine(
    group: str,
    told: Mapping[str, Any],
    needs: Needs,
    profile: Profile,
    *,
    on_slurm: bool,
    gpus: int = 0,
    age_s: float = 0.0,
) -> Iterator[Check]:
    """What a probe found; `gpus` were asked for, `age_s`: how long ago it looked, by our own clock."""
    version = tuple(map(int, told["python"].split(".")[:2]))
    where = f"Python {told['python']} ({told['executable']})"
    if version < OLDEST_PYTHON:
        yield Check(group, "problem", f"{where} is too old", "3.11 or newer: `python` of the profile")
    else:
        yield Check(group, "ok", f"{where} starts on {told['host']}")
    if told["code"] != code_digest():
        fix = "install the same version in the `python`, or image, of the profile"
        yield Check(group, "problem", "it runs another alignc than this one", fix)
    yield from _check_packages(group, told, needs)
    yield from _check_gpus(group, told, gpus)
    yield from _check_keys(group, told, needs)
    if told["temporary"]:
        fix = "`scratch` of the profile names a folder that can be written"
        yield Check(group, "problem", f"no temporary file can be made: {told['temporary']}", fix)
    if on_slurm:
        yield from _check_node(group, told, profile, age_s)


def _check_packages(group: str, told: Mapping[str, Any], needs: Needs) -> Iterator[Check]:
    has = told["packages"]
    wanted = {"torch": needs.torch, "transformers": needs.torch, "accelerate": needs.torch}
    wanted |= {"deepspeed": needs.deepspeed, **{name: name in needs.clients for name in PAID}}
    missing = [name for name in wanted if name not in has]
    required = [name for name in missing if wanted[name]]
    there = ", ".join(f"{name} {has[name]}" for name in wanted if name in has)
    if there:
        yield Check(group, "ok", there)
    if required:
        fix = "pip install 'alignc[train,judge]' there"
        yield Check(group, "problem", f"not installed: {', '.join(required)}, which the spec needs", fix)
    elif missing and not needs.known:
        fix = "pip install 'alignc[train,judge]' there, if your specs train, sample or ask models"
        yield Check(group, "warning", f"not installed: {', '.join(missing)}", fix)
    if (told["torch"] or {}).get("problem"):
        text = f"torch cannot be imported: {told['torch']['problem']}"
        yield Check(
            group, "problem" if needs.torch or not needs.known else "warning", text, "install it anew"
        )
    if "deepspeed" in has and (needs.deepspeed or not needs.known):
        if told["compiles"]:
            fix = "g++, ninja and Python's headers, by a module in `setup` of the profile or in the image"
            outcome: Outcome = "problem" if needs.deepspeed else "warning"
            yield Check(group, outcome, f"DeepSpeed cannot compile its ops: {told['compiles']}", fix)
        else:
            yield Check(
                group, "ok", "g++, ninja and Python's headers are there: DeepSpeed can compile its ops"
            )


def _check_gpus(group: str, told: Mapping[str, Any], gpus: int) -> Iterator[Check]:
    torch = told["torch"] or {}
    seen = torch.get("gpus") or []
    if seen:
        names = ", ".join(f"{gpu['name']} {gpu['memory_gb']:g} GiB" for gpu in seen)
        yield Check(group, "ok", f"torch sees {counted(len(seen), 'GPU')}: {names}")
    elif gpus and told["torch"] is not None and not torch.get("problem"):
        driver = f"the driver tells of {len(told['driver'])}" if told["driver"] else "there is no nvidia-smi"
        built = f"for CUDA {torch['cuda']}" if torch.get("cuda") else "without CUDA"
        text = f"{gpus} GPU was asked for, and torch ({built}) sees none; {driver}"
        yield Check(group, "problem", text, "a torch for this driver; `--nv` is set in Apptainer by itself")


def _check_keys(group: str, told: Mapping[str, Any], needs: Needs) -> Iterator[Check]:
    for name, there in told["keys"].items():
        if isinstance(there, str):
            problem, _, fix = there.partition("\n")
            yield Check(group, "problem", problem, fix)
        elif there:
            yield Check(group, "ok", f"{name} is set (and not shown)")
        elif needs.keys.get(name):
            fix = (
                f"export {name}=... before `alignc run` or `submit`, or name its file in the profile's `keys`"
            )
            yield Check(group, "problem", f"{name} is not set", fix)
        else:
            yield Check(group, "ok", f"{name} is not set; the server of the spec is one's own")


def _check_node(group: str, told: Mapping[str, Any], profile: Profile, age_s: float) -> Iterator[Check]:
    if not told["seen"]:
        fix = "put the store (`--store`) on a file system that all nodes share"
        yield Check(group, "problem", "it does not see a file of the store that was made here", fix)
    elif told["takes"]:
        fix = "two jobs could make one node at once: put the store on another file system"
        yield Check(group, "problem", "it could take a name in the store that was taken here", fix)
    else:
        yield Check(group, "ok", "it sees the store; a rename made there is seen here; names are taken once")
    if abs(age_s) > SKEW_S:
        fix = "ask the site to set the clocks (NTP): who is silent for minutes is taken for dead"
        yield Check(group, "warning", f"its clock differs from ours by {age_s:+.0f} s", fix)
    if not told["commands"]["scontrol"]:
        fix = (
            "a job whose time is up then waits for `alignc submit`; in a container bind it (docs/clusters.md)"
        )
        yield Check(group, "warning", "there is no scontrol, by which jobs requeue themselves", fix)
    if not told["commands"]["sbatch"] and profile.container is None:
        fix = "work beyond the limits of Slurm then waits for the next `alignc submit`"
        yield Check(group, "warning", "there is no sbatch, by which waves of jobs follow", fix)
    interface = profile.network_interface
    if interface and interface not in told["interfaces"]:
        known = ", ".join(told["interfaces"])
        yield Check(group, "problem", f"it has no network interface {interface}", f"it has {known}")
    launch = shlex.split(profile.launch or "")
    if launch and launch[0] == "srun" and not told["commands"]["srun"]:
        yield Check(group, "problem", "there is no srun, which `launch` names", "mend `launch`")
