"""Carries out a training job, in this process or in ranks, and makes what they leave behind its artifact."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from runtime.chat import Renderer
from runtime.files import read_json, read_rows
from runtime.job import Job, JobError
from runtime.models import REOPEN_TOLERANCE, Origin, load_model, locate, longest, open_renderer, reopen
from runtime.training import state
from runtime.training.data import Counts, Cut, Example, Lengths, read_examples
from runtime.training.folders import link_tree
from runtime.training.isolation import require_isolation
from runtime.training.layers import arrange
from runtime.training.loop import KEPT, SUMMARY, Objective, Run
from runtime.training.lora import adapt
from runtime.training.needs import lacking
from runtime.training.parallel import Backend, close_backend, open_backend
from runtime.training.ranks import run_ranks
from runtime.training_config import TrainingConfig

# ---------------------------------------------------------------- one rank


def open_run(
    job: Job,
    objective: Callable[[list[Example], Backend], Objective],
    load: Callable[[Path, torch.dtype], Any] = load_model,
) -> Run:
    """Everything a rank needs: processes met, data tokenised, model loaded and wrapped."""
    config: TrainingConfig = job.config
    origin = locate(job.input("model"), job.scratch, _no_texts)
    renderer = open_renderer(origin, getattr(config, "chat", None))
    cut = Cut(Lengths(config.max_length, config.max_prompt_length, config.truncation))
    examples = read_examples(job.input("data").path, renderer, config.completions, cut)
    backend = open_backend(config)
    lm = load(origin.folder, torch.float32)
    require_room(lm.config, renderer, examples)
    adapt(lm, config)
    backend.wrap(lm)
    arrange(backend.lm, config)
    if not config.padding:
        require_isolation(backend)
    return Run(job, backend, objective(examples, backend), renderer, told=_told(cut.counts))


def _no_texts() -> Iterable[str]:
    raise RuntimeError("the model should have been made before the ranks were started")


def _told(counts: Counts) -> dict[str, Any]:
    return {"truncation": counts.told()}


def require_room(config: Any, renderer: Renderer, examples: Sequence[Example]) -> None:
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


def origin_of(job: Job) -> Origin:
    """The model a training starts from; one that is made for the job learns its tokens from the data."""

    def texts() -> Iterator[str]:
        for row in read_rows(job.input("data").path):
            yield "".join(str(row.get(name, "")) for name in ("prompt", *job.config.completions))

    return locate(job.input("model"), job.scratch, texts)


def carry_out(job: Job, entry: str, check: Callable[[Path, list[int], Any, float], float] = reopen) -> None:
    """Train, here or in ranks of their own, then re-check the checkpoint and put it into `job.out`.

    entry: `module:function`, one rank's work, called with the job. check: as `reopen`.
    """
    _drop_earlier(job)
    work_on(job, entry)
    _deliver(job, check)


def work_on(job: Job, entry: str) -> None:
    """Do one rank's work here, or start ranks for it; `entry` as in `carry_out`."""
    open_renderer(origin_of(job), getattr(job.config, "chat", None))  # fails before any process is started
    if lack := lacking(job.config):
        raise JobError(lack)
    parallel = job.config.parallel
    if parallel.processes == 1 and parallel.deepspeed is None:
        find_entry(entry)(job)
    else:
        run_ranks(job, entry)


def find_entry(entry: str) -> Callable[[Job], None]:
    module, _, name = entry.partition(":")
    return getattr(importlib.import_module(module), name)


def _deliver(job: Job, check: Callable[[Path, list[int], Any, float], float]) -> None:
    """Fill `job.out` from scratch, where everything stays until the artifact is sealed."""
    summary = read_json(job.scratch / SUMMARY)
    kind = "cpu" if summary["device"] == "cpu" and job.config.precision == "fp32" else "cuda"
    folder = _kept(job)
    renderer = open_renderer(Origin(folder / "model"), read_json(folder / "model" / "alignc.json")["chat"])
    wanted = torch.load(folder / "probe.pt", weights_only=True)
    difference = check(folder / "model", renderer.probe(), wanted, REOPEN_TOLERANCE[kind])
    link_tree(folder / "model", job.out / "model")
    if (folder / "adapter").exists():
        link_tree(folder / "adapter", job.out / "adapter")
    shutil.copyfile(job.scratch / state.LOG, job.out / state.LOG)
    job.report(**summary, reopened_difference=difference)


def _kept(job: Job) -> Path:
    """The checkpoint that this leg of the run is for."""
    return job.scratch / KEPT / f"epoch-{job.config.epochs}"


def _drop_earlier(job: Job) -> None:
    """Remove the checkpoints of other legs: they are sealed."""
    for folder in (job.scratch / KEPT).glob("epoch-*"):
        if folder != _kept(job):
            shutil.rmtree(folder)


def end_run(run: Run) -> None:
    """Leave the other ranks in good order."""
    if run.config.parallel.processes > 1 or run.config.parallel.deepspeed:
        close_backend(run.backend)
