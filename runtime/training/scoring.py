"""Log-probabilities of supervised tokens: the one forward pass of policy, reference and SFT."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import cross_entropy


class Scorer(nn.Module):
    """A causal language model whose forward pass gives token log-probabilities.

    Logits are computed at the supervised positions only, and in fp32. What is wrapped for DDP or
    ZeRO is this module, so that every loss goes through the same wrapped forward.
    """

    def __init__(self, lm: Any) -> None:
        super().__init__()
        self.lm = lm

    def forward(self, ids: Tensor, keep: Tensor, targets: Tensor) -> Tensor:
        """ids, keep: [S, T]; targets: [N]. Returns log p(target) [N], fp32, in nats."""
        logits = self.lm(input_ids=ids, logits_to_keep=keep, use_cache=False).logits
        if logits.dim() == 3:  # a model that does not know masks of positions gave all of them
            logits = logits[keep]
        return -cross_entropy(logits.float(), targets, reduction="none")
