"""The one forward pass of every training: log-probabilities of supervised tokens, or rewards."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from runtime.models import probe_logits
from runtime.reward_models import probe_rewards
from runtime.training.attention import NAME, take_over
from runtime.training.batches import Layout
from runtime.training.data import Tokens
from runtime.training_config import LOGITS_BYTES


class _Chunked(torch.autograd.Function):
    """log p(target) [N] from hidden states [N, D] and output weights [V, D], `rows` at a time.

    The gradient of the weights is summed over chunks in fp32, whatever is computed in: sums of many
    small terms would lose them in bf16.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, rows: int) -> Tensor:
        ctx.save_for_backward(hidden, weight, targets)
        ctx.rows = rows
        chunks = zip(hidden.split(rows), targets.split(rows), strict=True)
        return torch.cat([-cross_entropy((h @ weight.T).float(), t, reduction="none") for h, t in chunks])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, targets = ctx.saved_tensors
        to_hidden = torch.empty_like(hidden)
        to_weight = torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
        for first in range(0, len(hidden), ctx.rows):
            part = slice(first, first + ctx.rows)
            h, g = hidden[part], gradient[part, None]
            logits = (h @ weight.T).float().softmax(dim=1).mul_(-g)
            logits.scatter_add_(1, targets[part, None], g.to(logits.dtype))
            logits = logits.to(weight.dtype)
            to_hidden[part] = logits @ weight
            to_weight += logits.T @ h
        return to_hidden, to_weight.to(weight.dtype), None, None


def token_logps(hidden: Tensor, weight: Tensor, targets: Tensor, room: int = LOGITS_BYTES) -> Tensor:
    """log p(target) [N], fp32 (or fp64), in nats.

    hidden: [N, D]; weight: [V, D]; targets: [N]; room: bytes of fp32 logits that are kept.
    """
    rows = max(1, room // (4 * len(weight)))
    if len(hidden) <= rows:
        logits = linear(hidden, weight)
        return -cross_entropy(
            logits if logits.dtype == torch.float64 else logits.float(), targets, reduction="none"
        )
    return _Chunked.apply(hidden, weight, targets, rows)


class Scorer(nn.Module):
    """A causal language model whose forward pass gives token log-probabilities.

    What is wrapped for DDP, FSDP or ZeRO is this module, so that every loss goes through the same
    wrapped forward. direct: whether logits are hidden states times output weights and nothing else, so
    that they need not be made all at once; `isolation` finds out, else the model makes its own logits.
    whole: whether its batches keep the last token of each sequence.
    """

    whole = False

    def __init__(self, lm: Any, *, flat: bool = True) -> None:
        super().__init__()
        self.lm = lm
        self.own_attention = take_over(lm) if flat else None
        head = lm.get_output_embeddings()
        whole = isinstance(head, nn.Linear) and head.bias is None and not hasattr(head.weight, "ds_id")
        self.direct = whole and lm.base_model is not lm

    def attend_as_made(self, asked: bool) -> None:
        """Give the model the attention it was made with, or take it back."""
        if self.own_attention is not None:
            self.lm.set_attn_implementation(self.own_attention if asked else NAME)

    def probe(self, ids: list[int]) -> Tensor:
        """Logits [T, V] of one sequence by the bare model, fp32 on the CPU."""
        return probe_logits(self.lm, ids)

    def alone(self, probe: Tensor, sequence: Tokens) -> Tensor:
        """What the forward pass must give for one sequence, from its probe."""
        targets = torch.from_numpy(sequence.ids[sequence.prompt :]).long()
        return probe.log_softmax(-1)[sequence.prompt - 1 : -1].gather(1, targets[:, None]).squeeze(1)

    def forward(
        self, ids: Tensor, positions: Tensor | None, picks: Tensor, targets: Tensor, layout: Layout | None
    ) -> Tensor:
        """The tensors of a `Batch`. Returns log p(target) [N], at least fp32, in nats."""
        told: dict[str, Any] = {"input_ids": ids, "use_cache": False}
        if layout is not None:
            told |= {"position_ids": positions, "layout": layout}
        if not self.direct:
            return self._from_logits(told, picks, targets)
        hidden = self.lm.base_model(**told)[0].flatten(0, 1).index_select(0, picks)
        weight = self.lm.get_output_embeddings().weight
        if torch.is_autocast_enabled(hidden.device.type):
            weight = weight.to(hidden.dtype)
        return token_logps(hidden, weight, targets)

    def _from_logits(self, told: dict[str, Any], picks: Tensor, targets: Tensor) -> Tensor:
        ids = told["input_ids"]
        wanted = picks
        if len(ids) > 1:
            wanted = torch.zeros_like(ids, dtype=torch.bool).flatten().index_fill(0, picks, True).view_as(ids)
        logits = self.lm(**told, logits_to_keep=wanted).logits.flatten(0, -2)
        if len(logits) != len(picks):  # a model that does not know such wishes gave all of them
            logits = logits[picks]
        return -cross_entropy(
            logits if logits.dtype == torch.float64 else logits.float(), targets, reduction="none"
        )


class Rewarder(Scorer):
    """A sequence classifier of one label, whose forward pass gives a reward for each sequence."""

    whole = True

    def __init__(self, lm: Any, *, flat: bool = True) -> None:
        nn.Module.__init__(self)
        self.lm = lm
        self.own_attention = take_over(lm) if flat else None
        self.direct = True

    def probe(self, ids: list[int]) -> Tensor:
        """Rewards [T, 1] after each token of one sequence by the bare model, fp32 on the CPU."""
        return probe_rewards(self.lm, ids)

    def alone(self, probe: Tensor, sequence: Tokens) -> Tensor:
        return probe[-1]

    def forward(
        self, ids: Tensor, positions: Tensor | None, picks: Tensor, targets: Tensor, layout: Layout | None
    ) -> Tensor:
        """The tensors of a `Batch` that keeps last tokens. Returns rewards [S], at least fp32."""
        told: dict[str, Any] = {"input_ids": ids, "use_cache": False}
        if layout is not None:
            told |= {"position_ids": positions, "layout": layout}
        hidden = self.lm.base_model(**told)[0].flatten(0, 1).index_select(0, picks)
        with torch.autocast(hidden.device.type, enabled=False):  # bf16 would round rewards to a hundredth
            rewards = self.lm.score(hidden.to(self.lm.score.weight.dtype)).squeeze(1)
        return rewards if rewards.dtype == torch.float64 else rewards.float()


def scorer_of(lm: Any, *, flat: bool) -> Scorer:
    """What is wrapped of a model, by its head."""
    return (Rewarder if hasattr(lm, "score") else Scorer)(lm, flat=flat)
