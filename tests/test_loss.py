"""Aggregations, ratios and KL with numbers by hand and against exact gradients."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from milepost.agents.loss import (
    Aggregation,
    Totals,
    aggregate,
    clone_loss,
    importance,
    kl_k2,
    policy_loss,
    segment_mean,
    sequence_weights,
)


@pytest.mark.parametrize(
    ("how", "constant", "expected"),
    [
        ("token_mean", 1, 1.4),
        ("seq_mean_token_mean", 1, 2.0),
        ("seq_mean_token_sum", 1, 3.5),
        ("seq_mean_token_sum_norm", 64, 0.054688),
    ],
)
def test_com_7_the_four_aggregations(how: Aggregation, constant: float, expected: float):
    token_loss = torch.tensor([[1.0, 1.0, 1.0, 1.0], [3.0, 0.0, 0.0, 0.0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]])
    assert aggregate(token_loss, mask, how, constant).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("how", get_args(Aggregation))
def test_parts_of_a_batch_add_up_to_the_whole(how: Aggregation):
    counts = [4, 1, 0, 7, 2]
    whole = sequence_weights(counts, how, 10.0)
    totals = Totals(4, 14)
    assert sequence_weights(counts[:2], how, 10.0, totals) + sequence_weights(counts[2:], how, 10.0, totals) == whole


def test_an_unknown_aggregation_and_a_zero_constant_are_refused():
    with pytest.raises(ValueError, match=r"expected one of token_mean.*got 'mean'"):
        sequence_weights([1], "mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected a positive number, got 0"):
        sequence_weights([1], "seq_mean_token_sum_norm", 0)


def test_clipping_by_hand():
    ratio = torch.tensor([1.5, 0.5, 1.5, 0.5, 1.1])
    advantages = torch.tensor([1.0, -1.0, -1.0, 1.0, 2.0])
    logprobs = ratio.log().requires_grad_()
    result = policy_loss(logprobs, torch.zeros(5), advantages, torch.ones(5), clip_low=0.2, clip_high=0.3)
    assert result.loss.item() == pytest.approx(-(1.3 - 0.8 - 1.5 + 0.5 + 2.2))
    assert result.clipped_N.tolist() == [True, True, False, False, False]
    (gradient,) = torch.autograd.grad(result.loss, logprobs)
    assert gradient.tolist() == pytest.approx([0, 0, 1.5, -0.5, -2.2])


def test_a_turn_has_one_ratio_for_all_its_tokens():
    logprobs = torch.tensor([0.1, 0.3, -0.2]).requires_grad_()
    segments = torch.tensor([0, 0, 1])
    result = policy_loss(logprobs, torch.zeros(3), torch.ones(3), torch.ones(3), segments_N=segments)
    assert result.ratio_N.tolist() == pytest.approx([math.exp(0.2), math.exp(0.2), math.exp(-0.2)])


def test_without_a_step_between_every_level_has_the_policy_gradient():
    advantages = torch.tensor([2.0, 2.0, -1.0])
    for segments in (None, torch.tensor([0, 0, 1])):
        logprobs = torch.tensor([-1.0, -2.0, -0.5]).requires_grad_()
        loss = policy_loss(logprobs, logprobs.detach(), advantages, torch.ones(3), segments_N=segments).loss
        (gradient,) = torch.autograd.grad(loss, logprobs)
        assert gradient.tolist() == pytest.approx([-2, -2, 1])


def test_segment_mean_of_nothing_is_nothing():
    assert segment_mean(torch.zeros(0), torch.zeros(0, dtype=torch.long)).shape == (0,)


def test_importance_is_truncated_from_above_alone():
    weights = importance(torch.tensor([0.0, -1.0, 1.0]), torch.tensor([0.0, 0.0, -1.0]), cap=2.0)
    assert weights.tolist() == pytest.approx([1.0, math.exp(-1), 2.0])


def test_cloning_is_the_weighted_negative_log_likelihood():
    assert clone_loss(torch.tensor([-1.0, -2.0]), torch.tensor([0.5, 0.0])).item() == 0.5


LOGITS = [0.3, -0.5, 1.1]
REFERENCE = [0.2, 0.7, 0.1]


def exact_kl_gradient() -> Tensor:
    logits = torch.tensor(LOGITS, dtype=torch.double, requires_grad=True)
    logp = logits.log_softmax(-1)
    (gradient,) = torch.autograd.grad((logp.exp() * (logp - torch.tensor(REFERENCE).double().log())).sum(), logits)
    return gradient


def test_kl_k2_in_the_loss_has_the_gradient_of_the_exact_kl():
    logits = torch.tensor(LOGITS, dtype=torch.double, requires_grad=True)
    logp = logits.log_softmax(-1)
    mean = (logp.exp().detach() * kl_k2(logp, torch.tensor(REFERENCE).double().log())).sum()
    (gradient,) = torch.autograd.grad(mean, logits)
    assert torch.allclose(gradient, exact_kl_gradient(), atol=1e-12)


def test_kl_k1_in_the_reward_has_the_gradient_of_the_exact_kl():
    logits = torch.tensor(LOGITS, dtype=torch.double, requires_grad=True)
    logp = logits.log_softmax(-1)
    reward = (torch.tensor(REFERENCE).double().log() - logp).detach()
    loss = policy_loss(logp, logp.detach(), reward, logp.exp().detach()).loss
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.allclose(gradient, exact_kl_gradient(), atol=1e-12)
