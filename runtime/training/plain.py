"""One process, or DDP over several: every process holds the whole model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from runtime.training.batches import Batch, lay_out
from runtime.training.data import Tokens
from runtime.training.lora import load_trained_state, merged, trained_state
from runtime.training.parallel import STATE, Backend, make_optimizer
from runtime.training.scoring import scorer_of


class Plain(Backend):
    """One process, or DDP over several."""

    def wrap(self, lm: Any) -> None:
        optimizer = make_optimizer(lm, self.config, fused=True)
        scorer = scorer_of(lm, flat=not self.config.padding).to(self.device)
        with warnings.catch_warnings():  # torch renamed an argument that accelerate still passes
            warnings.filterwarnings("ignore", ".*broadcast_buffers.*", FutureWarning)
            self.model, self.optimizer = self.accelerator.prepare(scorer, optimizer)
        if self.world > 1:
            self._settle()

    def _settle(self) -> None:
        """Pass once in vain: DDP lays its buckets out anew after the first, which changes the order of sums.

        Else the first step after a resumption would not give the bits of the same step in a whole run.
        """
        batch = lay_out([Tokens(np.zeros(3, np.int32), 1)], padded=self.config.padding).to(self.device)
        nothing = super().score(batch).sum() * 0.0
        self.accelerator.backward(nothing)
        self.optimizer.zero_grad()

    @contextmanager
    def accumulating(self, *, last: bool) -> Iterator[None]:
        with nullcontext() if last else self.accelerator.no_sync(self.model):
            yield

    def score(self, batch: Batch) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            return super().score(batch)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        self.accelerator.backward(loss * self.world)  # DDP takes the mean over ranks, the loss is a sum

    def clip(self) -> Tensor:
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        return norm.detach()

    def step(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()

    def weights(self) -> dict[str, Tensor]:
        return merged(self.lm)

    def save_state(self, folder: Path) -> None:
        if self.rank == 0:  # the same on every rank
            state = {"model": trained_state(self.lm), "optimizer": self.optimizer.state_dict()}
            torch.save(state, folder / STATE)

    def load_state(self, folder: Path) -> None:
        state = torch.load(folder / STATE, map_location="cpu", weights_only=True, mmap=True)
        load_trained_state(self.lm, state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
