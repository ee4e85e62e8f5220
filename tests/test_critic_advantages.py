"""Advantages made of what was expected: PPO, turn-PPO, bi-level GAE; numbers by hand, edges and messages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from milepost.credit import advantage
from milepost.credit.made import episode
from milepost.credit.peers.bilevel_gae import bilevel, bilevel_gae
from milepost.credit.peers.ppo import ppo
from milepost.credit.peers.turn_ppo import turn_ppo
from milepost.credit.returns import gae, token_gae
from milepost.credit.tokens import placed, whitened
from milepost.envs.core import ContractError, Episode, Stop

NAN = float("nan")


def valued(outcome: float, *values: list[float], stop: Stop = Stop.TERMINATED, **credit: Any) -> Episode:
    """An episode whose turns have a critic's value per token."""
    rows = {k: [np.array(x, "f") for x in v] for k, v in credit.items()}
    e = episode(
        outcome,
        n_tokens=[len(v) for v in values],
        credit={"critic": [np.array(v, "f") for v in values], **rows},
        stop=stop,
    )
    e.id = "e"
    return e


def flat(row: Any) -> list[float]:
    return [float(x) for a in row for x in a]


# per token


def test_a_turns_reward_lies_on_its_last_token_and_the_trace_runs_over_all_turns():
    # gamma 1, lambda 0.5; tokens: V = .2 .4 | .6, r = 0 0 1
    # delta = .2, .2, .4; A2 = .4, A1 = .2 + .5*.4 = .4, A0 = .2 + .5*.4 = .4
    e = valued(1.0, [0.2, 0.4], [0.6])
    (row,) = ppo([[e]], advantage.rewards([[e]]), lam=0.5, whiten=False)[0]
    assert [a.shape for a in row] == [(2,), (1,)]
    assert flat(row) == pytest.approx([0.4, 0.4, 0.4])


def test_process_rewards_lie_on_their_own_turns_last_token():
    e = valued(0.0, [0.0, 0.0], [0.0])
    (row,) = ppo([[e]], [[[1.0, 2.0]]], gamma_token=0.5, lam=1.0, whiten=False)[0]
    # r = 0 1 2: 0 + .5*1 + .25*2, 1 + .5*2, 2
    assert flat(row) == pytest.approx([1.0, 2.0, 2.0])


def test_a_turn_that_was_not_judged_adds_nothing_and_one_that_earned_zero_ends_all_the_same():
    e = valued(0.0, [0.5], [0.25])
    unjudged, zero = (ppo([[e]], [[[r, 1.0]]], whiten=False)[0][0] for r in (None, 0.0))
    assert flat(unjudged) == flat(zero)


def test_kl_is_charged_token_by_token_inside_the_reward():
    e = valued(1.0, [0.0, 0.0], [0.0], kl=[[0.1, -0.2], [0.3]])
    (row,) = ppo([[e]], advantage.rewards([[e]]), lam=1.0, kl=0.5, whiten=False)[0]
    # r = .05, -.1, .15 + 1
    assert flat(row) == pytest.approx([1.1, 1.05, 1.15])
    assert placed([1.0], [1], [1, 1, 0], [0.1, 0.1, 9.0], 1.0).tolist() == pytest.approx([0.1, 1.1, 0.0])


def test_it_is_token_gae_of_the_whole_row():
    rng = np.random.default_rng(0)
    values = [rng.normal(size=n).tolist() for n in (3, 1, 4)]
    e = valued(0.5, *values)
    (row,) = ppo([[e]], [[[0.1, -0.2, 0.5]]], gamma_token=0.9, lam=0.8, whiten=False)[0]
    reward = [0, 0, 0.1, -0.2, 0, 0, 0, 0.5]
    expected, _ = token_gae(
        reward, np.array([x for row in values for x in row], np.float32), np.ones(8, bool), gamma=0.9, lam=0.8
    )
    assert flat(row) == pytest.approx(expected.tolist())


def test_advantages_are_whitened_over_all_tokens_of_the_batch():
    groups = [[valued(1.0, [0.2, 0.4], [0.6]), valued(0.0, [0.3])], [valued(0.5, [0.1])]]
    table = ppo(groups, advantage.rewards(groups))
    pool = np.concatenate([a for g in table for row in g for a in row])
    assert pool.mean() == pytest.approx(0.0, abs=1e-12)
    assert pool.std(ddof=1) == pytest.approx(1.0, abs=1e-6)
    advantage.write(groups, table)
    assert groups[0][0].turns[0].advantage is not None
    # 1 and 3: deviation sqrt(2), so -+ 1 / sqrt(2)
    assert whitened([[[1.0, np.array([3.0])]]])[0][0][0] == pytest.approx(-(0.5**0.5))


def test_one_token_or_equal_ones_are_whitened_to_zero():
    assert whitened([[[3.0]]]) == [[[0.0]]]
    assert whitened([[[3.0, 3.0]], [[3.0]]]) == [[[0.0, 0.0]], [[0.0]]]
    assert whitened([]) == whitened([[]])[:0] == []


@pytest.mark.parametrize("stop", [Stop.MAX_TURNS, Stop.MAX_TOKENS, Stop.TIMEOUT])
def test_a_cut_episode_ends_with_its_score_or_is_told_to_expect_as_much_as_before(stop):
    # V = .5, .8, r = 0, 1. last: A1 = 1 + .8 - .8 = 1, A0 = .8 - .5 + 1 = 1.3; zero: A1 = .2, A0 = .5
    cut, ended = valued(1.0, [0.5], [0.8], stop=stop), valued(1.0, [0.5], [0.8])
    rewards = advantage.rewards([[cut]])
    options: Any = {"lam": 1.0, "whiten": False}
    assert flat(ppo([[cut]], rewards, **options)[0][0]) == pytest.approx([0.5, 0.2])
    assert flat(ppo([[cut]], rewards, bootstrap="last", **options)[0][0]) == pytest.approx([1.3, 1.0])
    assert flat(ppo([[ended]], rewards, bootstrap="last", **options)[0][0]) == pytest.approx([0.5, 0.2])
    with pytest.raises(ValueError, match="bootstrap: expected 'zero' or 'last', got 'mean'"):
        ppo([[cut]], rewards, bootstrap="mean")  # type: ignore[arg-type]


def test_empty_batches_groups_and_episodes_have_no_advantages():
    nothing = Episode(id="none", stop=Stop.TERMINATED)
    for estimator in (ppo, bilevel_gae, turn_ppo):
        assert estimator([], []) == []
        assert estimator([[]], [[]]) == [[]]
        assert estimator([[nothing]], [[[]]]) == [[[]]]


@pytest.mark.parametrize("reward", [NAN, float("inf")])
def test_rewards_that_are_not_finite_are_named(reward):
    for estimator in (ppo, bilevel_gae):
        with pytest.raises(ContractError, match="episode 'e': expected finite rewards"):
            estimator([[valued(0.0, [0.1])]], [[[reward]]])
    with pytest.raises(ContractError, match="turn_ppo: episode 'e': expected finite rewards"):
        turn_ppo([[episode(0.0, credit={"turn_critic": [0.1]})]], [[[reward]]])


def test_a_missing_value_is_named():
    with pytest.raises(
        ContractError, match=r"ppo needs credit 'critic' per token \(a Critic gives it, assign writes it\)"
    ):
        ppo([[episode(1.0, n_tokens=[2])]], [[[1.0]]])
    with pytest.raises(ContractError, match="turn 0 has a number"):
        ppo([[episode(1.0, n_tokens=[2], credit={"critic": [0.5]})]], [[[1.0]]])
    with pytest.raises(ContractError, match=r"ppo needs tokens: episode 'e', turn 0 has none"):
        ppo([[episode(1.0)]], [[[1.0]]])
    with pytest.raises(ContractError, match=r"needs credit 'kl' per token \(samples.kl_credit writes it\)"):
        ppo([[valued(1.0, [0.5])]], [[[1.0]]], kl=0.1)
    with pytest.raises(ContractError, match=r"turn_ppo needs credit 'turn_critic' per turn \(a TurnCritic gives it"):
        turn_ppo([[episode(1.0)]], [[[1.0]]])
    with pytest.raises(ValueError, match=r"ppo: rewards: expected a number for every turn, \[\[1\]\], got \[\[2\]\]"):
        ppo([[valued(1.0, [0.5])]], [[[1.0, 2.0]]])


# per turn


def test_turn_advantages_by_hand():
    # r = 0, 1; V = .4, .6; gamma .9, lam .5: A1 = .4; A0 = .9*.6 - .4 + .45*.4 = .32
    e = episode(1.0, n_turns=2, credit={"turn_critic": [0.4, 0.6]})
    (row,) = turn_ppo([[e]], advantage.rewards([[e]]), gamma=0.9, lam=0.5, whiten=False)[0]
    assert row == pytest.approx([0.32, 0.4])
    assert all(isinstance(x, float) for x in row)


def test_turn_advantages_do_not_depend_on_how_many_tokens_a_turn_has():
    short, long = (episode(1.0, n_tokens=n, credit={"turn_critic": [0.4, 0.6]}) for n in ([1, 1], [50, 3]))
    groups = [[short], [long]]
    table = turn_ppo(groups, advantage.rewards(groups), whiten=False)
    assert table[0] == table[1]


def test_values_that_are_exactly_what_follows_leave_no_advantage():
    e = episode(1.0, n_turns=3, credit={"turn_critic": [1.0, 1.0, 1.0]})
    assert turn_ppo([[e]], advantage.rewards([[e]]), whiten=False) == [[[0.0, 0.0, 0.0]]]


# bi-level


def test_bilevel_by_hand_and_with_a_turn_that_earned_exactly_zero():
    # ends V = .3, .6, r = 0, 1, gamma .95: A = .95*.6 - .3 + .95*.4 = .65 and .4: turn returns .95, 1
    # inside turn 0: end .95 - .3 = .65; first token .3 - .1 + .65 = .85
    e = valued(1.0, [0.1, 0.3], [0.4, 0.6])
    (row,) = bilevel_gae([[e]], advantage.rewards([[e]]), whiten=False)[0]
    assert flat(row) == pytest.approx([0.85, 0.65, 0.6, 0.4])


def test_within_a_turn_nothing_of_the_next_turns_tokens_is_seen():
    a, b = valued(1.0, [0.1, 0.3], [0.4, 0.6]), valued(1.0, [0.1, 0.3], [-9.0, 0.6])
    table = bilevel_gae([[a], [b]], [[[0.0, 1.0]]] * 2, whiten=False)
    assert flat(table[0][0])[:2] == flat(table[1][0])[:2]


def test_turns_of_one_token_are_turn_level_gae():
    values, rewards = [0.3, 0.1, 0.5], [0.2, 0.0, 1.0]
    advantages, returns = bilevel(rewards, values, [1, 1, 1], [0, 1, 2], gamma_turn=0.9, lam=0.7)
    expected = gae(rewards, values, gamma=0.9, lam=0.7)
    assert advantages.tolist() == pytest.approx(expected.tolist())
    assert returns.tolist() == pytest.approx((expected + values).tolist())


def test_bilevel_expects_something_after_a_cut_episode_only_where_told():
    cut = valued(0.0, [0.5], stop=Stop.MAX_TURNS)
    assert flat(bilevel_gae([[cut]], [[[0.0]]], whiten=False)[0][0]) == [-0.5]
    assert flat(bilevel_gae([[cut]], [[[0.0]]], bootstrap="last", whiten=False)[0][0]) == pytest.approx([-0.025])
