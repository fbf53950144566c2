"""What a cluster profile says of another try, by the kind of failure; and what that makes of one failure.

Whoever submits asks, and so does a job that can still speak (`runtime/slurm/again.py`). Nothing of it is part
of a key: a job that is tried again makes the same thing, with more memory, on another node.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pydantic import Field

from runtime.fields import Frozen
from runtime.slurm.kinds import WORDS, Kind


class Retry(Frozen):
    """Another try after one kind of failure."""

    times: int = Field(1, ge=0, description="how often it is tried again before a person has to look")
    exclude_node: bool = Field(False, description="not on the node where it failed")


class MoreMemory(Retry):
    """Another try with more memory."""

    memory: float = Field(2.0, ge=1, description="factor on `memory_gb` at each further try")
    max_memory_gb: float | None = Field(
        None, gt=0, description="most memory in GiB; none: what the partition's nodes have"
    )


class MoreTime(Retry):
    """Another try with more time."""

    minutes: float = Field(1.5, ge=1, description="factor on `minutes` at each further try")
    max_minutes: int | None = Field(
        None, ge=1, description="longest time limit in minutes; none: what the partition allows"
    )


class SmallerMicroBatch(Retry):
    """Another try with smaller micro-batches."""

    halve_micro_batch: bool = Field(
        False,
        description="halve `micro_batch`, so that twice as many parts make a batch: the same optimisation, "
        "up to rounding",
    )


class Policy(Frozen):
    """Kinds of failures after which a job is tried again; a kind that is left out is left to a person."""

    out_of_memory: MoreMemory | None = Field(None, description="the host's memory was not enough")
    out_of_gpu_memory: SmallerMicroBatch | None = Field(None, description="a GPU's memory was not enough")
    timeout_without_progress: MoreTime | None = Field(
        None, description="three turns in a row got no further before their time limit"
    )
    node_failure: Retry | None = Field(
        Retry.model_validate({"times": 2, "exclude_node": True}),
        description="its node failed, and Slurm did not requeue it",
    )
    exception: Retry | None = Field(
        None, description="an error with a traceback; after the same one three times never"
    )
    killed: MoreMemory | None = Field(None, description="it left no word, and Slurm has none")
    preempted: Retry | None = Field(None, description="it made room, and Slurm did not requeue it")

    def rule(self, kind: Kind) -> Retry | None:
        """What is asked for after this kind; None: nothing."""
        found: Retry | None = getattr(self, kind.value, None)
        return found


UNASKED = Policy.model_validate({})  # that of a profile which asks for nothing


@dataclass(frozen=True, slots=True)
class Asked:
    """What a try had. `micro_batch` is None where a job has none; `node` is where it ran, empty where
    nobody knows."""

    memory_gb: float
    minutes: int
    micro_batch: int | None = None
    node: str = ""


@dataclass(frozen=True, slots=True)
class Most:
    """What a partition gives to one job."""

    memory_gb: float = math.inf
    minutes: float = math.inf
    nodes: float = math.inf  # that it has


@dataclass(frozen=True, slots=True)
class Again:
    """What the policy has made of a job's failures since a person last submitted it.

    tries: kind -> how often it was tried again after it. of: when the failure happened that was answered
    last (seconds since 1970), so that none is answered twice. times: as often as this kind allows. The
    rest is what the next try has; 0 and empty: what the spec says.
    """

    tries: Mapping[str, int] = field(default_factory=dict[str, int])
    of: float = 0.0
    times: int = 0
    why: str = ""
    memory_gb: float = 0.0
    minutes: int = 0
    micro_batch: int = 0
    exclude: tuple[str, ...] = ()

    def used_up(self, kind: Kind) -> bool:
        return 0 < self.times <= self.tries.get(kind.value, 0)


class UsedUp(Exception):
    """The policy has no further try; says why."""


def answer(rule: Retry, kind: Kind, asked: Asked, before: Again, *, of: float, most: Most = Most()) -> Again:
    """What another try has, and why, after a failure at the time `of`. Raises UsedUp."""
    tried = before.tries.get(kind.value, 0)
    if tried >= rule.times:
        often = f"was tried again {tried} time{'s' * (tried > 1)}" if tried else "is not tried again"
        raise UsedUp(f"{WORDS[kind]}, and {often}")
    having: list[str] = []
    had = ""
    made = before
    if isinstance(rule, MoreMemory) and rule.memory > 1:
        bound = min(rule.max_memory_gb or math.inf, most.memory_gb)
        memory_gb = _more(asked.memory_gb * rule.memory, asked.memory_gb, bound, kind, "GB")
        having, had = [f"{memory_gb:g} GB"], f" with {asked.memory_gb:g}"
        made = replace(made, memory_gb=memory_gb)
    if isinstance(rule, MoreTime) and rule.minutes > 1:
        bound = min(rule.max_minutes or math.inf, most.minutes)
        minutes = int(_more(math.ceil(asked.minutes * rule.minutes), asked.minutes, bound, kind, "minutes"))
        having, had = [f"{minutes} minutes"], f" with {asked.minutes}"
        made = replace(made, minutes=minutes)
    if isinstance(rule, SmallerMicroBatch) and rule.halve_micro_batch:
        if asked.micro_batch is None or asked.micro_batch == 1:
            raise UsedUp(f"{WORDS[kind]}, and has no micro-batch that could be halved")
        micro_batch = asked.micro_batch // 2
        having, had = [f"micro-batches of {micro_batch}"], f" with {asked.micro_batch}"
        made = replace(made, micro_batch=micro_batch)
    exclude = tuple(dict.fromkeys((*made.exclude, asked.node)))
    if rule.exclude_node and asked.node and len(exclude) < most.nodes:  # some node has to be left
        made = replace(made, exclude=exclude)
        having.append(f"another node than {' or '.join(made.exclude)}")
    why = f"again{_with(having)}: {WORDS[kind]}{had}"
    tries = {**before.tries, kind.value: tried + 1}
    return replace(made, tries=tries, of=of, times=rule.times, why=why)


def _with(having: Sequence[str]) -> str:
    return f" with {' and '.join(having)}" if having else ""


def _more(wanted: float, had: float, bound: float, kind: Kind, unit: str) -> float:
    got = min(wanted, bound)
    if got <= had:
        raise UsedUp(f"{WORDS[kind]} with {had:g} {unit}, and may have no more")
    return got
