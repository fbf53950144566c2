"""How one run is spread over processes: the interface that the loop sees, and its opening."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runtime.training.batches import Batch
from runtime.training.rounding import RoundedAdamW, RoundedRmsprop
from runtime.training.scoring import Scorer
from runtime.training_config import TrainingConfig

STATE = "state.pt"  # the resume state of every backend but DeepSpeed's


def launch_shape(config: TrainingConfig) -> dict[str, Any]:
    """What a resume state depends on: only DeepSpeed's; all others read the same one, on any number."""
    stage = config.parallel.zero_stage
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
    groups = [g for g in groups if g["params"]]
    rate, rounded = config.learning_rate, config.optimizer_states == "bf16"
    if config.optimizer_states == "8bit":
        from runtime.training.quantized import eight_bit  # an optional package

        return eight_bit([*matrices, *vectors] if config.optimizer == "rmsprop" else groups, config)
    if config.optimizer == "rmsprop":
        both = [*matrices, *vectors]
        return RoundedRmsprop(both, config.seed, lr=rate) if rounded else torch.optim.RMSprop(both, lr=rate)
    if rounded:
        return RoundedAdamW(groups, config.seed, lr=rate, betas=config.betas)
    return torch.optim.AdamW(groups, lr=rate, betas=config.betas, fused=fused)


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
            return self.scorer.probe(ids)
        finally:
            self.model.train(mode)

    def total(self, values: Tensor) -> Tensor:
        """The sum over ranks."""
        if self.world > 1:
            torch.distributed.all_reduce(values)
        return values

    def barrier(self) -> None:
        self.accelerator.wait_for_everyone()


def open_backend(config: TrainingConfig) -> Backend:
    """Start accelerate as the config plans it; RuntimeError where it silently did something else."""
    from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
    from accelerate.utils import DistributedType

    from runtime.training.fsdp import Fsdp  # here, for they are made of what is above
    from runtime.training.plain import Plain
    from runtime.training.zero import Zero, zero_plugin

    parallel, cuda = config.parallel, torch.cuda.is_available()
    stage, planned = parallel.zero_stage, parallel.processes
    handlers: list[Any] = []
    if stage and not cuda:
        handlers.append(InitProcessGroupKwargs(backend="gloo"))  # else every rank believes it is alone
    if not stage and planned > 1:
        handlers.append(DistributedDataParallelKwargs(gradient_as_bucket_view=True, broadcast_buffers=False))
    accelerator = Accelerator(
        # Without DeepSpeed, autocast is ours: accelerate's would copy all outputs to fp32.
        mixed_precision="bf16" if stage and config.precision == "bf16" else "no",
        deepspeed_plugin=zero_plugin(config, stage) if stage else None,
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
    backend = Zero if stage else Fsdp if config.parallel.sharding else Plain
    return backend(config, accelerator)


def close_backend(backend: Backend) -> None:
    """Leave the process group, so that the process can end without a warning."""
    backend.barrier()
    backend.accelerator.end_training()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
