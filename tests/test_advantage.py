"""Normalisers, returns and estimators: numbers by hand, edges, messages."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from milepost.credit import advantage, normalise
from milepost.credit.made import episode
from milepost.credit.returns import broadcast, gae, return_to_go, token_gae, turn_ends
from milepost.envs.core import ContractError, Groups

NORMALISERS = [normalise.center, normalise.zscore, normalise.rloo, normalise.igpo_pop, normalise.max_abs]
ESTIMATORS = [advantage.grpo, advantage.rloo, advantage.turn_rtg]
INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize("normaliser", NORMALISERS)
def test_a_lone_member_gets_zero_unless_raw_is_asked_for(normaliser):
    assert normaliser([3.0]).tolist() == [0.0]
    assert normaliser([3.0], singleton="raw").tolist() == [3.0]
    assert normaliser([]).tolist() == []


@pytest.mark.parametrize("normaliser", [normalise.zscore, normalise.igpo_pop])
def test_a_spread_below_1e_8_is_no_spread(normaliser):
    assert normaliser([1.0, 1.0 + 1e-9]).tolist() == [0.0, 0.0]
    assert abs(normaliser([1.0, 1.0 + 1e-3])[0]) > 0.5


@pytest.mark.parametrize("normaliser", NORMALISERS[:4])
def test_equal_members_get_exactly_zero_even_where_their_mean_rounds(normaliser):
    assert normaliser([0.1] * 3 + [0.1] * 7).tolist() == [0.0] * 10


def test_max_abs_by_hand_keeps_signs_and_adds_1e_6():
    assert normalise.max_abs([-2.0, 1.0, 0.0]) == pytest.approx([-2 / 2.000001, 1 / 2.000001, 0.0])
    assert normalise.max_abs([0.0, 0.0]).tolist() == [0.0, 0.0]


def test_igpo_pop_by_hand():
    gains = [1.0, 0.7, -0.2, 0.7]
    assert normalise.igpo_pop(gains) == pytest.approx([0.999998, 0.333333, -1.666663, 0.333333], abs=1e-5)


@pytest.mark.parametrize("bad", [[1.0, NAN], [INF, 0.0]])
def test_a_pool_refuses_what_is_not_finite(bad):
    with pytest.raises(ValueError, match=r"expected finite numbers, got (nan at 1|inf at 0)"):
        normalise.center(bad)
    with pytest.raises(ValueError, match="singleton: expected 'zero' or 'raw', got 'row'"):
        normalise.center([1.0], singleton="row")  # type: ignore[arg-type]


def test_return_to_go_by_hand():
    assert return_to_go([1.0, 0.0, 2.0], 0.5).tolist() == [1.5, 1.0, 2.0]
    assert return_to_go([1.0, 0.0, 2.0]).tolist() == [3.0, 2.0, 2.0]


def test_turn_gae_by_hand_and_with_a_bootstrap():
    # last delta 1 - 0.5; before it 0 + 0.5 * 0.5 - 0.2, plus 0.5 * 0.8 * the last
    assert gae([0.0, 1.0], [0.2, 0.5], gamma=0.5, lam=0.8) == pytest.approx([0.05 + 0.4 * 0.5, 0.5])
    assert gae([0.0], [0.2], gamma=0.5, lam=1.0, bootstrap=3.0) == pytest.approx([1.3])


def test_token_gae_skips_what_the_policy_did_not_write_whatever_its_value():
    mask = [1, 0, 1]
    one, _ = token_gae([0.0, 0.0, 1.0], [0.2, 7.0, 0.5], mask)
    other, returns = token_gae([0.0, 0.0, 1.0], [0.2, -9.0, 0.5], mask)
    assert one.tolist() == other.tolist()
    assert one[[0, 2]] == pytest.approx(gae([0.0, 1.0], [0.2, 0.5]))
    assert (one[1], returns[1]) == (0.0, 0.0)


def test_token_gae_refuses_a_reward_on_a_token_of_the_environment():
    with pytest.raises(ValueError, match=r"expected rewards on the policy's tokens, got 0.5 on token 1"):
        token_gae([0.0, 0.5], [0.0, 0.0], [1, 0])
    with pytest.raises(ValueError, match="of one length"):
        token_gae([0.0], [0.0, 0.0], [1, 0])


def test_a_turn_without_a_token_of_its_own_has_no_end_and_no_token():
    assert turn_ends([0, 0, -1, 2], [1, 1, 0, 1], 3) == [1, -1, 3]
    assert broadcast([1.0, 5.0, 0.0], [0, 0, -1, 2], [1, 1, 0, 1]).tolist() == [1.0, 1.0, 0.0, 0.0]


def test_rewards_add_labels_and_place_the_outcome_on_the_last_turn():
    groups = [[episode(1.0, credit={"a": [0.5, 0.0], "b": [None, 2.0]})]]
    assert advantage.rewards(groups, ["a", "b"]) == [[[0.5, 3.0]]]
    assert advantage.rewards(groups, "a", outcome=0.0) == [[[0.5, 0.0]]]
    assert advantage.rewards(groups, {"a": 2.0, "b": 0.1}, outcome=0.5) == [[[1.0, 0.7]]]


def test_a_turn_that_was_never_judged_is_none_and_one_that_earned_nothing_is_zero():
    groups = [[episode(0.0, credit={"a": [None, 0.0, None]})]]
    assert advantage.rewards(groups, "a", outcome=0.0) == [[[None, 0.0, None]]]
    assert advantage.rewards(groups, "a") == [[[None, 0.0, 0.0]]]
    assert advantage.rewards(groups) == [[[None, None, 0.0]]]


def test_a_token_credit_counts_with_its_sum():
    kl = [np.array([-0.1, -0.2], np.float32), np.array([0.3], np.float32)]
    groups = [[episode(1.0, credit={"kl": kl}, n_tokens=[2, 1])]]
    assert advantage.rewards(groups, {"kl": 10.0})[0][0] == pytest.approx([-3.0, 4.0])


def test_a_label_that_nobody_wrote_is_named():
    groups = [[episode(1.0, credit={"progress": [0.5]})]]
    with pytest.raises(ContractError, match="no turn has credit 'progres': did you mean 'progress'"):
        advantage.rewards(groups, "progres")
    with pytest.raises(ContractError, match="no turn has credit 'gra': there is no credit"):
        advantage.rewards([[episode(1.0)]], "gra")


@pytest.mark.parametrize("outcome", [None, NAN, INF])
def test_an_episode_without_an_outcome_is_named(outcome):
    with pytest.raises(ContractError, match=r"episode 'lost': expected a finite outcome, got (None|inf)"):
        advantage.rewards([[episode(outcome, id="lost")]])


def test_grpo_by_hand_counts_each_attempt_once_however_long():
    batch = [[[1.0], [0.0, 0.0, 0.0, 0.0]]]
    deviation = np.sqrt(0.5) + 1e-6
    assert advantage.grpo(batch) == [[pytest.approx([0.5 / deviation]), pytest.approx([-0.5 / deviation] * 4)]]
    assert advantage.grpo(batch, scale="none") == [[[0.5], [-0.5] * 4]]
    assert advantage.grpo(batch, ddof=0, eps=0.0) == [[[1.0], [-1.0] * 4]]


def test_one_scale_for_the_batch_keeps_a_quiet_group_quiet():
    batch = [[[1.0], [0.0]], [[0.01], [0.0]]]
    loud, quiet = advantage.grpo(batch, scale="batch")
    assert quiet[0][0] == pytest.approx(loud[0][0] / 100)
    std = np.std([1.0, 0.0, 0.01, 0.0], ddof=1)
    assert loud[0][0] == pytest.approx(0.5 / (std + 1e-6))
    assert advantage.turn_rtg([[[2.0], [2.0]]], scale="batch") == [[[0.0], [0.0]]]


def test_the_mean_of_the_others_is_rloo_by_hand():
    assert advantage.rloo([[[1.0, 2.0], [0.0], [0.0, 0.0, 3.0]]]) == [[[1.5, 1.5], [-3.0], [1.5] * 3]]


def test_turn_return_to_go_by_hand():
    # to go: [0.5], [0.6, 0.2], [0.45, 0.1, 0.2]; alive at turn 1: the last two; at turn 2: the last alone
    batch = [[[0.5], [0.5, 0.2], [0.4, 0.0, 0.2]]]
    (rows,) = advantage.turn_rtg(batch, 0.5)
    assert rows[0] == pytest.approx([0.5 - (0.6 + 0.45) / 2])
    assert rows[1] == pytest.approx([0.6 - (0.5 + 0.45) / 2, 0.2 - 0.1])
    assert rows[2] == pytest.approx([0.45 - (0.5 + 0.6) / 2, 0.1 - 0.2, 0.0])
    assert advantage.turn_rtg(batch, 0.5, singleton="raw")[0][2][2] == pytest.approx(0.2)


def test_turn_return_to_go_divided_by_its_groups_deviation():
    batch = [[[1.0], [0.0]], [[10.0], [0.0]]]
    assert (
        advantage.turn_rtg(batch, scale="group")
        == [[pytest.approx([np.sqrt(2)], abs=1e-5), pytest.approx([-np.sqrt(2)], abs=1e-5)]] * 2
    )


def test_pooled_credit_by_hand_in_both_pools():
    # the gains of two attempts with outcomes 1.0 and 0.4; the last turn answers and earns the outcome alone
    gains = ([1.0, 0.7, 0.0], [-0.2, 0.7, 0.0])
    groups = [[episode(o, credit={"ig": g}) for o, g in zip((1.0, 0.4), gains, strict=True)]]
    (rows,) = advantage.pooled(groups, "ig", last="outcome")
    assert rows[0] == pytest.approx([2.333327, 1.333329, 0.999997], abs=1e-5)
    assert rows[1] == pytest.approx([-2.333327, -0.666664, -0.999997], abs=1e-5)
    (rows,) = advantage.pooled(groups, "ig", last="outcome", gamma=0.9)
    assert rows[1] == pytest.approx([-2.176661, -0.566664, -0.999997], abs=1e-5)
    probabilities = ([0.232544, 0.372939, 0.0], [-0.024532, 0.112327, 0.0])
    groups = [[episode(o, credit={"ig": g}) for o, g in zip((1.0, 0.4), probabilities, strict=True)]]
    (rows,) = advantage.pooled(groups, "ig", pools="joint", last="outcome")
    assert rows[0] == pytest.approx([1.716366, 2.073665, 1.999773], abs=1e-5)
    assert rows[1] == pytest.approx([-1.716366, -0.569514, 0.157005], abs=1e-5)


def test_pooled_adds_the_weighted_pools():
    groups = [[episode(o, credit={"a": [g]}) for o, g in ((1.0, 0.0), (0.0, 3.0))]]
    pooled = partial(advantage.pooled, groups, "a", normaliser=normalise.center)
    assert pooled(weight=0.1) == [[pytest.approx([0.5 - 0.15]), pytest.approx([-0.5 + 0.15])]]
    assert pooled(weight=0.1, pools="joint") == [[pytest.approx([0.35]), pytest.approx([-0.35])]]
    assert pooled(weight=0.1, order="accumulate_then_normalise") == [[pytest.approx([0.35]), pytest.approx([-0.35])]]


def test_accumulating_first_takes_the_charge_for_an_extra_turn_away():
    groups = [[episode(0.0, credit={"a": row}) for row in ([0.3, 0.3], [0.3, 0.0, 0.3])]]
    published = advantage.pooled(groups, "a", normaliser=normalise.center)[0]
    unbiased = advantage.pooled(groups, "a", normaliser=normalise.center, order="accumulate_then_normalise")[0]
    assert published[0][0] - published[1][0] == pytest.approx(0.24)
    assert unbiased[0][0] == unbiased[1][0] == pytest.approx(0.0)


def test_written_advantages_are_on_the_turns():
    first, second = episode(1.0, n_turns=2, n_tokens=[3, 1]), episode(0.0)
    each = np.array([0.1, 0.2, 0.3], np.float32)
    advantage.write([[first, second]], [[[each, None], [0]]])
    assert first.turns[0].advantage is each
    assert [turn.advantage for turn in (first.turns[1], second.turns[0])] == [None, 0.0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([], "groups: expected 1, got 0"),
        ([[[0.0, 0.0]]], "group 'g': rows: expected 2, got 1"),
        ([[[0.0, 0.0], [0.0, 0.0]]], "episode 'b': values: expected 1, got 2"),
        ([[[0.0, NAN], [0.0]]], "episode 'a', turn 1: expected finite numbers, got nan"),
        ([[[0.0, np.zeros(2)], [0.0]]], r"episode 'a', turn 1: expected shape \(0,\), a number per sampled token"),
    ],
)
def test_wrong_advantages_are_refused_and_nothing_is_written(wrong, message):
    group = [episode(1.0, n_turns=2, id="a"), episode(0.0, id="b")]
    with pytest.raises(ContractError, match=message):
        advantage.write([group], wrong)
    assert all(turn.advantage is None for e in group for turn in e.turns)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_estimators_name_the_turn_that_is_not_a_number(estimator):
    with pytest.raises(ValueError, match="group 1, attempt 0, turn 2: expected a finite number, got nan"):
        estimator([[[0.0]], [[0.0, None, NAN]]])
    with pytest.raises(ValueError, match="group 0, attempt 1: expected at least one turn, got none"):
        estimator([[[0.0], []]])


def test_an_attempt_in_which_nothing_was_done_stays_out_of_the_baseline():
    with pytest.raises(ValueError, match="at least one turn"):
        advantage.rloo([[[1.0], [], [0.0]]])


def test_unknown_choices_are_named():
    groups = [[episode(1.0, credit={"a": [0.5]})]]
    with pytest.raises(ValueError, match="scale: expected one of none, group, batch, got 'std'"):
        advantage.grpo([[[0.0]]], scale="std")  # type: ignore[arg-type]
    for call in (partial(advantage.turn_rtg, [[[0.0]]]), partial(advantage.pooled, groups, "a")):
        with pytest.raises(ValueError, match="order: expected one of accumulate_then_normalise, normalise_then"):
            call(order="first")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pools: expected 'separate' or 'joint', got 'both'"):
        advantage.pooled(groups, "a", pools="both")  # type: ignore[arg-type]


def test_an_empty_batch_gives_an_empty_batch():
    assert advantage.rewards(Groups(), "progress") == []
    for estimator in ESTIMATORS:
        assert estimator([]) == []
    advantage.write(Groups(), [])


def test_a_lone_attempt_keeps_its_raw_total_where_that_is_asked_for_under_any_scale():
    # released trainers take a group of one as mean 0 and deviation 1
    for scale in ("none", "group"):
        assert advantage.grpo([[[0.25, 0.5]]], scale=scale, singleton="raw") == [[[0.75, 0.75]]]
        assert advantage.grpo([[[0.25, 0.5]]], scale=scale) == [[[0.0, 0.0]]]


def test_returns_by_doubling_are_those_of_the_recursion():
    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 7, 64, 1000):
        rewards, values = rng.normal(size=n), rng.normal(size=n)
        ends = np.flatnonzero(rng.random(n) < 0.2)
        expected, trace, after = np.zeros(n), 0.0, 0.3
        for i in range(n - 1, -1, -1):
            goes_on = 0.0 if i in ends else 1.0
            trace = rewards[i] + 0.9 * goes_on * after - values[i] + 0.9 * 0.95 * goes_on * trace
            expected[i], after = trace, values[i]
        got, _ = token_gae(rewards, values, np.ones(n, bool), gamma=0.9, lam=0.95, bootstrap=0.3, ends=ends)
        assert got == pytest.approx(expected, abs=1e-12)


def test_rewards_that_are_not_finite_or_no_numbers_are_named():
    with pytest.raises(ContractError, match="episode 'e': expected finite rewards, got"):
        advantage.rewards([[episode(1.0, credit={"a": [NAN]})]], "a")
    with pytest.raises(ValueError, match="attempt 0, turn 0: expected a finite number, got x"):
        advantage.grpo([[["x"]]])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="over: expected 'turn' or 'group', got 'zzz'"):
        advantage.normalised([[[1.0]]], over="zzz")  # type: ignore[arg-type]
