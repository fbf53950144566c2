"""How one run is spread over processes: plain, DDP or DeepSpeed ZeRO behind one interface."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from runtime.models import probe_logits
from runtime.training.batches import Batch, lay_out
from runtime.training.data import Tokens
from runtime.training.lora import load_trained_state, merged, trained_state
from runtime.training.scoring import Scorer
from runtime.training_config import TrainingConfig

_STATE = "state.pt"
_TAG = "zero"


def zero_stage(config: TrainingConfig) -> int:
    """DeepSpeed's ZeRO stage; 0 without DeepSpeed."""
    name = config.parallel.deepspeed
    return int(name.removeprefix("zero")) if name else 0


def launch_shape(config: TrainingConfig) -> dict[str, Any]:
    """What a resume state depends on: without DeepSpeed it is the same for any number of processes."""
    stage = zero_stage(config)
    return {"zero": stage, "processes": config.parallel.processes if stage else None}


def make_optimizer(lm: Any, config: TrainingConfig, *, fused: bool) -> torch.optim.Optimizer:
    """The optimizer of a config. Weight decay spares vectors (norms and biases), as is usual."""
    trained = [p for p in lm.parameters() if p.requires_grad]
    matrices = [p for p in trained if len(getattr(p, "ds_shape", p.shape)) > 1]  # ds_shape: under ZeRO-3
    vectors = [p for p in trained if len(getattr(p, "ds_shape", p.shape)) <= 1]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop([*matrices, *vectors], lr=config.learning_rate)
    return torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=config.learning_rate, betas=config.betas, fused=fused
    )


@dataclass
class Backend(ABC):
    """One process's part in a run. All methods are collectives: every rank calls them alike."""

    config: TrainingConfig
    accelerator: Any
    model: Any = None
    optimizer: Any = None

    @property
    def rank(self) -> int:
        return int(self.accelerator.process_index)

    @property
    def world(self) -> int:
        return int(self.accelerator.num_processes)

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def lm(self) -> Any:
        """The Hugging Face model inside the wrappers."""
        return self.scorer.lm

    @property
    def scorer(self) -> Scorer:
        return getattr(self.model, "module", self.model)  # accelerate's unwrapping would import DeepSpeed

    @abstractmethod
    def wrap(self, lm: Any) -> None:
        """Take a loaded model and make its optimizer."""

    @abstractmethod
    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradient of this rank's share of the batch loss; `last` closes the batch."""

    @abstractmethod
    def clip(self) -> Tensor:
        """Clip the gradients; returns their norm before. Under DeepSpeed the step is then done already."""

    @abstractmethod
    def step(self) -> None:
        """Update the weights."""

    @abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """The full weights by name, on rank 0 (elsewhere perhaps nothing)."""

    @abstractmethod
    def save_state(self, folder: Path) -> None:
        """Write weights and optimizer, bit by bit."""

    @abstractmethod
    def load_state(self, folder: Path) -> None:
        """Read what `save_state` wrote; whatever is missing or has another shape is an error."""

    def set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def score(self, batch: Batch) -> Tensor:
        """Log-probabilities [N] of the supervised tokens, through the wrapped model."""
        return self.model(batch.ids, batch.positions, batch.picks, batch.targets, batch.layout)

    @contextmanager
    def accumulating(self, *, last: bool) -> Iterator[None]:
        """The block of one micro-batch; gradients are exchanged after the last one only."""
        yield

    def probe(self, ids: list[int]) -> Tensor:
        """Logits [T, V] of the bare model, without dropout."""
        mode = self.model.training
        self.model.eval()
        try:
            return probe_logits(self.lm, ids)
        finally:
            self.model.train(mode)

    def total(self, values: Tensor) -> Tensor:
        """The sum over ranks."""
        if self.world > 1:
            torch.distributed.all_reduce(values)
        return values

    def barrier(self) -> None:
        self.accelerator.wait_for_everyone()


class Plain(Backend):
    """One process, or DDP over several."""

    def wrap(self, lm: Any) -> None:
        optimizer = make_optimizer(lm, self.config, fused=True)
        scorer = Scorer(lm, flat=not self.config.padding).to(self.device)
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
            torch.save(state, folder / _STATE)

    def load_state(self, folder: Path) -> None:
        state = torch.load(folder / _STATE, map_location="cpu", weights_only=True, mmap=True)
        load_trained_state(self.lm, state["model"])
        self.optimizer.load_state_dict(state["optimizer"])


class Zero(Backend):
    """DeepSpeed ZeRO: its engine clips, steps and clears the gradients within `backward`."""

    def wrap(self, lm: Any) -> None:
        exact = {name: buffer.clone() for name, buffer in lm.named_buffers()}
        optimizer = make_optimizer(lm, self.config, fused=False)
        self.model, self.optimizer = self.accelerator.prepare(
            Scorer(lm, flat=not self.config.padding), optimizer
        )
        # The engine rounds buffers to bf16 too; rotary frequencies do not survive that.
        for name, buffer in self.lm.named_buffers():
            buffer.data = exact[name].to(self.device)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        engine = self.accelerator.deepspeed_engine_wrapped
        engine.backward(loss * self.world, sync_gradients=last)  # ZeRO takes the mean over ranks

    def clip(self) -> Tensor:
        return torch.as_tensor(
            self.accelerator.deepspeed_engine_wrapped.get_global_grad_norm(), device=self.device
        )

    def step(self) -> None:
        return

    def weights(self) -> dict[str, Tensor]:
        from deepspeed.utils import safe_get_full_fp32_param

        # The master weights, not the engine's 16-bit copy; each is put together by all ranks.
        full: dict[str, Tensor] = {}
        for name, parameter in self.lm.named_parameters():
            value = safe_get_full_fp32_param(parameter)
            if self.rank == 0:
                full[name] = value.detach().cpu().clone()
        buffers = {name for name, _ in self.lm.named_buffers()}
        return full | {name: value for name, value in self.lm.state_dict().items() if name in buffers}

    def save_state(self, folder: Path) -> None:
        self.model.save_checkpoint(str(folder), tag=_TAG)

    def load_state(self, folder: Path) -> None:
        found, _ = self.model.load_checkpoint(str(folder), tag=_TAG)
        if found is None:
            raise RuntimeError(f"DeepSpeed found no state in {folder}")


def open_backend(config: TrainingConfig) -> Backend:
    """Start accelerate as the config plans it; RuntimeError where it silently did something else."""
    from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
    from accelerate.utils import DistributedType

    stage, planned, cuda = zero_stage(config), config.parallel.processes, torch.cuda.is_available()
    handlers: list[Any] = []
    if stage and not cuda:
        handlers.append(InitProcessGroupKwargs(backend="gloo"))  # else every rank believes it is alone
    if not stage and planned > 1:
        handlers.append(DistributedDataParallelKwargs(gradient_as_bucket_view=True, broadcast_buffers=False))
    accelerator = Accelerator(
        # Without DeepSpeed, autocast is ours: accelerate's would copy all outputs to fp32.
        mixed_precision="bf16" if stage and config.precision == "bf16" else "no",
        deepspeed_plugin=_zero_plugin(config, stage) if stage else None,
        kwargs_handlers=handlers,
    )
    if stage:
        wanted = DistributedType.DEEPSPEED
    elif planned == 1:
        wanted = DistributedType.NO
    else:
        wanted = DistributedType.MULTI_GPU if cuda else DistributedType.MULTI_CPU
    got = (accelerator.num_processes, accelerator.distributed_type)
    if got != (planned, wanted):
        raise RuntimeError(
            f"{planned} processes of {wanted} were planned, but accelerate started {got[0]} of {got[1]}"
        )
    return (Zero if stage else Plain)(config, accelerator)


def _zero_plugin(config: TrainingConfig, stage: int) -> Any:
    from accelerate import DeepSpeedPlugin

    plugin = DeepSpeedPlugin(
        zero_stage=stage,
        zero3_init_flag=stage == 3,
        gradient_accumulation_steps=1,
        gradient_clipping=config.max_grad_norm,
    )
    # Our batches have no fixed size. The engine insists on one, and then has no use for it.
    plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = 1
    return plugin


def close_backend(backend: Backend) -> None:
    """Leave the process group, so that the process can end without a warning."""
    backend.barrier()
    backend.accelerator.end_training()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
