"""Several signals into one: numbers by hand, what each rule promises, edges and messages."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from signals import INF, NAN, check, one_line, rows

from milepost.credit import advantage
from milepost.credit.combine import ensemble, occupancy, par
from milepost.credit.combine.gdpo import conditional, decoupled, gdpo
from milepost.credit.combine.krc import krc
from milepost.credit.made import episode
from milepost.envs.core import ContractError, Episode

# -- PAR


@check
@given(rows, rows)
def test_par_stays_between_0_and_1_and_grows_with_the_reward(rewards: list[float], references: list[float]):
    found = par.par(sorted(rewards), references)
    assert ((found > 0) & (found < 1)).all()
    assert (np.diff(found) >= -1e-12).all()


def test_par_is_a_half_where_the_answer_is_its_only_reference_and_sums_to_1_with_the_mirrored_one():
    assert par.par(2.5, [2.5]) == 0.5
    assert par.par([1.0, 3.0], [2.0]).sum() == pytest.approx(1.0)


def test_a_reward_far_beyond_its_references_does_not_overflow():
    assert par.par([-1e308, 1e308], [0.0]).tolist() == [0.0, 1.0]


def test_prompts_may_have_references_of_their_own():
    both = par.par([3.0, 1.0], [[0.5, 1.5], [1.0, 1.0]])
    assert both.tolist() == [par.par(3.0, [0.5, 1.5]).item(), 0.5]


def test_what_par_was_compared_with_by_hand():
    # references 0, 2: mean 1, population deviation 1; their 85th percentile is 1.7
    assert par.shaped("mean_std", [3.0, 1.0], [0.0, 2.0], eps=0.0).tolist() == [2.0, 0.0]
    assert par.shaped("clip", [3.0, 1.0, -3.0], [0.0, 2.0]).tolist() == [2.0, 1.0, 0.0]
    assert par.shaped("min_max", [3.0, 0.5, -1.0], [0.0, 2.0]).tolist() == [1.0, 0.25, 0.0]
    assert par.shaped("log_sigmoid", 1.7, [0.0, 2.0]).item() == pytest.approx(-math.log(2))
    assert par.shaped("tanh", 1.0, [0.0, 2.0]).item() == pytest.approx(0.0)
    assert par.shaped("tanh", 1.0, [0.0]).item() == pytest.approx(math.tanh(1.0))
    assert par.shaped("ceiling", [3.0, 1.0], [0.0, 2.0]).tolist() == [2.0, 1.0]
    assert par.shaped("ceiling", [3.0, 1.0], limit=0.5).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("how", ["mean_std", "min_max"])
def test_references_that_do_not_differ_give_zeros(how: str):
    assert par.shaped(how, [1.0, 5.0], [3.0, 3.0]).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("how", par.SHAPES)
def test_a_bounding_rule_without_references_says_so(how: str):
    with pytest.raises(ValueError, match=f"^{how} needs references") as error:
        par.shaped(how, [1.0])
    assert one_line(error)
    with pytest.raises(ValueError, match="expected finite numbers, got nan"):
        par.shaped(how, [NAN], [1.0])


def test_an_unknown_bounding_rule_is_named_with_those_that_there_are():
    with pytest.raises(ValueError, match=r"par: expected one of par, tanh, .*, got 'sigmoid'"):
        par.shaped("sigmoid", [1.0], [1.0])


# -- GDPO


def attempt(outcome: float | None, id: str = "e", **credit: list[Any]) -> Episode:
    return episode(outcome, credit=credit, id=id, n_turns=1)


def advantages(groups: list[list[Episode]], *labels: str, **options: Any) -> advantage.Returns:
    return gdpo(groups, advantage.rewards(groups, labels), labels=labels, **options)


def test_gdpo_by_hand_with_unequal_lengths():
    # totals of a: 1, 0; outcomes: 0, 1. z: (0.7071, -0.7071) and (-0.7071, 0.7071); S = 2 z_a + z_out, without eps
    group = [attempt(0.0, a=[0.5, 0.0, 0.5]), attempt(1.0, a=[0.0])]
    found = advantages([group], "a", weights={"a": 2.0}, whiten=False, eps=0.0)
    assert found == [[pytest.approx([math.sqrt(0.5)] * 3), pytest.approx([-math.sqrt(0.5)])]]


def test_the_batch_step_divides_by_one_deviation_for_all_groups():
    # group 1: S = (r, -r), r = sqrt(1/2), from the outcome alone; group 2: S = (2r, -2r). Together the mean is 0 and
    # the sample deviation sqrt((2 * 0.5 + 2 * 2) / 3) = sqrt(5 / 3)
    one = [attempt(1.0, a=[0.0]), attempt(0.0, a=[0.0])]
    two = [attempt(1.0, a=[1.0]), attempt(0.0, a=[0.0])]
    found = advantages([one, two], "a", eps=0.0)
    r = math.sqrt(0.5) / math.sqrt(5 / 3)
    assert [row[0] for group in found for row in group] == pytest.approx([r, -r, 2 * r, -2 * r])


def test_before_the_batch_step_no_group_knows_of_another():
    one = [attempt(1.0, a=[0.3]), attempt(0.0, a=[0.9])]
    two = [attempt(5.0, a=[7.0]), attempt(0.0, a=[-90.0]), attempt(2.0, a=[1.0])]
    assert advantages([one, two], "a", whiten=False)[0] == advantages([one], "a", whiten=False)[0]
    assert advantages([one, two], "a")[0] != advantages([one], "a")[0]


def test_a_weight_before_the_zscore_would_be_undone_and_after_it_counts():
    group = [attempt(1.0, a=[0.0]), attempt(0.0, a=[1.0]), attempt(0.0, a=[0.0])]
    small, large = (advantages([group], "a", weights={"a": w}) for w in (0.1, 10.0))
    assert small[0][0][0] > small[0][1][0]
    assert large[0][0][0] < large[0][1][0]


def test_the_pure_function_is_what_the_estimator_whitens():
    table = [[0.2, 1.0], [0.9, 0.0], [0.4, 0.0]]
    group = [attempt(o, a=[a]) for a, o in table]
    found = advantages([group], "a", weights={"a": 0.5, "outcome": 2.0}, whiten=False)
    assert [row[0] for row in found[0]] == pytest.approx(decoupled(table, [0.5, 2.0]))


def test_without_labels_the_only_reward_is_what_was_given():
    groups = [[episode(1.0), episode(0.0)], [episode(1.0), episode(1.0)]]
    table = [[[0.5], [0.0]], [[1.0], [0.25]]]
    assert gdpo(groups, table, whiten=False) == advantage.grpo(table, eps=0.0)


def test_what_was_never_judged_enters_no_pool_and_a_judgement_of_0_does():
    group = [attempt(0.0, a=[None]), attempt(0.0, a=[1.0]), attempt(0.0, a=[0.0])]
    found = advantages([group], "a", whiten=False, eps=0.0)
    r = math.sqrt(0.5)
    assert [row[0] for row in found[0]] == pytest.approx([0.0, r, -r])
    judged = [attempt(0.0, a=[0.0]), *group[1:]]
    # pool 0, 1, 0: mean 1/3, deviation 0.57735
    assert [row[0] for row in advantages([judged], "a", whiten=False, eps=0.0)[0]] == pytest.approx(
        [-0.57735, 1.154701, -0.57735], abs=1e-5
    )


def test_an_attempt_that_nothing_judged_is_not_in_the_batch_step_either():
    group = [attempt(None, a=[None]), attempt(None, a=[1.0]), attempt(None, a=[0.0])]
    found = advantages_without_outcome([group])
    # S = (None, r, -r): whitened, r / r, and 0 for the first
    assert [row[0] for row in found[0]] == pytest.approx([0.0, math.sqrt(0.5), -math.sqrt(0.5)], abs=1e-5)


def advantages_without_outcome(groups: list[list[Episode]]) -> advantage.Returns:
    table = advantage.rewards(groups, "a", outcome=0.0)
    return gdpo(groups, table, labels=["a"], weights={"outcome": 0.0})


def test_gdpo_is_zero_where_nothing_differs_and_empty_where_there_is_nothing():
    equal = [attempt(1.0, a=[0.1]), attempt(1.0, a=[0.1])]
    assert advantages([equal], "a") == [[[0.0], [0.0]]]
    assert advantages([[attempt(1.0, a=[0.1, 0.2])]], "a") == [[[0.0, 0.0]]]
    assert gdpo([], [], labels=["a"]) == []
    assert gdpo([[]], [[]]) == [[]]


def test_exactly_opposite_rewards_cancel():
    assert advantages([[attempt(1.0, a=[0.0]), attempt(0.0, a=[1.0])]], "a") == [[[0.0], [0.0]]]


def test_gdpo_names_what_is_missing():
    group = [attempt(1.0, a=[0.1]), attempt(0.0, a=[0.1])]
    with pytest.raises(ContractError, match="no turn has credit 'b'"):
        gdpo([group], [], labels=["b"])
    with pytest.raises(ValueError, match="gdpo: weights: b is among no labels; there is a, outcome"):
        gdpo([group], [], labels=["a"], weights={"b": 1.0})
    with pytest.raises(ContractError, match="expected a finite outcome, got None"):
        gdpo([[attempt(None, a=[0.1])]], [], labels=["a"])
    with pytest.raises(ContractError, match="gdpo: episode 'x': expected at least one turn, got none"):
        gdpo([[Episode(id="x")]], [[[]]])
    with pytest.raises(ContractError, match="gdpo: expected rewards of the groups' attempts"):
        gdpo([group], [[[1.0]]])
    with pytest.raises(ValueError, match="gdpo: expected 2 weights, one a reward, got 1"):
        decoupled([[1.0, 2.0]], [1.0])


def test_an_easy_reward_counts_only_where_the_hard_one_reaches_the_mark():
    assert conditional([0.5, 0.5, 0.5, 0.0], [1.0, 0.99, 2.0, 1.0]).tolist() == [0.5, 0.0, 0.5, 0.0]
    assert conditional([-0.5], [0.0], at_least=0.0).tolist() == [-0.5]
    assert conditional([[0.1, 0.2], [0.3, 0.4]], [[1.0], [0.0]]).tolist() == [[0.1, 0.2], [0.0, 0.0]]
    with pytest.raises(ValueError, match="conditional: hard: expected finite numbers, got nan"):
        conditional([1.0], [NAN])


# -- ensembles


@check
@given(rows, st.floats(0, 2))
def test_disagreement_only_lowers_the_mean_and_never_below_the_worst_while_lam_is_small(members, lam):
    mean, wco, uwo = ensemble.mean(members), ensemble.wco(members), ensemble.uwo(members, lam=lam)
    assert uwo <= mean + 1e-9
    assert wco <= mean + 1e-9
    if lam * (max(members) - mean) <= 1:  # var <= (max - mean) * (mean - min)
        assert wco <= uwo + 1e-9


def test_members_that_agree_are_their_mean_and_a_lone_one_disagrees_with_nobody():
    assert ensemble.uwo([0.4, 0.4, 0.4], lam=9.0) == pytest.approx(0.4)
    assert ensemble.uwo([0.4], lam=9.0, variance="sample") == pytest.approx(0.4)


def test_an_ensemble_judges_every_entry_of_an_array():
    assert ensemble.uwo([[1.0, 0.0], [3.0, 0.0]], lam=0.5).tolist() == [1.5, 0.0]
    assert ensemble.wco([[1.0, 0.0], [0.5, 2.0]]).tolist() == [0.5, 0.0]


def test_an_ensemble_names_what_is_wrong():
    with pytest.raises(ValueError, match="wco needs members: rewards of at least one model, got none"):
        ensemble.wco([])
    with pytest.raises(ValueError, match="uwo: members: expected numbers in rows of one length") as error:
        ensemble.uwo([[1.0, 2.0], [1.0]])
    assert one_line(error)
    with pytest.raises(ValueError, match="uwo: lam: expected at least 0, got -1"):
        ensemble.uwo([1.0], lam=-1)
    with pytest.raises(ValueError, match="variance: expected 'population' or 'sample', got 'both'"):
        ensemble.uwo([1.0], variance="both")  # type: ignore[arg-type]


# -- KRC


@check
@given(rows)
def test_one_part_of_zero_makes_krc_exactly_zero(parts: list[float]):
    found = krc([*parts, 0.0]).item()
    assert found == 0.0
    assert math.copysign(1.0, found) == 1.0


@check
@given(rows)
def test_krc_lies_between_the_smallest_and_the_largest_part_and_is_negative_with_any_negative(parts: list[float]):
    found, sizes = krc(parts).item(), np.abs(parts)
    assert sizes.min() - 1e-9 <= abs(found) <= sizes.max() + 1e-9
    assert found >= 0 or min(parts) < 0


def test_krc_by_hand():
    # (8 * 1 * 1)^(1/3) = 2; two negatives do not make a positive
    assert krc([[8.0, 1.0, 1.0], [-8.0, -1.0, 1.0]]) == pytest.approx([2.0, -2.0])
    with pytest.raises(ValueError, match="krc needs components: at least one part, got none"):
        krc([])
    with pytest.raises(ValueError, match="krc: components: expected finite numbers, got inf"):
        krc([INF])


# -- occupancies

shares = st.lists(st.floats(0.01, 1), min_size=3, max_size=3).map(lambda x: [v / sum(x) for v in x])


@check
@given(shares, shares)
def test_straying_costs_nothing_at_home_and_something_elsewhere(policy: list[float], base: list[float]):
    assert occupancy.chi2(base, base) == pytest.approx(0.0, abs=1e-9)
    assert occupancy.kl(base, base) == pytest.approx(0.0, abs=1e-9)
    # KL <= log(1 + chi2)
    assert 0 <= occupancy.kl(policy, base) <= math.log1p(occupancy.chi2(policy, base)) + 1e-9
    assert occupancy.objective([1, 0, 0], policy, base, lam=1.0) <= policy[0] + 1e-9


def test_a_discriminator_that_is_right_gives_the_exact_divergence():
    # mu = (3/4, 1/4), base = (1/2, 1/2): d = log 1.5 three times, log 0.5 once; chi2 = 2 * (9/16 + 1/16) - 1 = 0.25
    d = [math.log(1.5)] * 3 + [math.log(0.5)]
    for penalty, exact in (("chi2", occupancy.chi2), ("sqrt_chi2", occupancy.sqrt_chi2), ("kl", occupancy.kl)):
        assert occupancy.estimated(d, penalty) == pytest.approx(exact([0.75, 0.25], [0.5, 0.5]))  # type: ignore[arg-type]
    assert occupancy.chi2([0.75, 0.25], [0.5, 0.5]) == pytest.approx(0.25)
    assert occupancy.estimated([-3.0]) == 0.0


def test_going_where_the_base_never_was_costs_without_limit_and_staying_out_of_it_nothing():
    assert occupancy.chi2([0.5, 0.5], [1.0, 0.0]) == occupancy.kl([0.5, 0.5], [1.0, 0.0]) == INF
    assert occupancy.objective([1.0, 1.0], [0.5, 0.5], [1.0, 0.0], lam=0.1) == -INF
    assert occupancy.objective([1.0, 1.0], [0.5, 0.5], [1.0, 0.0], lam=0.0) == 1.0
    assert occupancy.chi2([1.0, 0.0], [1.0, 0.0]) == 0.0


def test_the_penalty_can_be_chosen():
    mu, base = [0.75, 0.25], [0.5, 0.5]
    assert occupancy.objective([0, 0], mu, base, lam=1.0, penalty="chi2") == pytest.approx(-0.25)
    assert occupancy.objective([0, 0], mu, base, lam=1.0) == pytest.approx(-0.5)


def test_a_correlation_that_drops_is_reported_as_hacking():
    found = occupancy.correlation([1, 2, 3], [2, 4, 6], [1, 2, 3], [3, 2, 1])
    assert found == pytest.approx((1.0, -1.0, 2.0))
    assert occupancy.correlation([1, 2], [1, 2], [1, 1], [1, 2]) == (pytest.approx(1.0), None, None)


def test_an_occupancy_names_what_is_wrong():
    with pytest.raises(
        ValueError, match=r"occupancy: policy: expected shares of visits that sum to 1, got a sum of 1\.5"
    ):
        occupancy.chi2([1.0, 0.5], [0.5, 0.5])
    with pytest.raises(ValueError, match=r"occupancy: policy and base: expected one shape, got \(1,\), \(2,\)"):
        occupancy.kl([1.0], [0.5, 0.5])
    with pytest.raises(ValueError, match="penalty: expected one of sqrt_chi2, chi2, kl, got 'js'"):
        occupancy.objective([1.0], [1.0], [1.0], lam=1.0, penalty="js")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="occupancy needs logratios"):
        occupancy.estimated([])


@pytest.mark.parametrize("size", [0.1, 0.5, 1.0, 2.0])
def test_rewards_that_cancel_leave_nothing_to_whiten_whatever_their_sizes(size: float):
    group = [episode(1.0, credit={"a": [0.0]}, id="x"), episode(0.0, credit={"a": [size]}, id="y")]
    assert gdpo([group], advantage.rewards([group], "a"), labels=["a"]) == [[[0.0], [0.0]]]
