"""Starts the ranks of a training job, and turns what they leave behind into the job's artifact."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from runtime.chat import Renderer
from runtime.files import read_json, write_json
from runtime.job import Job, JobError
from runtime.models import REOPEN_TOLERANCE, Origin, load_model, locate, longest, open_renderer, reopen
from runtime.training import state
from runtime.training.data import Counts, Cut, Example, Lengths, read_examples
from runtime.training.folders import link_tree
from runtime.training.loop import KEPT, SUMMARY, Objective, Run
from runtime.training.parallel import Backend, close_backend, open_backend
from runtime.training.stops import Stop
from runtime.training_config import TrainingConfig

DESCRIPTION = "description.json"
INTERRUPTED = 5  # exit code of a rank that stopped when asked, as run_job's
REFUSED = 3  # exit code of a rank that raised JobError

POLL_S = 0.05
GRACE_S = 10.0  # how long ranks may take to notice that another has failed

# Dense bf16 peaks in FLOP/s, as the makers state them.
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}


# ---------------------------------------------------------------- one rank


def open_run(
    job: Job, fields: Sequence[str], objective: Callable[[list[Example], Backend], Objective]
) -> Run:
    """Everything a rank needs: processes met, data tokenised, model loaded and wrapped."""
    config: TrainingConfig = job.config
    origin = locate(job.input("model"), job.scratch, _no_texts)
    renderer = open_renderer(origin, getattr(config, "chat", None))
    cut = Cut(Lengths(config.max_length, config.max_prompt_length, config.truncation))
    examples = read_examples(job.input("data").path, renderer, fields, cut)
    backend = open_backend(config)
    lm = load_model(origin.folder, torch.float32)
    _require_room(lm.config, renderer, examples)
    backend.wrap(lm)
    return Run(job, backend, objective(examples, backend), renderer, told=_told(cut.counts))


def _no_texts() -> Iterable[str]:
    raise RuntimeError("the model should have been made before the ranks were started")


def _told(counts: Counts) -> dict[str, Any]:
    return {"truncation": counts.told()}


def _require_room(config: Any, renderer: Renderer, examples: Sequence[Example]) -> None:
    """Raise JobError where the model has too few positions or embeddings for the data."""
    positions = longest(config)
    worst = max(examples, key=lambda e: max(len(s.ids) for s in e.sequences))
    length = max(len(s.ids) for s in worst.sequences)
    if positions is not None and length > positions:
        raise JobError(
            f"the row {worst.id} has {length} tokens, but the model only {positions} positions: "
            f"set `max_length` to {positions} at most"
        )
    if len(renderer.tokenizer) > config.vocab_size:
        raise JobError(
            f"the tokenizer has {len(renderer.tokenizer)} tokens, the model {config.vocab_size} embeddings"
        )


# ---------------------------------------------------------------- all ranks


def carry_out(job: Job, origin: Origin, entry: str) -> None:
    """Train, here or in ranks of their own, then re-check the checkpoint and put it into `job.out`.

    entry: `module:function`, one rank's work, called with the job.
    """
    _drop_earlier(job)
    work_on(job, origin, entry)
    _deliver(job)


def work_on(job: Job, origin: Origin, entry: str) -> None:
    """Do one rank's work here, or start ranks for it; `entry` as in `carry_out`."""
    _require_format(job, origin)
    parallel = job.config.parallel
    if parallel.processes == 1 and parallel.deepspeed is None:
        find_entry(entry)(job)
    else:
        _start_ranks(job, entry)


def _require_format(job: Job, origin: Origin) -> None:
    open_renderer(origin, getattr(job.config, "chat", None))  # fails before any process is started


def find_entry(entry: str) -> Callable[[Job], None]:
    module, _, name = entry.partition(":")
    return getattr(importlib.import_module(module), name)


def _deliver(job: Job) -> None:
    """Fill `job.out` from scratch, where everything stays until the artifact is sealed."""
    summary = read_json(job.scratch / SUMMARY)
    kind = "cpu" if summary["device"] == "cpu" and job.config.precision == "fp32" else "cuda"
    folder = _kept(job)
    renderer = open_renderer(Origin(folder / "model"), read_json(folder / "model" / "alignc.json")["chat"])
    wanted = torch.load(folder / "probe.pt", weights_only=True)
    difference = reopen(folder / "model", renderer.probe(), wanted, REOPEN_TOLERANCE[kind])
    link_tree(folder / "model", job.out / "model")
    shutil.copyfile(job.scratch / state.LOG, job.out / state.LOG)
    job.report(**summary, reopened_difference=difference, mfu=_mfu(summary))


def _kept(job: Job) -> Path:
    """The checkpoint that this leg of the run is for."""
    return job.scratch / KEPT / f"epoch-{job.config.epochs}"


def _drop_earlier(job: Job) -> None:
    """Remove the checkpoints of other legs: they are sealed."""
    for folder in (job.scratch / KEPT).glob("epoch-*"):
        if folder != _kept(job):
            shutil.rmtree(folder)


def _mfu(summary: dict[str, Any]) -> float | None:
    """Model FLOP utilisation: 6 FLOPs a parameter and token, over the stated peak; attention left out."""
    peak = next((flops for name, flops in PEAKS.items() if name in summary["device"]), None)
    rate = summary["useful_tokens_per_s"]
    return (
        round(6 * summary["parameters"] * rate / (peak * summary["processes"]), 4) if peak and rate else None
    )


def _start_ranks(job: Job, entry: str) -> None:
    """Run one process for each rank; raises what the first failing rank raised."""
    write_json(job.scratch / DESCRIPTION, job.description)
    for old in job.scratch.glob("failure-*.json"):
        old.unlink()
    count = job.config.parallel.processes
    # The rendezvous is served here, on a port of the kernel's choice: no race for a free one.
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with Stop() as stop:
        ranks = [_start_rank(job, entry, rank, count, store.port) for rank in range(count)]
        try:
            codes = _wait(ranks, stop)
        finally:
            for process in ranks:
                process.kill()
                process.wait()
        if any(codes):
            if stop.asked is not None or INTERRUPTED in codes:
                stop.obey()
            _raise_failure(job, codes)


def _start_rank(job: Job, entry: str, rank: int, count: int, port: int) -> subprocess.Popen[bytes]:
    words = [
        sys.executable,
        "-m",
        "runtime.training.rank",
        str(job.root),
        str(job.scratch / DESCRIPTION),
        entry,
    ]
    return subprocess.Popen(words, env=_environment(job, rank, count, port))


def _environment(job: Job, rank: int, count: int, port: int) -> dict[str, str]:
    """What a rank finds in its environment: the variables of torchrun, threads shared fairly."""
    threads = str(max(1, job.resources.cpus // count))
    source = str(Path(__file__).resolve().parents[2])
    told = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": count,
        "LOCAL_WORLD_SIZE": count,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "ALIGNC_PARENT": os.getpid(),
        "PYTHONWARNINGS": "ignore::FutureWarning",  # of torch, at every call of DeepSpeed
        "PYTHONPATH": os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")])),
    }
    if sys.platform == "linux":
        told["GLOO_SOCKET_IFNAME"] = "lo"  # all ranks are on this machine, whatever its name resolves to
    if not torch.cuda.is_available():
        # accelerate must be told to stay on the CPU, but drops DeepSpeed when it is told so.
        told |= {"DS_ACCELERATOR": "cpu"} if job.config.parallel.deepspeed else {"ACCELERATE_USE_CPU": "true"}
    kept = {k: v for k, v in os.environ.items() if not k.startswith("ACCELERATE_")}
    return {**kept, **{name: str(value) for name, value in told.items()}}


def _wait(ranks: Sequence[subprocess.Popen[bytes]], stop: Stop) -> list[int]:
    """Exit codes, once all ended, or one ended badly and the others had time to notice; kills none."""
    told, deadline = False, float("inf")
    while any(process.poll() is None for process in ranks) and time.monotonic() < deadline:
        if stop.asked is not None and not told:
            told = True
            for process in ranks:
                process.terminate()  # they save at their next step, together
        if deadline == float("inf") and any(process.returncode not in (None, 0) for process in ranks):
            deadline = time.monotonic() + GRACE_S
        time.sleep(POLL_S)
    return [process.returncode or 0 for process in ranks]


def _raise_failure(job: Job, codes: Sequence[int]) -> None:
    """Raise the first failure: a rank that was killed says nothing, others complain of it later."""
    records = sorted(
        (read_json(path) for path in job.scratch.glob("failure-*.json")), key=lambda r: r["time"]
    )
    killed = [rank for rank, code in enumerate(codes) if code < 0]
    if killed:
        raise RuntimeError(f"rank {killed[0]} was killed by signal {-codes[killed[0]]} (memory?)")
    if not records:
        raise RuntimeError(f"the ranks ended with the exit codes {list(codes)}")
    first = records[0]
    if first["refused"]:
        raise JobError(first["message"])
    raise RuntimeError(f"rank {first['rank']} failed first:\n{first['traceback']}")


def end_run(run: Run) -> None:
    """Leave the other ranks in good order."""
    if run.config.parallel.processes > 1 or run.config.parallel.deepspeed:
        close_backend(run.backend)
