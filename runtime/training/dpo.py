"""Direct preference optimisation: reference log-probabilities, the objective, and the stage's work."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runtime.files import read_rows, sync, write_atomic
from runtime.job import Job, JobError
from runtime.stages.dpo import Dpo
from runtime.training.batches import lay_out_pairs
from runtime.training.data import Example, data_digest, split
from runtime.training.launch import carry_out, end_run, open_run, work_on
from runtime.training.loop import Part
from runtime.training.losses import (
    apo_zero_loss,
    dpo_loss,
    ipo_loss,
    loss_without_margin,
    robust_loss,
    sequence_sums,
    simpo_loss,
)
from runtime.training.parallel import Backend

REFERENCE = "reference.jsonl"

# How far the policy may be from its reference before the first step, in nats a supervised token: they
# are the same weights, computed in batches of other shapes.
STEP0_TOLERANCE = {"fp32": 1e-4, "bf16": 3e-2}

# A margin up to this, in nats, is rounding: before the first step chosen does not lead anywhere.
ROUNDING = 1e-4


@dataclass
class Preference:
    """The loss of pairs against fixed reference log-probabilities; the mean over the batch's pairs.

    reference: [len(examples), 2], log-probabilities of chosen and rejected, fp32; zeros for SimPO, which
    has none. Dropout is off, as it was for the reference.
    """

    examples: Sequence[Example]
    reference: Tensor
    config: Dpo
    dropout: bool = False
    names: tuple[str, ...] = ("reward_chosen", "reward_rejected", "margin", "accuracy", "_drift")

    def weights(self, batch: Sequence[int]) -> dict[int, float]:
        return dict.fromkeys(batch, 1.0 / len(batch))

    def part(self, items: Sequence[int], weights: Mapping[int, float]) -> Part:
        """All chosen, then all rejected sequences of the items."""
        batch = lay_out_pairs(self.examples, items, padded=self.config.padding)
        each = torch.tensor([weights[item] for item in items], dtype=torch.float32)
        return Part(batch, each, self.reference[list(items)].T.contiguous())

    def loss(self, logps: Tensor, part: Part) -> tuple[Tensor, Tensor]:
        """Figures: rewards beta * (log pi - log pi_ref) and their difference, and how often chosen leads.

        SimPO's rewards are beta * log pi a token.
        """
        if part.reference is None:
            raise RuntimeError("pairs need reference log-probabilities")
        drift = sequence_sums(logps, part.batch.spans).view(2, -1) - part.reference
        means = drift / part.batch.spans.sum(dim=1).view(2, -1)
        losses = pair_losses(self.config, drift, means)
        if self.config.loss == "simpo":
            drift = means
        beta, margins = self.config.beta, drift[0] - drift[1]
        told = [
            beta * drift[0],
            beta * drift[1],
            beta * margins,
            (margins > ROUNDING).float(),
            drift.abs().sum(dim=0),
        ]
        return (losses * part.weights).sum(), (torch.stack(told) * part.weights).sum(dim=1)

    def check_first(self, figures: Mapping[str, float]) -> None:
        """Raise RuntimeError unless rewards are 0 and the loss is `loss_without_margin`, but for rounding.

        SimPO knows no reference, so nothing is known of its first loss.
        """
        if self.config.loss == "simpo":
            return
        beta = self.config.beta
        limit = STEP0_TOLERANCE[self.config.precision] * max(e.supervised for e in self.examples)
        if self.config.loss.startswith("ipo"):
            allowed = limit / beta + limit**2
        else:
            allowed = beta * limit / (1 - 2 * self.config.label_smoothing)
        expected = loss_without_margin(self.config.loss, beta)
        if figures["_drift"] > limit or abs(figures["loss"] - expected) > allowed:
            raise RuntimeError(
                "before the first step the policy must equal its reference, but their log-probabilities are "
                f"{figures['_drift']:.2e} nats apart ({limit:.1e} allowed), and the loss is "
                f"{figures['loss']:.6f} instead of {expected:.6f}"
            )


def pair_losses(config: Dpo, drift: Tensor, means: Tensor) -> Tensor:
    """Losses [P] of pairs by name.

    drift: [2, P], log pi - log pi_ref of the chosen and of the rejected answers, in nats; means: the
    same a supervised token.
    """
    beta, margins = config.beta, drift[0] - drift[1]
    if config.loss == "sigmoid":
        return dpo_loss(margins, beta, config.label_smoothing)
    if config.loss == "robust":
        return robust_loss(margins, beta, config.label_smoothing)
    if config.loss == "apo_zero":
        return apo_zero_loss(drift, beta)
    if config.loss == "simpo":
        return simpo_loss(means[0] - means[1], beta, config.gamma)
    return ipo_loss(margins if config.loss == "ipo" else means[0] - means[1], beta)


def reference_logps(job: Job, examples: Sequence[Example], backend: Backend) -> Tensor:
    """Log-probabilities [len(examples), 2] of all sequences under the unchanged model.

    Read from the input `reference` where the job has one of use. Else computed by the training's own forward
    pass, and kept by row id in scratch, batch by batch: once, however often the run is stopped.
    """
    lora, digest = job.config.lora, data_digest(examples)
    given = None if lora is not None and lora.quantize else job.optional("reference")  # that has all bits
    path = job.scratch / REFERENCE
    if given is not None:
        _require_header(given.path, digest)
        path = given.path
    known = _read_known(path, digest) if backend.rank == 0 else {}
    known = _share(known, backend)
    left = [item for item, example in enumerate(examples) if example.id not in known]
    left.sort(key=lambda item: -examples[item].tokens)
    size = (job.config.micro_batch or job.config.batch_size) * backend.world
    backend.model.eval()
    for first in range(0, len(left), size):
        group = left[first : first + size]
        rows = zip(group, _score_group(group, examples, backend).tolist(), strict=True)
        fresh = {examples[item].id: pair for item, pair in rows}
        known |= fresh
        if backend.rank == 0:
            _append(path, fresh)
            job.progress(len(known), len(examples), "reference log-probabilities")
    if backend.rank == 0:
        sync(path)
    return torch.tensor([known[example.id] for example in examples], dtype=torch.float32)


def _score_group(group: Sequence[int], examples: Sequence[Example], backend: Backend) -> Tensor:
    """Log-probabilities [len(group), 2]; each rank computes a part of the group, and all get the whole."""
    place = {item: row for row, item in enumerate(group)}
    values = torch.zeros(len(group), 2, dtype=torch.float64, device=backend.device)
    parts = split(
        group, [examples[item].tokens for item in group], backend.world, padded=backend.config.padding
    )
    items = parts[backend.rank][0]
    mine = items or group[:1]  # a rank without a share computes too: others wait for its collectives
    batch = lay_out_pairs(examples, mine, padded=backend.config.padding).to(backend.device)
    with torch.no_grad():
        sums = sequence_sums(backend.score(batch), batch.spans).view(2, -1).T
    if items:
        values[[place[item] for item in items]] = sums.double()
    return backend.total(values)


def _append(path: Path, fresh: Mapping[str, Sequence[float]]) -> None:
    with path.open("a", encoding="utf-8") as file:
        for name, (chosen, rejected) in fresh.items():
            file.write(json.dumps({"id": name, "chosen": chosen, "rejected": rejected}) + "\n")


def _read_known(path: Path, digest: str) -> dict[str, list[float]]:
    """What earlier tries computed of the same data. Starts the file anew where there is nothing of use."""
    header = json.dumps({"data": digest}) + "\n"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    whole = [line for line in lines if line.endswith("\n")]
    if whole[:1] != [header]:
        whole = [header]
    if whole != lines:
        write_atomic(path, "".join(whole))
    rows: list[dict[str, Any]] = [json.loads(line) for line in whole[1:]]
    return {row["id"]: [row["chosen"], row["rejected"]] for row in rows}


def _require_header(path: Path, digest: str) -> None:
    """Raise JobError where log-probabilities that were given are not of this data in this rendering."""
    with path.open(encoding="utf-8") as file:
        if json.loads(file.readline() or "{}") != {"data": digest}:
            raise JobError(
                "the input `reference` was computed for other pairs, or for other tokens of them: "
                "give it the same `model`, `data`, lengths and truncation as this stage, or leave it out"
            )


def _share(known: dict[str, list[float]], backend: Backend) -> dict[str, list[float]]:
    """Rank 0's value on every rank."""
    if backend.world == 1:
        return known
    box: list[Any] = [known]
    torch.distributed.broadcast_object_list(box, src=0, device=backend.device)
    return box[0]


def train(job: Job) -> None:
    """Carry out a `dpo` job: a checkpoint `model` and `training.jsonl` in its artifact."""
    carry_out(job, "runtime.training.dpo:learn")


def make_reference(job: Job) -> None:
    """Carry out a `reference` job: `reference.jsonl` in its artifact, as a `dpo` job keeps it."""
    _as_training(job)
    work_on(job, "runtime.training.dpo:refer")
    shutil.copyfile(job.scratch / REFERENCE, job.out / REFERENCE)
    job.report(pairs=sum(1 for _ in read_rows(job.out / REFERENCE)) - 1)


def _as_training(job: Job) -> None:
    """Give the job the config of a training on the same pairs, of which only the first pass is done."""
    told = job.config.model_dump(exclude={"kind", "note", "resources"})
    job.config = Dpo.model_validate({"kind": "dpo", "epochs": 1, "learning_rate": 1.0, **told})


def refer(job: Job) -> None:
    """One rank's work of a `reference` job."""
    if not isinstance(job.config, Dpo):
        _as_training(job)
    learn(job, only_reference=True)


def learn(job: Job, *, only_reference: bool = False) -> None:
    """One rank's work."""

    def objective(examples: list[Example], backend: Backend) -> Preference:
        if job.config.loss == "simpo" and not only_reference:
            return Preference(examples, torch.zeros(len(examples), 2), job.config)
        if len({example.id for example in examples}) != len(examples):
            raise JobError(
                f"{job.input('data').path}: ids repeat, so reference log-probabilities cannot be told apart"
            )
        return Preference(examples, reference_logps(job, examples, backend), job.config)

    run = open_run(job, objective)
    if not only_reference:
        run.finish()
    end_run(run)
