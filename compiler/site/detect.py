"""What Slurm tells of a site -> the draft of a cluster profile, with remarks where a person has to choose."""

from __future__ import annotations

import re
from collections.abc import Iterator

from compiler.site.facts import Hardware, Site, SlurmPartition
from runtime.plural import counted

# GiB, where a name tells it; several: the same name was sold with each.
GPU_MEMORY: dict[str, tuple[int, ...]] = {
    "gh200": (96, 144),
    "h200": (141,),
    "h100": (80, 94),
    "b200": (180,),
    "a100": (40, 80),
    "l40s": (48,),
    "a40": (48,),
    "a10": (24,),
    "v100": (16, 32),
    "t4": (16,),
}
_PLAIN = re.compile(r"[A-Za-z_][\w.-]*")
_TRUTH = ("y", "n", "yes", "no", "on", "off", "true", "false", "null")


def draft(site: Site) -> str:
    """The text of a profile."""
    partitions = sorted(site.partitions.values(), key=lambda p: not p.default)  # of equals the first is taken
    usable = [p for p in partitions if not _unusable(p, site)]
    lines = [
        f"# Drafted by `alignc cluster detect` from {site.title}.",
        "# Look at each line with CHOOSE; then `alignc doctor --cluster FILE` tries the profile.",
        *_account(site),
        "",
        "# A job goes to the partition that has what it asks for and wastes least; `partition: NAME` would",
        "# send all that name none to one. Take out those that you do not want.",
        "partitions:" if usable else "partitions: {}",
        *(line for p in usable for line in _partition(p)),
        *(f"  # {p.name}: left out, {_unusable(p, site)}" for p in partitions if p not in usable),
        *_rest(any(p.described().gpus for p in usable)),
    ]
    return "\n".join(lines) + "\n"


def _scalar(text: str) -> str:
    plain = _PLAIN.fullmatch(text) and text.lower() not in _TRUTH
    return text if plain else "'" + text.replace("'", "''") + "'"


def _account(site: Site) -> Iterator[str]:
    accounts = list(dict.fromkeys(a.account for a in site.associations or ()))
    if not accounts:
        yield "# account: NAME   # CHOOSE: accounting tells of none; ask the site whether one is needed"
        return
    chosen = site.default_account if site.default_account in accounts else accounts[0]
    others = [_scalar(name) for name in accounts if name != chosen]
    yield f"account: {_scalar(chosen)}" + (f"   # CHOOSE: or {', '.join(others)}" if others else "")
    qos = sorted({q for a in site.associations or () if a.account == chosen for q in a.qos})
    if len(qos) > 1:
        yield f"# qos: NAME   # CHOOSE: {', '.join(qos)}; without, the account's default"


def _unusable(partition: SlurmPartition, site: Site) -> str:
    if not partition.up:
        return "not open for jobs"
    if not partition.hardware:
        return "it has no nodes"
    accounts = {a.account for a in site.associations or ()}
    if partition.accounts is not None and accounts and accounts.isdisjoint(partition.accounts):
        return f"only for the accounts {', '.join(sorted(partition.accounts))}"
    return ""


def _partition(partition: SlurmPartition) -> Iterator[str]:
    said = partition.described()
    nodes = sum(h.nodes for h in partition.hardware)
    default = ", the default" if partition.default else ""
    yield f"  {_scalar(partition.name)}:   # {counted(nodes, 'node')}{default}"
    if said.max_minutes is None:
        yield "    # max_minutes:   # no limit"
    else:
        yield f"    max_minutes: {said.max_minutes}"
    yield f"    nodes: {said.nodes}"
    yield f"    cpus: {said.cpus}"
    yield f"    memory_gb: {said.memory_gb:g}"
    if said.gpus:
        yield f"    gpus: {said.gpus}"
        yield from _gpu_type(partition, said.gpu_type)
    if said.whole_nodes:
        yield "    whole_nodes: true   # tasks of an array go side by side on one"
    if len(partition.hardware) > 1:
        yield f"    # nodes differ: {'; '.join(map(_words, partition.hardware))}"
    if partition.accounts is not None:
        yield f"    # account: NAME   # CHOOSE: only {', '.join(sorted(partition.accounts))} here"
    if partition.qos is not None:
        yield f"    # qos: NAME   # CHOOSE: only {', '.join(sorted(partition.qos))} here"


def _gpu_type(partition: SlurmPartition, type_: str | None) -> Iterator[str]:
    if type_ is None:
        yield "    # gpu_memory_gb:   # CHOOSE: Slurm does not tell which GPUs these are"
        return
    others = [t for t in partition.gpu_types if t != type_]
    yield f"    gpu_type: {_scalar(type_)}" + (f"   # CHOOSE: or {', '.join(others)}" if others else "")
    sizes = next((sizes for name, sizes in GPU_MEMORY.items() if name in type_.lower()), ())
    if len(sizes) == 1:
        yield f"    gpu_memory_gb: {sizes[0]}"
    else:
        told = " or ".join(map(str, sizes)) or "memory of one GPU in GiB"
        yield f"    # gpu_memory_gb:   # CHOOSE: {told}"


def _words(h: Hardware) -> str:
    gpus = f", {h.gpus} {h.gpu_type or 'GPUs'}" if h.gpus else ""
    return f"{h.nodes} of {h.cpus} CPUs, {h.memory_gb:g} GiB{gpus}"


def _rest(gpus: bool) -> Iterator[str]:
    yield ""
    if gpus:
        yield "# CHOOSE: without rules or `resources` of its own, a stage asks for no GPU."
        yield "# resources:"
        yield "#   - {kind: sft, up_to_parameters: 8e9, gpus: 1, cpus: 8, memory_gb: 100, minutes: 600}"
    yield "# CHOOSE: what a job needs before its Python starts."
    yield "# setup: [module load python/3.11, source /path/to/venv/bin/activate]"
    yield "# scratch: /scratch/$USER          # temporary files of the jobs"
    yield "# cache: /scratch/$USER/cache      # models, compiled kernels"
