"""Carries out the arms of one task side by side on its node, each in a process of its own.

An arm has its share of the GPUs, its own log, claim and end: one that fails stops no other. What the task is
told by a signal it hands on to all; once all have ended, it is requeued where any of them asks for that.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from runtime.files import read_json
from runtime.run_job import Outcome
from runtime.signals import STOPS
from runtime.slurm.requeue import requeue
from runtime.slurm.task import slurm_id
from runtime.store import Store

DEVICES = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")  # of those that Slurm sets, the first is cut up


def shares(gpus: int, arms: int, environment: Mapping[str, str] = os.environ) -> list[dict[str, str]]:
    """What is added to the environment of each arm, so that it sees its own GPUs and nobody else's."""
    if not gpus:
        return [{}] * arms
    name = next((n for n in DEVICES if environment.get(n)), DEVICES[0])
    here = environment[name].split(",") if environment.get(name) else [str(i) for i in range(gpus * arms)]
    if len(here) < gpus * arms:
        raise RuntimeError(f"{arms} arms need {gpus * arms} GPUs, and {name} is {environment[name]}")
    return [{name: ",".join(here[i * gpus : (i + 1) * gpus])} for i in range(arms)]


def run_beside(store: Store, job: Path, arms: Sequence[Sequence[str]]) -> Outcome:
    """Carry out all arms of a task that a job file tells of, to their ends."""
    first: list[dict[str, Any]] = [read_json(job.parent / arm[0]) for arm in arms]
    each = shares(first[0]["resources"].get("gpus") or 0, len(arms))
    processes: list[subprocess.Popen[bytes]] = []

    def hand_on(number: int, frame: FrameType | None) -> None:
        for process in processes:
            process.send_signal(number)
        told = f"{signal.Signals(number).name}: handed on to {len(processes)} arms\n"
        os.write(1, told.encode())  # a print may be what was interrupted

    for number in STOPS:
        signal.signal(number, hand_on)
    # An arm inherits that they wait, and hears them once it is ready to.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    for index, (told, more) in enumerate(zip(first, each, strict=True)):
        words = [sys.executable, "-m", "runtime.run_task", str(store.root), str(job), str(index)]
        processes.append(subprocess.Popen(words, env={**os.environ, **more}))
        where = "".join(f", {name}={value}" for name, value in more.items())
        print(f"{told['id']}: process {processes[-1].pid}{where}", flush=True)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    codes = [process.wait() for process in processes]
    ends = [Outcome(code) if code in tuple(Outcome) else Outcome.FAILED for code in codes]
    for told, code, end in zip(first, codes, ends, strict=True):
        print(f"{told['id']}: {end.name.lower()} ({code})", flush=True)
    task, warned = slurm_id(), [arm for arm, end in zip(arms, ends, strict=True) if end is Outcome.WARNED]
    if warned and task is not None:
        left = [read_json(job.parent / name) for arm in warned for name in arm]
        requeue(store, task, *(one.get("asked", one["key"]) for one in left))
    return max(ends)
