"""Puts the Slurm job of this process into the queue again, as long as its turns get it further.

After a warning (USR2), or a failure that the policy answers (`runtime/slurm/again.py`). A job that is sent
TERM was requeued by Slurm itself, or cancelled by a person, who wants it to stay so.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from typing import Any

from runtime.files import read_json, write_json
from runtime.llms.batch_log import batches_of
from runtime.slurm.task import slurm_id
from runtime.store import Store

IDLE_TURNS = 3  # turns in a row that got no further, after which a person has to look
TURNS = "turns.json"


def _read(path: Any) -> dict[str, Any]:
    try:
        return dict(read_json(path))
    except (OSError, ValueError):
        return {}


def idle_turns(store: Store, key: str, *, further: bool = False) -> int:
    """How many turns in a row of a job, this one included, got no further; notes that this one ended.

    further: whether this turn has made something else.
    """
    turns = _read(store.work(key) / TURNS)
    done = _read(store.progress(key)).get("done", 0)
    best = turns.get("best", 0)
    idle = 0 if further or done > best else turns.get("idle", 0) + 1
    write_json(store.work(key) / TURNS, {"best": max(done, best), "idle": idle})
    return idle


def may_go_on(store: Store, description: Mapping[str, Any], *, further: bool = False) -> bool:
    """Whether a job that was warned may have another turn; else its failure record says why not.

    further: whether its task has made another of its nodes in this turn. To wait for a batch, which its
    provider ends within a day, is no idleness.
    """
    key = description.get("asked", description["key"])
    idle = idle_turns(store, key, further=further or bool(batches_of(store, key)))
    if idle >= IDLE_TURNS:
        (store.work(key) / TURNS).unlink(missing_ok=True)  # whoever submits again means it
        tell(store, key, f"{idle} turns in a row got no further", idle=idle)
    return idle < IDLE_TURNS


def take_another_turn(store: Store, description: Mapping[str, Any], *, further: bool = False) -> bool:
    """Requeue the task of this process, which works on `description`. Slurm then ends this process.

    further: see `may_go_on`. Returns whether Slurm agreed; else a person has to submit again, and the job's
    failure record says so.
    """
    task = slurm_id()
    if task is None or not may_go_on(store, description, further=further):
        return False
    return requeue(store, task, description.get("asked", description["key"]))


def requeue(store: Store, task: str, *keys: str) -> bool:
    """Put the task of this process into the queue again; where Slurm refuses, the failure records of what
    it works on say so."""
    print(f"requeueing Slurm job {task}", flush=True)
    try:
        done = subprocess.run(["scontrol", "requeue", task], capture_output=True, text=True, check=False)
        problem = done.stderr.strip() if done.returncode else ""
    except OSError as error:
        problem = str(error)
    if problem:
        for key in keys:
            tell(store, key, f"Slurm did not requeue it: {problem}")
    return not problem


def tell(store: Store, key: str, more: str, **figures: int) -> None:
    """Add to what the failure record says."""
    print(more, flush=True)
    record = _read(store.failure(key))
    if record:
        write_json(store.failure(key), {**record, "message": f"{record['message']}; {more}", **figures})
