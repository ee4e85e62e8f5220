"""Aggregations, ratios and KL with numbers by hand and against exact gradients."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from milepost.agents.loss import (
    Aggregation,
    Level,
    Totals,
    aggregate,
    clone_loss,
    entropy,
    importance,
    importance_mask,
    kl_k2,
    policy_loss,
    segment_mean,
    sequence_weights,
)
from milepost.agents.metrics import Tally
from milepost.agents.objective import Objective, policy_rows, surrogate
from milepost.agents.samples import Sample


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


def test_what_lies_outside_the_range_is_left_out_and_its_ends_are_in():
    old, sampler = torch.tensor([0.5, 0.49, 1.0, 2.0, 2.01]).log(), torch.zeros(5)
    assert importance_mask(old, sampler, 0.5, 2.0).tolist() == [True, False, True, True, False]


def test_a_sequence_is_left_out_as_a_whole_by_its_geometric_mean():
    # Ratios 4 and 1: geometric mean 2, in; 4 and 2: 2.83, out, though the second alone would stay.
    old, segments = torch.tensor([4.0, 1.0, 4.0, 2.0]).log(), torch.tensor([0, 0, 1, 1])
    assert importance_mask(old, torch.zeros(4), 0.5, 2.1, segments).tolist() == [True, True, False, False]
    assert importance_mask(old, torch.zeros(4), 0.5, 2.1).tolist() == [False, True, False, True]


def test_entropy_by_hand_and_of_a_sure_policy():
    logits = torch.tensor([[0.0, 0.0, 0.0], [math.log(2), 0.0, 0.0], [80.0, 0.0, 0.0]])
    # 1/2, 1/4, 1/4: half of ln 2 and twice a quarter of ln 4.
    assert entropy(logits).tolist() == pytest.approx([math.log(3), 1.5 * math.log(2), 0.0], abs=1e-6)


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


def test_the_gradient_of_the_entropy_is_that_of_the_closed_form_and_of_differences():
    logits = torch.tensor([LOGITS], dtype=torch.double, requires_grad=True)
    (gradient,) = torch.autograd.grad(entropy(logits).sum(), logits)
    p = logits.detach().softmax(-1)
    closed = -p * (p.log() + entropy(logits.detach())[:, None])
    assert torch.allclose(gradient, closed, atol=1e-12)
    for i in range(3):
        step = torch.zeros(1, 3, dtype=torch.double)
        step[0, i] = 1e-5
        rise = entropy(logits.detach() + step) - entropy(logits.detach() - step)
        assert gradient[0, i].item() == pytest.approx(rise.item() / 2e-5, abs=1e-8)


def three_tokens(advantages: list[float], sampler: list[float], logits: Tensor, o: Objective) -> tuple[Tensor, Tally]:
    """The surrogate of one row that samples each of the three tokens once, from the same logits each time."""
    ids = np.arange(4, dtype=np.int32)
    at = np.array([False, True, True, True])
    logprobs = np.array([0.0, *sampler], np.float32)
    row = Sample(ids, at, logprobs, np.array([0.0, *advantages], np.float32), np.array([-1, 0, 0, 1]), "e", "g", [0])
    tally = Tally()
    (packed,) = policy_rows([row], o, tally)
    spread = entropy(logits.expand(3, 3)) if o.entropy else None
    return surrogate([packed], logits.log_softmax(-1)[0], o, tally, spread), tally


def test_a_token_outside_the_range_has_no_gradient_and_the_others_keep_theirs():
    o = Objective(aggregation="seq_mean_token_sum", importance_range=(0.5, 2.0))
    logits = torch.tensor([LOGITS], requires_grad=True)
    own = logits.detach().log_softmax(-1)[0]
    sampler = (own - torch.tensor([0.0, math.log(3), math.log(0.6)])).tolist()  # ratios 1, 3, 0.6
    loss, tally = three_tokens([1.0, 5.0, -2.0], sampler, logits, o)
    (gradient,) = torch.autograd.grad(loss, logits)
    # d log p_i / d logits = onehot_i - p: minus 1 for the first, plus 2 for the third; nothing of the second.
    p = own.exp()
    assert torch.allclose(
        gradient[0], -(torch.tensor([1.0, 0, 0]) - p) + 2 * (torch.tensor([0, 0, 1.0]) - p), atol=1e-6
    )
    assert (tally.result()["tokens/left_out"], tally.result()["importance/kept"]) == (1.0, pytest.approx(2 / 3))


def test_with_a_cap_too_what_is_kept_weighs_its_ratio():
    o = Objective(aggregation="seq_mean_token_sum", importance_range=(0.5, 2.0), importance_cap=math.inf)
    logits = torch.tensor([LOGITS], requires_grad=True)
    own = logits.detach().log_softmax(-1)[0]
    loss, _ = three_tokens([1.0, 5.0, -2.0], (own - torch.tensor([0.0, 90.0, math.log(0.6)])).tolist(), logits, o)
    assert loss.item() == pytest.approx(-(1.0 - 2 * 0.6), abs=1e-6)


@pytest.mark.parametrize(("level", "n_left_out"), [("token", 1), ("turn", 2), ("sequence", 3)])
def test_the_level_says_what_is_left_out_together(level: Level, n_left_out: int):
    # Ratios 30, 1 (turn 0: 5.5) and 1 (turn 1); the whole row: 3.1.
    o = Objective(importance_range=(0.0, 2.0), importance_level=level)
    own = torch.tensor([LOGITS]).log_softmax(-1)[0]
    _, tally = three_tokens([1.0] * 3, (own - torch.tensor([math.log(30), 0, 0])).tolist(), torch.tensor([LOGITS]), o)
    assert tally.result()["tokens/left_out"] == n_left_out


def test_the_entropy_bonus_has_the_gradient_of_the_mean_entropy():
    o = Objective(aggregation="token_mean", entropy=0.3)
    logits = torch.tensor([LOGITS], requires_grad=True)
    loss, tally = three_tokens([0.0] * 3, LOGITS, logits, o)
    (gradient,) = torch.autograd.grad(loss, logits)
    (expected,) = torch.autograd.grad(entropy(logits).sum(), logits)
    assert torch.allclose(gradient, -0.3 * expected, atol=1e-7)
    own = float(entropy(torch.tensor([LOGITS])))
    assert tally.result()["entropy/mean_nats"] == pytest.approx(own)
    assert tally.result()["loss/entropy"] == pytest.approx(-own)


@pytest.mark.parametrize("bad", [(2.0, 0.5), (-1.0, 1.0), (1.0, 1.0), (math.nan, 1.0)])
def test_a_range_that_is_none_is_refused(bad: tuple[float, float]):
    with pytest.raises(ValueError, match="importance_range: expected 0 <= low < high"):
        Objective(importance_range=bad)
    with pytest.raises(ValueError, match="importance_range compares trainer and sampler"):
        Objective(importance_range=(0.5, 2.0), old="sampler")
