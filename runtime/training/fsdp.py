"""FSDP2: weights, gradients and optimizer states are spread over processes by torch itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from runtime.job import JobError
from runtime.training.parallel import STATE, Backend, make_optimizer
from runtime.training.scoring import scorer_of


class Fsdp(Backend):
    """Shards of each decoder layer, gathered while it is computed; what is in no layer is gathered once.

    Master weights and sums of gradients are fp32. The resume state is that of `Plain`.
    """

    def wrap(self, lm: Any) -> None:
        scorer = scorer_of(lm, flat=not self.config.padding)
        policy = MixedPrecisionPolicy()
        if self.config.precision == "bf16":  # buffers, as rotary frequencies, keep their fp32
            policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        mesh = init_device_mesh(self.device.type, (self.world,))
        for layer in _layers(lm):
            fully_shard(layer, mesh=mesh, mp_policy=policy)
        fully_shard(scorer, mesh=mesh, mp_policy=policy)
        register_fsdp_forward_method(scorer, "probe")
        self.model = scorer
        self.optimizer = make_optimizer(lm, self.config, fused=True)  # of the shards: they are new parameters

    def backward(self, loss: Tensor, *, last: bool) -> None:
        (loss * self.world).backward()  # FSDP takes the mean over ranks, the loss is a sum

    def clip(self) -> Tensor:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        torch.nn.utils.clip_grads_with_norm_(parameters, self.config.max_grad_norm, norm)
        return norm

    def step(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()

    def weights(self) -> dict[str, Tensor]:
        found: dict[int, Tensor] = {}  # tied weights stay one tensor
        named = self.lm.state_dict(keep_vars=True)
        for value in named.values():
            if id(value) not in found:
                found[id(value)] = self._whole(value)
        return {name: found[id(value)] for name, value in named.items()} if self.rank == 0 else {}

    def save_state(self, folder: Path) -> None:
        weights, optimizer = self.weights(), self.optimizer.state_dict()
        optimizer["state"] = {
            number: {name: self._whole(value) for name, value in own.items()}
            for number, own in optimizer["state"].items()
        }
        if self.rank == 0:
            torch.save({"model": weights, "optimizer": optimizer}, folder / STATE)

    def load_state(self, folder: Path) -> None:
        state = torch.load(folder / STATE, map_location="cpu", weights_only=True, mmap=True)
        named = self.lm.state_dict()
        shards = {name: _shard(value, named.get(name)) for name, value in state["model"].items()}
        self.lm.load_state_dict(shards, strict=True)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        state["optimizer"]["state"] = {
            number: _shards(own, parameters[number]) for number, own in state["optimizer"]["state"].items()
        }
        self.optimizer.load_state_dict(state["optimizer"])

    def _whole(self, value: Tensor) -> Tensor:
        """All of a tensor in rank 0's memory, put together by all ranks; nothing elsewhere."""
        value = value.detach()
        if isinstance(value, DTensor):
            value = value.full_tensor()
        return value.cpu() if self.rank == 0 else torch.empty(0)


def _layers(lm: Any) -> list[Any]:
    """The modules that the model itself calls indivisible: its decoder layers."""
    names = set(lm._no_split_modules or ())
    found = [module for module in lm.modules() if type(module).__name__ in names]
    if not found:
        raise JobError(
            "this model does not name its layers, which FSDP2 needs: use `deepspeed: zero3` instead"
        )
    return found


def _shards(own: Mapping[str, Any], parameter: Tensor) -> dict[str, Any]:
    """This rank's part of an optimizer's tensors of one parameter; a count of steps has no parts."""
    return {
        name: _shard(value, parameter)
        if isinstance(value, Tensor) and value.shape == parameter.shape
        else value
        for name, value in own.items()
    }


def _shard(value: Tensor, like: Any) -> Tensor:
    """This rank's part of a whole tensor that all ranks have read."""
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
