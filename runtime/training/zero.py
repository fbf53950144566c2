"""DeepSpeed ZeRO: optimizer states, then gradients, then weights are spread over processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runtime.training.parallel import Backend, make_optimizer
from runtime.training.scoring import scorer_of
from runtime.training_config import TrainingConfig

_TAG = "zero"


class Zero(Backend):
    """DeepSpeed ZeRO: its engine clips, steps and clears the gradients within `backward`."""

    def wrap(self, lm: Any) -> None:
        exact = {name: buffer.clone() for name, buffer in lm.named_buffers()}
        optimizer = make_optimizer(lm, self.config, fused=False)
        self.model, self.optimizer = self.accelerator.prepare(
            scorer_of(lm, flat=not self.config.padding), optimizer
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


def zero_plugin(config: TrainingConfig, stage: int) -> Any:
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
