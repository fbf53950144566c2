"""The training loop of every loss: steps, figures, checkpoints, resuming."""

from __future__ import annotations

import json
import math
import os
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

import torch
from torch import Tensor

from runtime.chat import Renderer
from runtime.draws import generator_seed
from runtime.files import write_json
from runtime.job import Job, JobError
from runtime.models import save_model
from runtime.training import data, state
from runtime.training.batches import Batch
from runtime.training.data import Example, data_digest, steps_per_epoch
from runtime.training.flops import flops, mfu, rates_of, whole_shape, work_of
from runtime.training.folders import whole_folder
from runtime.training.lora import save_adapter
from runtime.training.parallel import Backend
from runtime.training.schedule import learning_rate
from runtime.training.stops import Stop
from runtime.training.trackers import Trackers, tracking
from runtime.training_config import TrainingConfig

# Seconds between resume states within an epoch, where one takes up to `CHEAP_S`; costlier states are
# made as much less often, so that they take a twentieth of the time at most. The variable is for tests.
RESUME_EVERY_S = float(os.environ.get("ALIGNC_RESUME_EVERY_S", "60"))
CHEAP_S = 3.0

KEPT = "kept"  # below scratch: kept/epoch-{n}/{model/, probe.pt}
SUMMARY = "summary.json"


@dataclass(frozen=True, slots=True)
class Part:
    """One micro-batch. weights: [N] of tokens or [P] of pairs; reference: [2, P] or None."""

    batch: Batch
    weights: Tensor
    reference: Tensor | None = None

    def to(self, device: torch.device) -> Part:
        reference = None if self.reference is None else self.reference.to(device)
        return Part(self.batch.to(device), self.weights.to(device), reference)


class Objective(Protocol):
    """What a run minimises: a sum over the items of a batch, so that any split of it is the same."""

    examples: Sequence[Example]
    dropout: bool  # whether the model's own dropout acts
    names: tuple[
        str, ...
    ]  # figures told beside the loss, batch means; `_name` is for checks, not for the log

    def weights(self, batch: Sequence[int]) -> dict[int, float]:
        """The weight of each item of an optimizer batch: its global denominator."""
        ...

    def part(self, items: Sequence[int], weights: Mapping[int, float]) -> Part:
        """The tensors of a micro-batch, on the CPU."""
        ...

    def loss(self, logps: Tensor, part: Part) -> tuple[Tensor, Tensor]:
        """This micro-batch's share of the loss (a scalar) and of the figures (one for each name)."""
        ...

    def check_first(self, figures: Mapping[str, float]) -> None:
        """Raise where the figures of step 0 are not what theory says."""
        ...


@dataclass
class Run:
    """One rank's run of a job from start, or from its last sealed state, to the last epoch."""

    job: Job
    backend: Backend
    objective: Objective
    renderer: Renderer
    told: dict[str, Any] = field(default_factory=dict)  # joins the summary
    position: state.Position = field(default_factory=state.Position)
    begun: state.Position = field(default_factory=state.Position)  # where this job's own work began
    units: list[list[int]] = field(default_factory=list)
    trackers: Trackers = field(default_factory=lambda: Trackers({}))

    @property
    def config(self) -> TrainingConfig:
        return self.job.config

    @property
    def scratch(self) -> Path:
        return self.job.scratch

    def finish(self) -> None:
        """Do all steps that are left."""
        digest = data_digest(self.objective.examples)
        self.units = data.units(self.objective.examples, self.config)
        self.position = state.restore(self.backend, self.scratch, digest)
        if self.backend.rank == 0:
            self.begun = state.first_position(self.job.out.parent, self.position)
            state.cut_log(self.scratch, self.position.step)
        self.backend.model.train(self.objective.dropout)
        path = self.scratch / state.LOG
        shown = tracking(self.job, self.backend.rank, path)
        with path.open("a", encoding="utf-8") as log, Stop() as stop, shown as self.trackers:
            self._steps(log, stop, digest)
        if not (self.scratch / KEPT / f"epoch-{self.config.epochs}").exists():
            self._keep(self.config.epochs)  # a longer run was stopped here, which did not want it
        if self.backend.rank == 0:
            write_json(self.scratch / SUMMARY, self._summary())

    def _steps(self, log: IO[str], stop: Stop, digest: str) -> None:
        per_epoch = self._per_epoch
        total = per_epoch * self.config.epochs
        horizon = per_epoch * (self.config.horizon or self.config.epochs)
        due = time.monotonic() + RESUME_EVERY_S
        for step in range(self.position.step, total):
            epoch, number = divmod(step, per_epoch)
            wishes = (stop.asked is not None, self.backend.rank == 0 and time.monotonic() > due)
            rate = learning_rate(self.config, step, horizon)
            stopping, saving = self._step(step, total, rate, self._batch(epoch, number), wishes, log)
            self.position.step = step + 1
            if step + 1 == total:
                self._keep(self.config.epochs)
            if number + 1 == per_epoch or stopping or saving:
                due = self._save(digest, epoch + 1)
            if stopping and step + 1 < total:
                stop.obey()

    def _save(self, digest: str, epoch: int) -> float:
        """Seal a resume state within `epoch`; returns when the next one is due (monotonic seconds)."""
        started = time.monotonic()
        with self._timed("save"):
            state.save(self.backend, self.scratch, self.position, digest, epoch)
        ended = time.monotonic()
        return ended + RESUME_EVERY_S * max(1.0, (ended - started) / CHEAP_S)

    @property
    def _per_epoch(self) -> int:
        return steps_per_epoch(len(self.units), self.config.batch_size)

    def _batch(self, epoch: int, number: int) -> list[int]:
        """Items of an optimizer batch: a pure function of (seed, epoch, number)."""
        if number == 0 or getattr(self, "_epoch", None) != epoch:
            self._epoch, self._order = epoch, data.order(self.config.seed, epoch, len(self.units))
        return data.batch(self.units, self._order, number, self.config.batch_size)

    def _parts(self, batch: Sequence[int]) -> Iterator[Part]:
        """This rank's micro-batches. An empty one is computed, at no weight: others wait for it."""
        weights = self.objective.weights(batch)
        padded = self.config.padding
        parts = data.parts(batch, self.objective.examples, self.config, self.backend.world, padded=padded)
        for items in parts[self.backend.rank]:
            part = (
                self.objective.part(items, weights)
                if items
                else self.objective.part(batch[:1], dict.fromkeys(batch, 0.0))
            )
            yield part.to(self.backend.device)

    def _step(
        self,
        step: int,
        total: int,
        rate: float,
        batch: Sequence[int],
        wishes: Sequence[bool],
        log: IO[str],
    ) -> tuple[bool, bool]:
        """One optimizer step. Returns whether any rank was asked to stop, and whether to save."""
        with self._timed("data"):
            parts = list(self._parts(batch))
        with self._timed("compute"):
            figures, norm = self._gradients(parts, rate, step)
            asked = torch.tensor(wishes, dtype=figures.dtype, device=figures.device)
            summed = self.backend.total(torch.cat([figures, asked]))
            *values, stopping, saving, norm_value = torch.cat(
                [summed, norm.reshape(1)]
            ).tolist()  # the step's one sync
            told = dict(zip(("loss", *self.objective.names), values, strict=True))
            self._require_finite(step, told["loss"], norm_value, batch)
            if step == 0:
                self.objective.check_first(told)
            self.backend.step()
        self._tell(step, total, batch, parts, log, {**told, "lr": rate, "grad_norm": norm_value})
        return stopping > 0, saving > 0

    def _gradients(self, parts: Sequence[Part], rate: float, step: int) -> tuple[Tensor, Tensor]:
        """Gradients of the batch loss; returns this rank's share of [loss, *figures] and the global norm."""
        backend = self.backend
        if self.objective.dropout:
            torch.manual_seed(
                generator_seed("dropout", self.config.seed, step, backend.rank)
            )  # so no state of it need be saved
        backend.set_rate(rate)
        shares: list[Tensor] = []
        for number, part in enumerate(parts, 1):
            last = number == len(parts)
            with backend.accumulating(last=last):
                loss, figures = self.objective.loss(backend.score(part.batch), part)
                backend.backward(loss, last=last)
            shares.append(torch.cat([loss.detach().reshape(1), figures.detach()]).double())
        return torch.stack(shares).sum(dim=0), backend.clip().double()

    def _require_finite(self, step: int, loss: float, norm: float, batch: Sequence[int]) -> None:
        if math.isfinite(loss) and math.isfinite(norm):
            return
        ids = [self.objective.examples[item].id for item in batch]
        raise JobError(
            f"step {step + 1}: the loss is {loss} and the gradient norm {norm}; "
            f"the batch has the rows {', '.join(ids)}"
        )

    def _tell(
        self,
        step: int,
        total: int,
        batch: Sequence[int],
        parts: Sequence[Part],
        log: IO[str],
        told: Mapping[str, float],
    ) -> None:
        examples = [self.objective.examples[item] for item in batch]
        self.position.useful += sum(e.tokens - len(e.sequences) for e in examples)
        self.position.computed += sum(part.batch.ids.numel() for part in parts)
        self.position.real += sum(part.batch.real for part in parts)
        if self.backend.rank:
            return
        epoch = step // self._per_epoch + 1
        counts = {
            "tokens": sum(e.tokens for e in examples),
            "supervised": sum(e.supervised for e in examples),
        }
        figures = {name: value for name, value in told.items() if not name.startswith("_")}
        row = {"step": step + 1, "epoch": epoch, **figures, **counts}
        log.write(json.dumps(row) + "\n")
        log.flush()
        self.trackers.tell(row)
        self.job.progress(step + 1, total, f"epoch {epoch}, loss {told['loss']:.4f}")

    def _keep(self, epoch: int) -> None:
        """Write the checkpoint of an epoch, with the probe to re-check it by."""
        with self._timed("save"):
            weights = self.backend.weights()
            probe = self.backend.probe(self.renderer.probe())
            if self.backend.rank == 0:
                told = {
                    "epoch": epoch,
                    "step": self.position.step,
                    "stage": self.job.kind.name,
                    "key": self.job.key,
                }
                with whole_folder(self.scratch / KEPT / f"epoch-{epoch}") as draft:
                    save_model(self.backend.lm, weights, self.renderer, draft / "model", told)
                    save_adapter(self.backend.lm, draft / "adapter")
                    torch.save(probe, draft / "probe.pt")
            self.backend.barrier()

    @contextmanager
    def _timed(self, kind: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.position.spend(kind, time.perf_counter() - started)

    def _summary(self) -> dict[str, Any]:
        """Figures of this job's own work, over all its tries; what it went on from is not counted."""
        examples = self.objective.examples
        own = self.position.since(self.begun)
        seconds = own.seconds.get("data", 0.0) + own.seconds.get("compute", 0.0)
        epochs = own.step / self._per_epoch
        supervised = round(epochs * sum(e.supervised for e in examples))
        rates = rates_of(self.backend.lm)
        done = round(epochs * flops(rates, work_of(examples))) if rates else None
        cuda = self.backend.device.type == "cuda"
        device = torch.cuda.get_device_name() if cuda else "cpu"
        return {
            **self.told,
            "steps": own.step,
            "went_on_from_step": self.begun.step,
            "useful_tokens": own.useful,
            "supervised_tokens": supervised,
            "useful_tokens_per_s": round(own.useful / seconds, 1) if seconds else None,
            "supervised_tokens_per_s": round(supervised / seconds, 1) if seconds else None,
            "model_flops": done,
            "mfu": mfu(done, seconds, device, self.backend.world) if done else None,
            "padding_share": round(1 - own.real / max(1, own.computed), 4),
            "seconds": {kind: round(spent, 3) for kind, spent in own.seconds.items()},
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "peak_gpu_bytes": torch.cuda.max_memory_allocated() if cuda else None,
            "parameters": sum(math.prod(whole_shape(p)) for p in self.backend.lm.parameters()),
            "processes": self.backend.world,
            "device": device,
        }
