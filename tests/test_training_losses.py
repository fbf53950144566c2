"""Losses: their values, their gradients, and that no split of a batch changes them."""

from __future__ import annotations

from math import log

import pytest
import torch
from torch.autograd import gradcheck

from runtime.training.losses import (
    apo_zero_loss,
    dpo_loss,
    example_weights,
    ipo_loss,
    loss_without_margin,
    robust_loss,
    sequence_sums,
    sft_loss,
    simpo_loss,
)
from runtime.training.schedule import learning_rate
from runtime.training_config import Reduction, TrainingConfig

# Two examples: three tokens of log-probability -1, one of -5.
LOGPS = torch.tensor([-1.0, -1.0, -1.0, -5.0])


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [("token_mean", 8 / 4), ("example_mean", (1 + 5) / 2), ("example_sum", (3 + 5) / 2)],
)
def test_each_reduction_has_its_own_denominator(reduction: Reduction, expected: float) -> None:
    first, second = example_weights([3, 1], reduction)
    assert sft_loss(LOGPS, torch.tensor([first] * 3 + [second])).item() == pytest.approx(expected)


def test_sequence_sums_follow_the_mask() -> None:
    keep = torch.tensor([[False, True, True, False], [True, False, False, True]])
    assert sequence_sums(torch.tensor([1.0, 2.0, 10.0, 20.0]), keep).tolist() == [3.0, 30.0]


def test_dpo_without_margin_is_ln_2_whatever_the_smoothing() -> None:
    for smoothing in (0.0, 0.1, 0.5):
        assert dpo_loss(torch.zeros(1), 0.3, smoothing).item() == pytest.approx(log(2))
    assert loss_without_margin("sigmoid", 0.3) == log(2)


def test_dpo_value() -> None:
    # -log sigmoid(0.1 * 2) = log(1 + exp(-0.2))
    assert dpo_loss(torch.tensor([2.0], dtype=torch.float64), 0.1).item() == pytest.approx(0.5981388693815918)


def test_label_smoothing_mixes_both_labels() -> None:
    margins = torch.tensor([2.0, -1.0], dtype=torch.float64)
    smooth = dpo_loss(margins, 0.5, 0.1)
    assert torch.allclose(smooth, 0.9 * dpo_loss(margins, 0.5) + 0.1 * dpo_loss(-margins, 0.5))
    assert not torch.allclose(smooth, dpo_loss(margins, 0.5)), "it must not be ignored"


def test_half_smoothing_does_not_know_the_label() -> None:
    margins = torch.tensor([0.3, 4.0])
    assert torch.equal(dpo_loss(margins, 0.5, 0.5), dpo_loss(-margins, 0.5, 0.5))


def test_ipo_values() -> None:
    assert ipo_loss(torch.zeros(1), 0.1).item() == pytest.approx(25.0) == loss_without_margin("ipo", 0.1)
    assert ipo_loss(torch.tensor([5.0]), 0.1).item() == 0.0


def test_robust_is_without_bias_for_the_right_labels() -> None:
    """Its mean over labels that are flipped with the assumed probability is the loss without noise."""
    margins, e = torch.tensor([2.0, -1.0], dtype=torch.float64), 0.2
    mean = (1 - e) * robust_loss(margins, 0.5, e) + e * robust_loss(-margins, 0.5, e)
    assert torch.allclose(mean, dpo_loss(margins, 0.5))
    assert robust_loss(torch.zeros(1), 0.5, e).item() == pytest.approx(loss_without_margin("robust", 0.5))


def test_apo_zero_judges_each_answer_by_itself() -> None:
    drift = torch.tensor([[0.0, log(3)], [0.0, -log(3)]])  # at beta 1: sigmoid(log 3) = 3/4
    assert apo_zero_loss(drift, 1.0).tolist() == pytest.approx([1.0, 0.5])
    assert loss_without_margin("apo_zero", 0.1) == 1.0
    both_down = apo_zero_loss(drift - 1, 1.0)
    assert not torch.allclose(both_down, apo_zero_loss(drift, 1.0)), "not a function of the margin"


def test_simpo_value() -> None:
    # rewards lead by just what is aimed at: -log sigmoid(2 * 0.4 - 0.8) = ln 2
    assert simpo_loss(torch.tensor([0.4]), 2.0, 0.8).item() == pytest.approx(log(2))
    assert simpo_loss(torch.zeros(1), 2.0, 0.8).item() == pytest.approx(1.171101)


def test_gradients_agree_with_finite_differences() -> None:
    margins = torch.tensor([-3.0, 0.2, 2.5], dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda m: dpo_loss(m, 0.7, 0.1), (margins,))
    assert gradcheck(lambda m: ipo_loss(m, 0.7), (margins,))
    assert gradcheck(lambda m: robust_loss(m, 0.7, 0.1), (margins,))
    assert gradcheck(lambda m: simpo_loss(m, 0.7, 0.5), (margins,))
    assert gradcheck(lambda m: apo_zero_loss(torch.stack([m, m.flip(0)]), 0.7), (margins,))
    logps = LOGPS.double().requires_grad_()
    assert gradcheck(lambda x: sft_loss(x, torch.full((4,), 0.3, dtype=torch.float64)), (logps,))
    keep = torch.tensor([[False, True, True], [True, False, True]])
    assert gradcheck(lambda x: sequence_sums(x, keep), (logps,))


def config(**told: object) -> TrainingConfig:
    return TrainingConfig.model_validate({"kind": "sft", "epochs": 1, "learning_rate": 1.0, **told})


@pytest.mark.parametrize(
    ("told", "rates"),
    [
        ({}, [1.0, 1.0, 1.0, 1.0]),
        ({"warmup_steps": 3}, [0.25, 0.5, 0.75, 1.0]),
        ({"schedule": "linear"}, [1.0, 0.75, 0.5, 0.25]),
        ({"schedule": "linear", "warmup_steps": 2}, [1 / 3, 2 / 3, 1.0, 0.5]),
        ({"schedule": "cosine"}, [1.0, 0.853553, 0.5, 0.146447]),
    ],
)
def test_learning_rate_is_a_function_of_the_step(told: dict[str, object], rates: list[float]) -> None:
    assert [learning_rate(config(**told), step, 4) for step in range(4)] == pytest.approx(rates, abs=1e-6)
