"""What Slurm tells of its partitions, by sinfo and scontrol: parsed text, odd forms included."""

from __future__ import annotations

import getpass
import re
from collections.abc import Mapping
from dataclasses import dataclass

from compiler.site.profile import Partition
from runtime.slurm.limits import NO_LIMIT, Ask, ask, configuration, parse_minutes

MIB = 1024


@dataclass(frozen=True, slots=True, order=True)
class Hardware:
    """Nodes that are alike. Ordered by what they have: GPUs first, then memory and CPUs."""

    gpus: int
    memory_gb: float
    cpus: int
    gpu_type: str = ""
    nodes: int = 1


@dataclass(frozen=True, slots=True)
class SlurmPartition:
    """One partition. `max_minutes`, `max_nodes`, `accounts`, `qos`: None is no limit."""

    name: str
    default: bool
    up: bool
    max_minutes: int | None
    max_nodes: int | None
    accounts: frozenset[str] | None
    qos: frozenset[str] | None
    hardware: tuple[Hardware, ...]  # the largest first
    whole_nodes: bool  # given to one job at a time

    @property
    def gpu_types(self) -> list[str]:
        return sorted({h.gpu_type for h in self.hardware if h.gpu_type})

    def described(self) -> Partition:
        """As a profile describes it: of each thing what its largest node has."""
        largest = self.hardware[0] if self.hardware else None
        memory_gb = max((h.memory_gb for h in self.hardware), default=0)
        told = {
            "max_minutes": self.max_minutes,
            "nodes": min(filter(None, (self.max_nodes, sum(h.nodes for h in self.hardware))), default=None),
            "cpus": max((h.cpus for h in self.hardware), default=None),
            "memory_gb": memory_gb or None,  # 0 where the site does not say
            "gpus": largest.gpus if largest else None,
            "gpu_type": (largest.gpu_type or None) if largest else None,
            "whole_nodes": self.whole_nodes and largest is not None,
        }
        return Partition.model_validate(told)


@dataclass(frozen=True, slots=True)
class Association:
    """An account that a user may charge, with the QOS allowed there; `partition` where it is for one only."""

    account: str
    partition: str
    qos: frozenset[str]


@dataclass(frozen=True, slots=True)
class Site:
    """What Slurm tells of itself; `associations` is None where there is no accounting to ask."""

    config: Mapping[str, str]
    partitions: Mapping[str, SlurmPartition]
    associations: tuple[Association, ...] | None
    default_account: str

    @property
    def default(self) -> str | None:
        return next((name for name, p in self.partitions.items() if p.default), None)

    @property
    def title(self) -> str:
        return f"Slurm {self.config.get('SLURM_VERSION', '?')}, cluster {self.config.get('ClusterName', '?')}"


def read_site(ask: Ask = ask) -> Site | None:
    """Ask Slurm; None where slurmctld does not answer."""
    partitions = ask("scontrol", "--oneliner", "show", "partition")
    if partitions is None:
        return None
    nodes = ask("sinfo", "--noheader", "--exact", "--format=%R|%D|%c|%m|%G") or ""
    associations, account = _associations(ask)
    return Site(configuration(ask), parse_partitions(partitions, nodes), associations, account)


def _associations(ask: Ask) -> tuple[tuple[Association, ...] | None, str]:
    user = getpass.getuser()
    told = ask("sacctmgr", "-nP", "show", "assoc", "where", f"user={user}", "format=Account,Partition,QOS")
    if told is None:
        return None, ""
    rows = [line.split("|") for line in told.splitlines() if line.count("|") >= 2]
    found = tuple(Association(a, p, frozenset(filter(None, q.split(",")))) for a, p, q, *_ in rows)
    default = ask("sacctmgr", "-nP", "show", "user", user, "format=DefaultAccount") or ""
    return found, default.strip().splitlines()[0].strip() if default.strip() else ""


def parse_partitions(scontrol: str, sinfo: str) -> dict[str, SlurmPartition]:
    """`scontrol --oneliner show partition` and `sinfo --format=%R|%D|%c|%m|%G` -> partitions by name."""
    hardware: dict[str, list[Hardware]] = {}
    for line in sinfo.splitlines():
        row = [value.strip() for value in line.split("|")]
        if len(row) == 5 and row[1].isdigit():
            name, nodes, cpus, memory, gres = row
            gpus, type_ = parse_gpus(gres)
            memory_gb = int(10 * _number(memory) / MIB) / 10
            hardware.setdefault(name, []).append(Hardware(gpus, memory_gb, _number(cpus), type_, int(nodes)))
    found: dict[str, SlurmPartition] = {}
    for line in scontrol.splitlines():
        told = dict(re.findall(r"(\w+)=(\S*)", line))
        if "PartitionName" in told:
            found[told["PartitionName"]] = SlurmPartition(
                told["PartitionName"],
                told.get("Default") == "YES",
                told.get("State", "UP") == "UP" and told.get("RootOnly") != "YES",
                parse_minutes(told.get("MaxTime", "")),
                _number(told.get("MaxNodes", "")) or None,
                _names(told.get("AllowAccounts", "ALL")),
                _names(told.get("AllowQos", "ALL")),
                tuple(sorted(hardware.get(told["PartitionName"], []), reverse=True)),
                told.get("OverSubscribe") == "EXCLUSIVE",
            )
    return found


def parse_gpus(gres: str) -> tuple[int, str]:
    """GPUs of a node, and the type of the most of them: `gpu:a100:4(S:0-1),mps:100`, `gpu:2`, `(null)`."""
    counts: dict[str, int] = {}
    for item in re.sub(r"\([^)]*\)", "", gres).split(","):
        name, *rest = item.strip().removeprefix("gres/").split(":")
        if name != "gpu":
            continue
        counted = bool(rest) and rest[-1].isdigit()
        words = rest[:-1] if counted else rest
        type_ = words[0] if words and words[0] != "no_consume" else ""
        counts[type_] = counts.get(type_, 0) + (int(rest[-1]) if counted else 1)
    type_ = max(counts, key=lambda name: counts[name], default="")
    return sum(counts.values()), type_


def _number(text: str) -> int:
    """The number at the beginning of a text (`64000+` of nodes that differ); 0 where there is none."""
    found = re.match(r"\d+", text)
    return int(found[0]) if found else 0


def _names(text: str) -> frozenset[str] | None:
    return None if text.upper() in ("ALL", *NO_LIMIT) else frozenset(text.split(","))
