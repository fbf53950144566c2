"""Reward models: the objective, and the stage's work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from runtime.job import Job
from runtime.models import reopen
from runtime.reward_models import load_reward_model, probe_pooled, set_filler, start_reward_model
from runtime.stages.reward import Reward
from runtime.training.batches import lay_out_pairs
from runtime.training.data import Example
from runtime.training.launch import carry_out, end_run, open_run
from runtime.training.loop import Part
from runtime.training.losses import reward_loss


@dataclass
class Ranking:
    """The Bradley-Terry loss of pairs; the mean over the batch's pairs."""

    examples: Sequence[Example]
    config: Reward
    dropout: bool = False
    names: tuple[str, ...] = ("reward_chosen", "reward_rejected", "margin", "accuracy")

    def weights(self, batch: Sequence[int]) -> dict[int, float]:
        return dict.fromkeys(batch, 1.0 / len(batch))

    def part(self, items: Sequence[int], weights: Mapping[int, float]) -> Part:
        """All chosen, then all rejected sequences of the items, with their last tokens."""
        batch = lay_out_pairs(self.examples, items, padded=self.config.padding, whole=True)
        return Part(batch, torch.tensor([weights[item] for item in items], dtype=torch.float32))

    def loss(self, logps: Tensor, part: Part) -> tuple[Tensor, Tensor]:
        """`logps` are rewards [2 P] here. Figures: rewards, their difference, how often chosen leads."""
        rewards = logps.view(2, -1)
        margins = rewards[0] - rewards[1]
        told = torch.stack([rewards[0], rewards[1], margins, (margins > 0).float()])
        losses = reward_loss(rewards, self.config.centering)
        return (losses * part.weights).sum(), (told * part.weights).sum(dim=1)

    def check_first(self, figures: Mapping[str, float]) -> None:
        """The head starts at random, so nothing is known of the first loss."""


def train(job: Job) -> None:
    """Carry out a `reward` job: a checkpoint `model` and `training.jsonl` in its artifact."""
    check = partial(reopen, load=load_reward_model, probe=probe_pooled)
    carry_out(job, "runtime.training.reward:learn", check)


def learn(job: Job) -> None:
    """One rank's work."""
    load = partial(start_reward_model, seed=job.config.seed)
    run = open_run(job, lambda rows, _: Ranking(rows, job.config), load)
    set_filler(run.backend.lm, run.renderer.tokenizer)
    run.finish()
    end_run(run)
