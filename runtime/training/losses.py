"""Losses as pure functions of log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from math import log

import torch
from torch import Tensor, sigmoid
from torch.nn.functional import logsigmoid

from runtime.training_config import Reduction


def example_weights(lengths: Sequence[int], reduction: Reduction) -> list[float]:
    """What a supervised token of each example weighs in the loss of an optimizer batch.

    lengths: supervised tokens of every example of the *whole* batch, on all ranks. The weights are
    global denominators, so the sum over any partition of the batch is the same loss:

    - `token_mean`:   1 / (sum of all lengths): every token counts alike;
    - `example_mean`: 1 / (batch * own length): every example counts alike;
    - `example_sum`:  1 / batch: sequence log-likelihood, averaged over examples. This is the SFT loss
      of the code published with Rafailov et al. 2023 (arXiv 2305.18290); learning rates tuned for it
      do not transfer to the other two.
    """
    if reduction == "token_mean":
        return [1.0 / sum(lengths)] * len(lengths)
    if reduction == "example_sum":
        return [1.0 / len(lengths)] * len(lengths)
    return [1.0 / (len(lengths) * length) for length in lengths]


def sft_loss(logps: Tensor, weights: Tensor) -> Tensor:
    """Weighted negative log-likelihood: - sum_n weights[n] * logps[n], a scalar.

    logps, weights: [N], one for each supervised token.
    """
    return -(logps * weights).sum()


def sequence_sums(logps: Tensor, keep: Tensor) -> Tensor:
    """Sums [S] of token log-probabilities [N] over each sequence.

    keep: [S, T] bool, true at the N supervised positions, in the order of `logps`. Written without
    atomic additions, so that a GPU gives the same bits each time.
    """
    return (
        torch.zeros(keep.shape, dtype=logps.dtype, device=logps.device).masked_scatter(keep, logps).sum(dim=1)
    )


def dpo_loss(margins: Tensor, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """DPO losses [P] of pairs.

    margins: [P], (log pi(y_w|x) - log pi_ref(y_w|x)) - (log pi(y_l|x) - log pi_ref(y_l|x)), in nats.
    With label_smoothing e = 0: -log sigmoid(beta * margin), equation 7 of Rafailov et al. 2023
    (arXiv 2305.18290). With e > 0 the labels are taken to be flipped with probability e (conservative
    DPO, Mitchell 2023, "A note on DPO with noisy preferences and relationship to IPO", equation 3):
    -(1 - e) log sigmoid(beta * margin) - e log sigmoid(-beta * margin).
    """
    logits = beta * margins
    return -(1 - label_smoothing) * logsigmoid(logits) - label_smoothing * logsigmoid(-logits)


def ipo_loss(margins: Tensor, beta: float) -> Tensor:
    """IPO losses [P] of pairs: (margin - 1 / (2 beta))^2, equation 17 of Azar et al. 2023 (arXiv 2310.12036).

    margins: [P], as for `dpo_loss`, and beta is the paper's tau. The paper's margins (`loss: ipo`) are of
    log-probabilities *summed* over tokens. `loss: ipo_mean` takes each drift log pi - log pi_ref per
    supervised token of its own answer, so margins are in nats a token; TRL's `ipo` is this one.
    """
    return (margins - 1 / (2 * beta)) ** 2


def robust_loss(margins: Tensor, beta: float, label_smoothing: float) -> Tensor:
    """Robust DPO losses [P] of pairs: the rDPO of Chowdhury et al. 2024 (arXiv 2403.00409).

    margins: [P], as for `dpo_loss`. Labels are taken to be flipped with probability e = label_smoothing;
    ((1 - e) * -log sigmoid(beta * margin) - e * -log sigmoid(-beta * margin)) / (1 - 2 e)
    is then without bias for the loss on labels that are not. At e = 0 it is DPO.
    """
    logits = beta * margins
    right, flipped = -logsigmoid(logits), -logsigmoid(-logits)
    return ((1 - label_smoothing) * right - label_smoothing * flipped) / (1 - 2 * label_smoothing)


def apo_zero_loss(drift: Tensor, beta: float) -> Tensor:
    """APO-zero losses [P] of pairs, equation 7 of D'Oosterlinck et al. 2024 (arXiv 2408.06266).

    drift: [2, P], log pi - log pi_ref of the chosen and of the rejected answers, in nats. Each answer
    is judged by itself, as KTO does, against a fixed zero point instead of KTO's estimate of the
    Kullback-Leibler divergence: -sigmoid(beta * drift_w) + sigmoid(beta * drift_l), and 1 is added.
    """
    return 1 - sigmoid(beta * drift[0]) + sigmoid(beta * drift[1])


def simpo_loss(margins: Tensor, beta: float, gamma: float) -> Tensor:
    """SimPO losses [P] of pairs: -log sigmoid(beta * margin - gamma), equation 6 of Meng et al. 2024.

    margins: [P], mean log pi a token of the chosen answer less that of the rejected one, in nats
    (arXiv 2405.14734). There is no reference model; gamma is the margin of rewards that is aimed at.
    """
    return -logsigmoid(beta * margins - gamma)


def loss_without_margin(loss: str, beta: float) -> float:
    """The loss of a pair whose policy equals its reference.

    ln 2 (`sigmoid`, `robust`), 1 (`apo_zero`) or 1 / (4 beta^2) (both IPO).
    """
    if loss in ("ipo", "ipo_mean"):
        return 1 / (4 * beta * beta)
    return 1.0 if loss == "apo_zero" else log(2)


def reward_loss(rewards: Tensor, centering: float = 0.0) -> Tensor:
    """Bradley-Terry losses [P] of pairs: -log sigmoid(r_w - r_l), equation 2 of Rafailov et al. 2023.

    rewards: [2, P], of the chosen and of the rejected answers. A common shift of all rewards does not
    change that; centering adds its multiple of (r_w + r_l)^2, which keeps rewards around 0 (Eisenstein
    et al. 2023, arXiv 2312.09244).
    """
    return -logsigmoid(rewards[0] - rewards[1]) + centering * (rewards[0] + rewards[1]) ** 2
