"""Rewards out of preferences and of players: RTO, TGDPO, DR-IRL, URPO; numbers by hand, edges and messages."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from signals import NAN, check, numbers, rows

from milepost.credit.combine import urpo
from milepost.credit.combine.dr_irl import alpha_data, alpha_model, difficulty, dissimilarity, dr_irl, outliers
from milepost.credit.combine.rto import rto
from milepost.credit.combine.tgdpo import margin, tgdpo
from milepost.credit.combine.urpo import kendall, player_reward, referee_reward

# -- RTO


def test_rto_cuts_what_dpo_says_and_puts_the_final_reward_on_the_last_token():
    # 0.05 * 10 cut at 0.05; KL 0.01 * 1; the final reward 25 cut at 10, times 0.5
    found = rto([10.0, -10.0], [1.0, 0.0], 25.0, beta3=0.5)
    assert found == pytest.approx([0.04, -0.05 + 5.0])


@check
@given(st.lists(numbers, min_size=1, max_size=5), st.floats(-20, 20))
def test_rto_sums_to_its_three_parts(logratios: list[float], final: float):
    found = rto(logratios, logratios, final)
    parts = np.clip(0.05 * np.array(logratios), -0.05, 0.05).sum() - 0.01 * sum(logratios) + np.clip(final, -10, 10)
    assert found.sum() == pytest.approx(parts, abs=1e-9)


def test_a_final_reward_that_was_not_judged_adds_nothing():
    assert rto([0.2], [0.0]).tolist() == rto([0.2], [0.0], 0.0).tolist() == [pytest.approx(0.01)]
    assert rto([], []).tolist() == []


def test_rto_names_what_is_wrong():
    with pytest.raises(ValueError, match="rto: a final reward needs a token to lie on"):
        rto([], [], 1.0)
    with pytest.raises(ValueError, match="rto: final: expected a finite number, got nan"):
        rto([0.1], [0.1], NAN)
    with pytest.raises(ValueError, match="rto: log-ratios: expected one shape"):
        rto([0.1], [0.1, 0.2])


# -- TGDPO


def test_without_alpha_tgdpo_is_dpo():
    # margin 0.1 * (0.6 - -0.1) = 0.07
    assert margin([0.5, 0.1], [9.0, 9.0], [0.2, -0.3], [9.0, 9.0], alpha=0.0) == pytest.approx(0.07)
    assert tgdpo([0.5, 0.1], [9.0, 9.0], [-0.1], [9.0], alpha=0.0) == pytest.approx(math.log1p(math.exp(-0.07)))


def test_a_good_token_weighs_more_in_the_winner_and_less_in_the_loser():
    plain, good = margin([1.0], [0.0], [0.0], [0.0]), margin([1.0], [2.0], [0.0], [0.0])
    assert good > plain
    assert margin([0.0], [0.0], [1.0], [2.0]) > margin([0.0], [0.0], [1.0], [0.0])


def test_tensors_get_the_same_loss_with_gradient_through_log_ratios_alone():
    torch = pytest.importorskip("torch")
    win, lose, reward = (torch.tensor(x, requires_grad=True) for x in ([0.5, 0.1], [0.2, -0.3], [0.4, -0.2]))
    loss = tgdpo(win, reward, lose, [-0.1, 0.3])
    assert loss.item() == pytest.approx(0.658591, abs=1e-5)
    loss.backward()
    # d loss / d lr = -(1 - sigmoid(0.07035)) * 0.1 * (1 + 0.05 * 0.4)
    assert win.grad[0].item() == pytest.approx(-(1 / (1 + math.exp(0.07035))) * 0.1 * 1.02, abs=1e-6)
    assert reward.grad is None
    assert (lose.grad > 0).all()
    with pytest.raises(ValueError, match="tgdpo: win: expected one shape"):
        tgdpo(win, [1.0], lose, [1.0, 1.0])


def test_a_margin_beyond_all_measure_does_not_overflow():
    assert tgdpo([1e6], [0.0], [0.0], [0.0]) == 0.0
    assert tgdpo([-1e6], [0.0], [0.0], [0.0]) == pytest.approx(1e5)
    with pytest.raises(ValueError, match="tgdpo: lose: expected one shape"):
        tgdpo([0.1], [0.1], [0.1], [])


# -- DR-IRL


def test_the_scale_multiplies_the_zscore_of_the_group():
    # rewards 1, 0: z = +-0.7071
    found = dr_irl([1.0, 0.0], [2.0, 0.5], eps=0.0)
    assert found == pytest.approx([2 * math.sqrt(0.5), -0.5 * math.sqrt(0.5)])
    assert dr_irl([1.0, 0.0], 3.0, eps=0.0) == pytest.approx([3 * math.sqrt(0.5), -3 * math.sqrt(0.5)])
    assert dr_irl([1.0], [9.0]).tolist() == dr_irl([2.0, 2.0], 5.0).tolist()[:1] == [0.0]


@check
@given(rows)
def test_what_is_more_unlike_the_example_gets_the_larger_scale(delta: list[float]):
    found = alpha_data(sorted(delta))
    assert all(a <= b + 1e-12 for a, b in pairwise(found))
    assert alpha_data([0.3, 0.3]) == pytest.approx([1.0, 1.0])
    # sigmoid(0) / sigmoid(1) and sigmoid(2) / sigmoid(1)
    assert alpha_data([0.0, 2.0]) == pytest.approx([0.5 / 0.731059, 0.880797 / 0.731059], abs=1e-5)


def test_outliers_are_taken_out_of_one_mean_only():
    # mean 1.5; squared deviations 1, 0.25, 2.25
    assert outliers([0.5, 1.0, 3.0], 2.0) == [False, False, True]
    assert alpha_model([0.5, 1.0, 3.0], [False] * 3) == pytest.approx(1.0)
    assert alpha_model([0.5, 1.0, 3.0], outliers([0.5, 1.0, 3.0], 2.0)) < 1.0
    assert alpha_model([1.0, 2.0], [True, True]) == alpha_model([]) == 1.0


def test_dissimilarity_takes_each_sentences_best_match():
    assert dissimilarity([[0.1, 0.9], [0.5, 0.3]]) == pytest.approx(1 - 0.7)


def test_dr_irl_names_what_is_wrong():
    with pytest.raises(ValueError, match=r"rewards and alpha: expected one shape, got \(2,\), \(3,\)"):
        dr_irl([1.0, 0.0], [1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="expected 2 marks of outliers"):
        alpha_model([1.0, 2.0], [True])
    with pytest.raises(ValueError, match="dr_irl needs similarities"):
        dissimilarity(np.zeros((0, 3)))
    assert difficulty([], []).tolist() == []


# -- URPO


@check
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=7))
def test_turning_the_order_around_turns_the_sign_of_tau(pairs: list[tuple[int, int]]):
    a, b = [p[0] for p in pairs], [p[1] for p in pairs]
    for ties in ("a", "b"):
        tau = kendall(a, b, ties=ties)  # type: ignore[arg-type]
        assert kendall([-x for x in a], b, ties=ties) == pytest.approx(-tau)  # type: ignore[arg-type]
        assert kendall(b, a, ties=ties) == pytest.approx(tau)  # type: ignore[arg-type]
        assert -1 <= tau <= 1


def test_tau_by_hand_with_ties():
    # scores 1, 1, 2 against 1, 2, 3: a tie, two agreeing; tau-a 2/3, tau-b 2 / sqrt(2 * 3)
    assert kendall([1, 1, 2], [1, 2, 3]) == pytest.approx(2 / 3)
    assert kendall([1, 1, 2], [1, 2, 3], ties="b") == pytest.approx(2 / math.sqrt(6))
    assert kendall([1, 2, 3], [1, 2, 3]) == kendall([1, 1, 2], [1, 1, 2], ties="b") == 1.0


def test_a_referee_that_never_decides_earns_nothing_and_one_that_cannot_be_read_the_worst():
    assert kendall([5, 5, 5], [1, 2, 3]) == kendall([5, 5, 5], [1, 2, 3], ties="b") == 0.0
    assert kendall([], []) == kendall([1], [2]) == 0.0
    assert referee_reward([1, 2], [1, 2]) == 1.0
    assert referee_reward(None, [1, 2]) == referee_reward([1, 2, 3], [1, 2]) == -1.0
    assert referee_reward(None, [1, 2], unreadable=0.0) == 0.0


def test_a_player_is_paid_by_the_verifier_and_by_itself_only_where_there_is_none():
    assert player_reward(0.0, 9.0) == 0.0
    assert player_reward(None, 0.7) == 0.7
    assert player_reward(None) is None


def test_kendall_names_what_is_wrong():
    with pytest.raises(ValueError, match="kendall: scores and truth: expected one shape"):
        urpo.kendall([1], [1, 2])
    with pytest.raises(ValueError, match="kendall: ties: expected 'a' or 'b', got 'c'"):
        urpo.kendall([1], [1], ties="c")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="kendall: scores: expected finite numbers, got nan"):
        urpo.kendall([NAN], [1])
