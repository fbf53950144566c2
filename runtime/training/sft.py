"""Supervised fine-tuning: the objective, and the stage's work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from runtime.job import Job
from runtime.training.batches import lay_out
from runtime.training.data import Example
from runtime.training.launch import carry_out, end_run, open_run
from runtime.training.loop import Part
from runtime.training.losses import example_weights, sft_loss
from runtime.training_config import Reduction


@dataclass
class Imitation:
    """Negative log-likelihood of completions and their EOS, under a named reduction."""

    examples: Sequence[Example]
    reduction: Reduction
    padding: bool = False
    dropout: bool = True
    names: tuple[str, ...] = ()

    def weights(self, batch: Sequence[int]) -> dict[int, float]:
        lengths = [self.examples[item].supervised for item in batch]
        return dict(zip(batch, example_weights(lengths, self.reduction), strict=True))

    def part(self, items: Sequence[int], weights: Mapping[int, float]) -> Part:
        sequences = [self.examples[item].sequences[0] for item in items]
        each = np.repeat([weights[item] for item in items], [s.supervised for s in sequences])
        return Part(lay_out(sequences, padded=self.padding), torch.from_numpy(each.astype(np.float32)))

    def loss(self, logps: Tensor, part: Part) -> tuple[Tensor, Tensor]:
        return sft_loss(logps, part.weights), logps.new_zeros(0)

    def check_first(self, figures: Mapping[str, float]) -> None:
        return


def train(job: Job) -> None:
    """Carry out an `sft` job: a checkpoint `model` and `training.jsonl` in its artifact."""
    carry_out(job, "runtime.training.sft:learn")


def learn(job: Job) -> None:
    """One rank's work."""
    config = job.config
    run = open_run(job, lambda rows, _: Imitation(rows, config.reduction, config.padding))
    run.finish()
    end_run(run)
