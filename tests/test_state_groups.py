"""GiGPO and HGPO: which turns are compared with which."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from milepost.credit import advantage
from milepost.credit.made import episode
from milepost.credit.peers.gigpo import gigpo, singletons, state_keys
from milepost.credit.peers.hgpo import hgpo
from milepost.envs.core import ContractError, Episode

Table = list[list[list[Any]]]


def walk(keys: str, outcome: float = 0.0) -> Episode:
    """An episode whose turn t was taken in the state ``keys[t]``."""
    return episode(outcome, state_key=list(keys), n_turns=len(keys))


def flat(table: Table) -> list[float]:
    return [value for group in table for row in group for value in row]


def test_where_no_state_comes_twice_gigpo_is_grpo():
    group = [walk("abc", 1.0), walk("de", 0.0), walk("f", 1.0)]
    rewards = advantage.rewards([group])
    assert gigpo([group], rewards) == advantage.grpo(rewards)
    assert singletons([group]) == 1.0


def test_two_turns_in_one_state_are_compared_by_what_followed():
    # Both attempts earn 1 in all, so the episode term is 0. In state s the first is one turn from its reward (0.5), the
    # second two (0.25): mean 0.375, so +0.125 and -0.125. The other states come once.
    group = [walk("sx"), walk("syz")]
    rewards = [[[0.0, 1.0], [0.0, 0.0, 1.0]]]
    assert gigpo([group], rewards, gamma=0.5, scale="none") == [[[0.125, 0.0], [-0.125, 0.0, 0.0]]]
    assert gigpo([group], rewards, gamma=0.5, omega=2.0, scale="none")[0][0][0] == 0.25


def test_a_state_of_another_task_is_another_state():
    groups = [[walk("s"), walk("t")], [walk("s"), walk("t")]]
    rewards = [[[1.0], [0.0]], [[0.0], [0.0]]]
    assert gigpo(groups, rewards, scale="none") == [[[0.5], [-0.5]], [[0.0], [0.0]]]


def test_a_state_that_one_attempt_visits_twice_has_two_members():
    # Returns with gamma 0.5: 0.5 and 1; mean 0.75. A group of one has no episode term.
    assert gigpo([[walk("ss")]], [[[0.0, 1.0]]], gamma=0.5, scale="none") == [[[-0.25, 0.25]]]


def test_the_share_of_states_seen_once_counts_states_and_not_turns():
    assert singletons([[walk("ab"), walk("a")], [walk("a")]]) == pytest.approx(2 / 3)
    assert singletons([]) == 0.0


@pytest.mark.parametrize("estimator", [gigpo, hgpo])
def test_equal_outcomes_a_group_of_one_and_no_group_give_zeros(estimator: Any):
    equal = [walk("ab", 1.0), walk("ab", 1.0), walk("ab", 1.0)]
    assert flat(estimator([equal], advantage.rewards([equal]))) == [0.0] * 6
    alone = [walk("abc", 1.0)]
    assert flat(estimator([alone], advantage.rewards([alone]))) == [0.0] * 3
    assert estimator([], []) == []
    assert estimator([[]], [[]]) == [[]]


@pytest.mark.parametrize("estimator", [gigpo, hgpo])
def test_an_unjudged_reward_adds_nothing_and_its_turn_is_still_compared(estimator: Any):
    group = [walk("ab"), walk("ab")]
    assert estimator([group], [[[None, 1.0], [0.0, 0.0]]]) == estimator([group], [[[0.0, 1.0], [None, None]]])


@pytest.mark.parametrize("estimator", [gigpo, hgpo])
def test_shifting_nothing_but_the_order_of_attempts_changes_only_the_order(estimator: Any):
    group = [walk("abc", 1.0), walk("abd", 0.0), walk("ab", 1.0)]
    rows = estimator([group], advantage.rewards([group]))[0]
    assert estimator([group[::-1]], advantage.rewards([group[::-1]]))[0] == [pytest.approx(r) for r in rows[::-1]]


@pytest.mark.parametrize("estimator", [gigpo, hgpo])
def test_a_missing_state_key_is_named(estimator: Any):
    name = estimator.__name__
    missing = [episode(1.0, n_turns=2)]
    with pytest.raises(ContractError, match=rf"{name} needs info\['state_key'\] from reset; my/Env-v0 gave none"):
        estimator([missing], [[[0.0, 1.0]]])
    late = [walk("ab", 1.0)]
    del late[0].turns[0].info["state_key"]
    with pytest.raises(ContractError, match="from the step of turn 0"):
        estimator([late], [[[0.0, 1.0]]])


@pytest.mark.parametrize("estimator", [gigpo, hgpo])
def test_rewards_of_another_shape_and_numbers_that_are_none_are_refused(estimator: Any):
    group = [walk("ab", 1.0)]
    with pytest.raises(ContractError, match=r"rewards of episode 'e': expected 2 turns, got 1"):
        estimator([group], [[[1.0]]])
    with pytest.raises(ContractError, match="expected 1 rows, got 2"):
        estimator([group], [[[1.0, 0.0], [1.0]]])
    with pytest.raises(ContractError, match="expected 1 groups, got 0"):
        estimator([group], [])
    with pytest.raises(ContractError, match="has no turn"):
        estimator([[Episode(id="e")]], [[[]]])
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="expected a finite number"):
            estimator([group], [[[0.0, bad]]])
    with pytest.raises(ValueError, match="scale: expected 'group' or 'none'"):
        estimator([group], [[[0.0, 1.0]]], scale="batch")


def test_a_final_state_without_a_key_is_not_asked_for():
    assert state_keys("gigpo", [walk("ab", 1.0)]) == [["a", "b"]]


# ---- HGPO ----

# Turn 1 of all four is taken in state s, returns 4, 2, 0, 0 (gamma 1; the first turns earn nothing).
# Level 0, all in s: mean 1.5, deviations 2.5, 0.5, -1.5, -1.5.
# Level 1, ways "a s" (4, 2) and "b s" (0, 0): mean 3, so 1, -1; and 0, 0, which says nothing and is skipped.
# Weights 1 and 2 (alpha 1): (2.5 + 2) / 3 = 1.5, (0.5 - 2) / 3 = -0.5; of the last two level 0 alone: -1.5.
WAYS = [walk("as"), walk("as"), walk("bs"), walk("bs")]
EARNED = [[[0.0, 4.0], [0.0, 2.0], [0.0, 0.0], [0.0, 0.0]]]


def test_a_common_way_weighs_more_than_a_common_state_and_a_level_that_says_nothing_is_skipped():
    rows = hgpo([WAYS], EARNED, depth=1, gamma=1.0, scale="none")[0]
    assert [row[1] for row in rows] == pytest.approx([1.5, -0.5, -1.5, -1.5])


def test_with_alpha_zero_all_levels_weigh_alike():
    rows = hgpo([WAYS], EARNED, depth=1, alpha=0.0, gamma=1.0, scale="none")[0]
    assert [row[1] for row in rows] == pytest.approx([1.75, -0.25, -1.5, -1.5])


def test_at_depth_zero_hgpo_is_the_step_term_of_gigpo():
    rewards = [[[0.0, 4.0], [0.0, 2.0], [1.0, 0.0], [0.0, 0.0]]]
    whole = advantage.grpo(rewards)[0]
    for ours, theirs, base in zip(hgpo([WAYS], rewards, depth=0)[0], gigpo([WAYS], rewards)[0], whole, strict=True):
        assert ours == pytest.approx([a - b for a, b in zip(theirs, base, strict=True)])
    assert hgpo([WAYS], rewards, depth=0, whole=1.0)[0] == [pytest.approx(row) for row in gigpo([WAYS], rewards)[0]]


def test_an_episode_that_is_younger_than_the_level_is_compared_with_its_likes():
    # In s at turn 0 and in s at turn 1 after a: one state, two ways.
    group = [walk("s"), walk("as"), walk("s")]
    rows = hgpo([group], [[[1.0], [0.0, 5.0], [3.0]]], depth=1, gamma=1.0, scale="none")[0]
    # Level 0: mean 3: -2, 2, 0 (skipped). Level 1: (1, 3) mean 2: -1, 1; "a s" alone.
    assert rows == [pytest.approx([(-2 + 2 * -1) / 3]), pytest.approx([0.0, 2.0]), pytest.approx([1.0])]


def test_a_depth_below_zero_is_refused():
    with pytest.raises(ValueError, match="hgpo: depth: expected 0 or more, got -1"):
        hgpo([WAYS], EARNED, depth=-1)


def test_what_rounding_leaves_of_a_level_is_no_level():
    # tenths do not add up exactly: a deviation that is 0 comes out as 3e-17 in one order of the attempts
    rng = np.random.default_rng(0)
    for _ in range(300):
        n = int(rng.integers(3, 6))
        ends = rng.choice([0.1, 0.2, 0.3, 0.4, 0.7], n).tolist()
        keys = [rng.choice(["a", "b"], 3).tolist() for _ in range(n)]
        group = [episode(end, state_key=row, n_tokens=[1, 1, 1]) for end, row in zip(ends, keys, strict=True)]
        order = rng.permutation(n).tolist()
        (rows,) = hgpo([group], advantage.rewards([group]))
        shuffled = [group[i] for i in order]
        (others,) = hgpo([shuffled], advantage.rewards([shuffled]))
        assert np.allclose(np.array(others), np.array([rows[i] for i in order]), atol=1e-9)
