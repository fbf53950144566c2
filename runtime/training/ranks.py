"""Starts the ranks of a job, here or with srun on all of its nodes, and sees them through to their end."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch

from runtime.files import write_json
from runtime.job import Job, JobError
from runtime.training.line import DONE, INTERRUPTED, REFUSED, End, Exchange
from runtime.training.stops import Stop

DESCRIPTION = "description.json"
LAUNCH = "ALIGNC_LAUNCH"  # shell words that start a program once for each task, where srun alone will not do

POLL_S = 0.05
GRACE_S = 10.0  # how long what was started may take to end once its ranks were told to


class Start(NamedTuple):
    """One process to start: what stands before a rank's own command, and what its environment adds."""

    words: tuple[str, ...]
    environment: dict[str, Any]


class RankTraceback(Exception):
    """Where a rank failed. As the cause of an error it is printed before it."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def run_ranks(job: Job, entry: str) -> None:
    """Have every rank of a job do its work; `entry` is `module:function`, called with the job.

    Raises what the first rank that failed raised; the others have ended then.
    """
    description, count = job.scratch / DESCRIPTION, job.config.parallel.processes
    write_json(description, job.description)
    command = (sys.executable, "-m", "runtime.training.rank", str(job.root), str(description), entry)
    # The rendezvous is served here, on a port of the kernel's choice: no race for a free one.
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    exchange = Exchange()
    common = {**_environment(job), **exchange.environment(), "MASTER_PORT": store.port}
    processes: list[subprocess.Popen[bytes]] = []
    with Stop() as stop:
        try:
            for words, more in _starts(job):
                processes.append(_start((*words, *command), {**common, **more}))
            ends = _follow(exchange, processes, count, stop)
        finally:
            exchange.close()
            _see_out(processes)
        if len(ends) == count and all(end.code == DONE for end in ends):
            return
        if stop.asked is not None or any(end.code == INTERRUPTED for end in ends):
            stop.obey()
        _raise_first(ends, [process.returncode for process in processes])


def _starts(job: Job) -> list[Start]:
    """Each rank by itself on this machine, or all by one launcher over the nodes of the Slurm job."""
    count, nodes = job.config.parallel.processes, job.resources.nodes
    if nodes == 1 or os.environ.get("SLURM_JOB_NUM_NODES") != str(nodes):
        if nodes > 1:
            print(f"{nodes} nodes were asked for; all {count} processes run on this machine", flush=True)
        return [Start((), _here(rank, count)) for rank in range(count)]
    launcher = (
        *shlex.split(os.environ.get(LAUNCH) or "srun"),
        f"--nodes={nodes}",
        f"--ntasks={count}",
        f"--ntasks-per-node={count // nodes}",
        f"--cpus-per-task={job.resources.cpus}",  # which srun does not take over from sbatch since 22.05
        "--kill-on-bad-exit=1",
        "--export=ALL",
    )
    print(f"starting {count} processes: {shlex.join(launcher)}", flush=True)
    return [
        Start(launcher, {"MASTER_ADDR": os.environ["SLURMD_NODENAME"], "LOCAL_WORLD_SIZE": count // nodes})
    ]


def _here(rank: int, count: int) -> dict[str, Any]:
    told = {"RANK": rank, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1"}
    if sys.platform == "linux":
        told["GLOO_SOCKET_IFNAME"] = "lo"  # all ranks are on this machine, whatever its name resolves to
    return told


def _environment(job: Job) -> dict[str, Any]:
    """What all ranks find in their environment: the variables of torchrun, and their threads."""
    threads = job.resources.cpus  # which are those of each process
    source = str(Path(__file__).resolve().parents[2])
    told: dict[str, Any] = {
        "WORLD_SIZE": job.config.parallel.processes,
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "PYTHONWARNINGS": "ignore::FutureWarning",  # of torch, at every call of DeepSpeed
        "PYTHONPATH": os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")])),
    }
    if not torch.cuda.is_available():
        # accelerate must be told to stay on the CPU, but drops DeepSpeed when it is told so.
        told |= {"DS_ACCELERATOR": "cpu"} if job.config.parallel.deepspeed else {"ACCELERATE_USE_CPU": "true"}
    kept = {k: v for k, v in os.environ.items() if not k.startswith("ACCELERATE_")}
    return {k: v for k, v in kept.items() if k not in ("RANK", "LOCAL_RANK")} | told


def _start(words: Sequence[str], environment: dict[str, Any]) -> subprocess.Popen[bytes]:
    texts = {name: str(value) for name, value in environment.items()}
    try:
        return subprocess.Popen(words, env=texts, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise JobError(f"{words[0]} cannot be started: {error.strerror}") from error


def _follow(
    exchange: Exchange, processes: Sequence[subprocess.Popen[bytes]], count: int, stop: Stop
) -> list[End]:
    """How the ranks ended, in the order in which they were heard of: all, or up to the first failure."""
    ends: list[End] = []
    while len(ends) < count:
        codes = [process.poll() for process in processes]
        heard = exchange.listen(POLL_S)
        ends += heard
        if any(end.code not in (DONE, INTERRUPTED) for end in heard):
            break
        if not heard and (any(codes) or None not in codes):  # one died before it could say who it is
            break
        if stop.asked is not None and not exchange.stopping:
            exchange.stop()  # they save at their next step, together
    return ends


def _see_out(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait for what was started, and end what does not end by itself: srun then kills all of its tasks."""
    for act in (subprocess.Popen.terminate, subprocess.Popen.kill):
        deadline = time.monotonic() + GRACE_S
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        for process in processes:
            act(process)
    for process in processes:
        process.wait()


def _raise_first(ends: Sequence[End], codes: Sequence[int]) -> NoReturn:
    """Raise the first failure. `codes`: of the ranks' processes, or that of the launcher alone."""
    failed = next((end for end in ends if end.code != DONE), None)
    if failed is None:
        raise RuntimeError(f"the ranks could not be started, or ended at once; exit codes {list(codes)}")
    if failed.code == REFUSED:
        raise JobError(failed.message)
    if failed.code is not None:
        raise RuntimeError(f"{_name(failed)} failed first: {failed.message}") from RankTraceback(
            failed.traceback
        )
    code = codes[failed.rank % len(codes)]
    number = -code if code < 0 else code - 128  # a launcher tells it as a shell does
    if number > 0:
        raise RuntimeError(f"{_name(failed)} was killed by signal {number} (memory?)")
    raise RuntimeError(f"{_name(failed)} ended without a word (exit code {code})")


def _name(end: End) -> str:
    return f"rank {end.rank} on {end.host}" if end.host else f"rank {end.rank}"
