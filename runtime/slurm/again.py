"""Another try of a failed job, as the policy says: what it has, kept beside its work; begun by the job
itself where it can still speak.

    <store>/.work/<key>/again.json    what the tries were, and what the next one has; goes with the work

A job that failed puts its Slurm task into the queue again under the same id, so that what depends on it
keeps waiting, and then asks Slurm for what the next try needs: Slurm 22.05 lets users change the memory,
the time limit and the excluded nodes of a task that waits, and of none that runs.
"""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from typing import Any

from runtime.files import read_json, write_json
from runtime.slurm.kinds import REPEATS, Kind, kind_said
from runtime.slurm.limits import ask, parse_minutes
from runtime.slurm.policy import UNASKED, Again, Asked, Most, Policy, UsedUp, answer
from runtime.slurm.requeue import requeue, tell
from runtime.slurm.task import slurm_id
from runtime.store import Store

VARIABLE = "ALIGNC_RETRY"  # holds the policy, in the environment of a job
FILE = "again.json"


# ---------------------------------------------------------------- what is kept


def read_again(store: Store, key: str) -> Again:
    """What the policy has made of a job's failures; `key` is the one that it was described under."""
    try:
        told = read_json(store.work(key) / FILE)
        return Again(**{**told, "exclude": tuple(told["exclude"])})
    except (OSError, ValueError, TypeError, KeyError):
        return Again()


def write_again(store: Store, key: str, again: Again) -> None:
    write_json(store.work(key) / FILE, asdict(again))


def adjusted(store: Store, description: Mapping[str, Any]) -> Mapping[str, Any]:
    """A description as the policy has changed it, and under `again` what the tries were."""
    again = read_again(store, description.get("asked", description["key"]))
    if not again.why:
        return description
    config = dict(description["config"])
    size = micro_batch(config)
    if size is not None and again.micro_batch:
        config["micro_batch"] = min(size, again.micro_batch)
    return {**description, "config": config, "again": asdict(again)}


def micro_batch(config: Mapping[str, Any]) -> int | None:
    """Examples in one forward pass of one process; None for a job that has no micro-batches."""
    if "micro_batch" not in config:
        return None
    processes = (config.get("parallel") or {}).get("processes", 1)
    size: int = config["micro_batch"] or -(-config["batch_size"] // processes)
    return size


def had_last(description: Mapping[str, Any], before: Again, node: str) -> Asked:
    """What the last try of a described job had, on the Slurm node where it was."""
    resources, size = description["resources"], micro_batch(description["config"])
    if size is not None and before.micro_batch:
        size = min(size, before.micro_batch)
    memory_gb = max(resources["memory_gb"], before.memory_gb)
    return Asked(memory_gb, max(resources["minutes"], before.minutes), size, node)


@cache
def limits_of(partition: str | None) -> Most:
    """What a partition gives to one job; None: Slurm's default one."""
    named = [f"--partition={partition}"] if partition else []
    told = ask("sinfo", "--noheader", "--format=%P;%D;%m;%l", *named) or ""
    rows = [line.split(";") for line in told.splitlines() if line.count(";") == 3]
    rows = [row for row in rows if partition or row[0].strip().endswith("*")]
    megabytes = [int(memory.rstrip("+")) for _, _, memory, _ in rows if memory.rstrip("+").isdigit()]
    known = [size for size in megabytes if size > 1]  # 1: the site does not say
    nodes = sum(int(count) for _, count, _, _ in rows if count.isdigit())
    told_minutes = (parse_minutes(limit.strip()) for *_, limit in rows)
    minutes = [math.inf if found is None else found for found in told_minutes]
    return Most(max(known, default=math.inf) / 1024, max(minutes, default=math.inf), nodes or math.inf)


# ---------------------------------------------------------------- in a job


def take_again(store: Store, descriptions: Sequence[Mapping[str, Any]], *, since: float) -> bool:
    """Requeue the task of this process as the policy says; the first of what it has left to do failed.

    since: when that began (seconds since 1970). Returns whether Slurm agreed. Else the failure record says
    why not, where the policy is about it.
    """
    task, policy = slurm_id(), policy_here()
    key = _asked(descriptions[0])
    try:
        record = read_json(store.failure(key))
    except (OSError, ValueError):
        return False
    kind = kind_said(record)
    rule = policy.rule(kind) if kind else None
    if task is None or kind is None or rule is None or record["time"] < since:
        return False
    if kind is Kind.EXCEPTION and record.get("repeats", 1) >= REPEATS:
        return False
    before = read_again(store, key)
    most = limits_of(os.environ.get("SLURM_JOB_PARTITION"))
    had = had_last(descriptions[0], before, os.environ.get("SLURMD_NODENAME", ""))
    try:
        again = answer(rule, kind, had, before, of=record["time"], most=most)
    except UsedUp as error:
        tell(store, key, str(error))
        return False
    write_again(store, key, again)
    for other in map(_asked, descriptions[1:]):  # they share its task, and most likely its trouble
        write_again(store, other, replace(again, tries={}, of=0.0))
    print(again.why, flush=True)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # by which Slurm ends this turn, before the next is set up
    if not requeue(store, task, key):
        return False
    return _ask_for(store, key, task, again)


def policy_here() -> Policy:
    """The policy that this job was submitted with."""
    told = os.environ.get(VARIABLE)
    return Policy.model_validate(json.loads(told)) if told else UNASKED


def _asked(description: Mapping[str, Any]) -> str:
    key: str = description.get("asked", description["key"])
    return key


def _excluded(task: str) -> list[str]:
    """The nodes that a task was submitted to keep away from."""
    found = re.search(r"\bExcNodeList=(\S+)", ask("scontrol", "show", "job", task) or "")
    return [found[1]] if found and found[1] != "(null)" else []


def _ask_for(store: Store, key: str, task: str, again: Again) -> bool:
    """Change what the requeued task asks for; where Slurm refuses that, take it out of the queue again."""
    wanted = {
        "MinMemoryNode": f"{round(again.memory_gb * 1024)}" if again.memory_gb else "",
        "TimeLimit": f"{again.minutes}" if again.minutes else "",
        "ExcNodeList": ",".join([*_excluded(task), *again.exclude]) if again.exclude else "",
    }
    changes = [f"{name}={value}" for name, value in wanted.items() if value]
    if not changes:
        return True
    words = ["scontrol", "update", f"JobId={task}", *changes]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return True
    tell(store, key, f"Slurm refused {' '.join(changes)}: {done.stderr.strip()}")
    subprocess.run(["scancel", task], capture_output=True, check=False)
    return False
