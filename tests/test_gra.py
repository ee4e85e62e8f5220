"""Gated reward accumulation: who passes which gate, and what the placement is."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from milepost.credit import advantage
from milepost.credit.core import assign
from milepost.credit.gra import DRA, GRA, SWE_PROFILE
from milepost.credit.made import episode
from milepost.envs.core import ContractError, Groups, Stop

INF, NAN = float("inf"), float("nan")
STEPS = [0.1, 0.0, 0.1]


def row(gra: GRA, *args: Any, **kwargs: Any) -> Any:
    return gra.on_group([episode(*args, **kwargs)])[0]


def test_an_open_gate_lets_every_turn_earn_its_steps():
    assert row(GRA(), 1.0, step=STEPS) == pytest.approx([0.1, 0.0, 1.1])


def test_a_closed_gate_leaves_the_outcome_alone():
    assert row(GRA(), -0.5, step=STEPS) == [0.0, 0.0, -0.5]


def test_equality_closes_the_gate():
    assert row(GRA(0.5), 0.5, step=STEPS) == [0.0, 0.0, 0.5]
    assert row(GRA(0.49), 0.5, step=STEPS) == pytest.approx([0.1, 0.0, 0.6])


def test_a_closed_gate_drops_penalties_too_unless_told_otherwise():
    assert row(GRA(), 0.0, step=[-0.2, 0.1]) == [0.0, 0.0]
    assert row(GRA(gate_negative=False), 0.0, step=[-0.2, 0.1]) == [-0.2, 0.0]
    assert row(GRA(gate_negative=False), 1.0, step=[-0.2, 0.1]) == pytest.approx([-0.2, 1.1])


@pytest.mark.parametrize("outcome", [None, NAN])
def test_an_invalid_outcome_closes_the_gate_and_counts_zero(outcome):
    assert row(GRA(-10.0), outcome, step=STEPS) == [0.0, 0.0, 0.0]


def test_a_failed_episode_has_no_outcome_to_open_a_gate_with():
    assert row(GRA(), 1.0, step=STEPS, stop=Stop.FAILED) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("outcome", [-INF, -100.0, None])
def test_a_gate_of_minus_infinity_never_closes(outcome):
    assert row(GRA(-INF), outcome, step=[0.3, 0.0])[0] == 0.3


def test_without_a_gate_the_farmer_earns_most_and_with_one_the_winner():
    group = [episode(1.0, step=[0.3] * 3), episode(-0.5, step=[0.3] * 12)]
    direct, gated = (advantage.totals([method.on_group(group)])[0] for method in (DRA(), GRA()))  # type: ignore[list-item]
    assert direct == pytest.approx([1.9, 3.1])
    assert gated == pytest.approx([1.9, -0.5])


def test_terms_of_one_priority_do_not_gate_each_other():
    gra = GRA(priorities={"a": 1, "b": 1, "c": 0}, gates={"a": 0.0, "b": 0.0})
    # b fails: a and b still count, c below them does not
    assert row(gra, 0.0, a=[1.0], b=[-0.5], c=[0.25]) == [0.5]
    assert row(gra, 0.0, a=[1.0], b=[0.5], c=[0.25]) == [1.75]


def test_a_term_needs_all_higher_gates_and_not_only_the_next():
    gra = GRA(priorities={"outcome": 2, "patch": 1}, gates={"outcome": 0.0, "patch": 0.0})
    assert row(gra, 1.0, patch=[0.5], step=[0.25]) == [1.75]
    assert row(gra, 1.0, patch=[0.0], step=[0.25]) == [1.0]
    assert row(gra, 0.0, patch=[0.5], step=[0.25]) == [0.0]


def test_a_gate_asks_for_a_terms_sum_over_the_episode():
    gra = GRA(priorities={"patch": 1}, gates={"patch": 0.5})
    assert row(gra, 0.0, patch=[0.3, 0.3], step=[0.1, 0.1]) == pytest.approx([0.4, 0.4])
    assert row(gra, 0.0, patch=[0.3, 0.2], step=[0.1, 0.1]) == pytest.approx([0.3, 0.2])


def test_the_outcome_can_be_gated_by_something_more_important():
    gra = GRA(priorities={"safe": 2}, gates={"safe": 0.0})
    assert row(gra, 1.0, safe=[-1.0], step=[0.1]) == [-1.0]
    assert row(gra, 1.0, safe=[0.5], step=[0.1]) == pytest.approx([1.6])


def test_only_the_named_terms_count_and_by_their_weights():
    assert row(GRA(terms={"a": 0.5}), 1.0, a=[1.0, 0.0], b=[9.0, 9.0]) == [0.5, 1.0]


def test_a_term_without_weight_can_still_be_a_gate():
    gra = GRA(terms={"patch": 0.0, "step": 1.0}, priorities={"patch": 1}, gates={"patch": 0.0})
    assert row(gra, 1.0, patch=[1.0], step=[0.1]) == pytest.approx([1.1])
    assert row(gra, 1.0, patch=[0.0], step=[0.1]) == [1.0]


def test_the_profile_pays_a_failing_patch_half_and_a_passed_critic_a_tenth():
    paid = {}
    for result in SWE_PROFILE.outcomes:
        e = episode(format=[1.0, 1.0], call=[1.0, 0.0], scaffold=[1.0, 1.0], tests=[9.0, 9.0])
        e.turns[-1].info["result"] = result
        paid[result] = {method.name: method.on_group([e])[0] for method in (GRA(profile="swe"), DRA(profile="swe"))}
    assert paid["resolved"]["gra"] == pytest.approx([0.3, 1.2])
    assert paid["patch"]["gra"] == pytest.approx([0.3, 0.7])
    assert paid["empty_patch"]["gra"] == [0.0, 0.0]
    assert paid["no_submission"]["gra"] == [0.0, -0.5]
    assert paid["resolved"]["dra"] == paid["resolved"]["gra"]
    assert paid["no_submission"]["dra"] == pytest.approx([0.3, -0.3])


def test_what_is_said_beside_a_profile_counts_instead_of_its_own():
    e = episode(format=[1.0], call=[1.0], info={"result": ["patch"]})
    assert GRA(profile="swe", terms={"format": 0.2}).on_group([e])[0] == [0.7]
    assert GRA(0.5, profile="swe").on_group([e])[0] == [0.5]


@pytest.mark.parametrize("stop", [Stop.MAX_TURNS, Stop.MAX_TOKENS, Stop.TIMEOUT])
def test_an_episode_that_ran_into_a_limit_submitted_nothing(stop):
    assert row(GRA(profile="swe"), 0.0, format=[1.0, 1.0], stop=stop) == [0.0, -0.5]


def test_an_episode_that_does_not_count_has_no_label_to_be_paid_for():
    assert row(DRA(profile="swe"), format=[1.0], stop=Stop.FAILED) == [0.1]


def test_a_profile_says_which_label_it_misses():
    for bad in ({}, {"result": ["won"]}):
        with pytest.raises(
            ContractError, match=r"needs info\['result'\].*resolved, patch, empty_patch.*gave (None|'won')"
        ):
            row(GRA(profile="swe"), 1.0, format=[1.0], info=bad)


def test_an_unknown_profile_is_named_with_the_nearest():
    with pytest.raises(ValueError, match=r"no profile 'swf' .did you mean 'swe'"):
        GRA(profile="swf")


def test_a_method_with_the_profile_can_be_sent_to_another_process():
    gra = pickle.loads(pickle.dumps(GRA(profile="swe")))
    assert row(gra, format=[1.0], info={"result": ["patch"]}) == pytest.approx([0.6])


def test_equal_totals_give_advantages_of_exactly_zero():
    rows: Any = GRA().on_group([episode(0.0, step=[0.1] * n) for n in (1, 2, 5)])
    for estimator in (advantage.grpo, advantage.rloo, advantage.turn_rtg):
        assert {a for r in estimator([rows])[0] for a in r} == {0.0}


def test_a_component_that_is_not_a_number_counts_zero_and_is_counted():
    gra = GRA()
    assert row(gra, 1.0, step=[NAN, 0.2]) == pytest.approx([0.0, 1.2])
    assert gra.fit([]) == {"credit/gra/components_not_finite": 1.0}
    assert gra.fit([]) == {"credit/gra/components_not_finite": 0.0}


def test_the_outcome_is_not_added_again_to_a_method_that_includes_it():
    groups = Groups([[episode(1.0, step=[0.5])]])
    gra = GRA()
    assign([gra], groups)
    assert advantage.rewards(groups, gra) == advantage.rewards(groups, "gra", outcome=0.0) == [[[1.5]]]
    assert advantage.rewards(groups, {gra: 2.0}) == [[[3.0]]]
    assert advantage.rewards(groups, "gra") == [[[2.5]]]


def test_an_environment_without_components_is_named():
    with pytest.raises(ContractError, match=r"gra needs info\['reward_components'\] at steps; my/Env-v0 gave none"):
        GRA().on_group([episode(1.0)])


def test_a_component_may_not_take_the_outcomes_name():
    taken = episode(1.0)
    taken.turns[0].info["reward_components"] = {"outcome": 1.0}
    with pytest.raises(ContractError, match="a part named 'outcome'"):
        GRA().on_group([taken])


def test_a_gate_on_a_term_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="gra: gates: no term is named patch"):
        GRA(terms={"step": 1.0}, gates={"patch": 0.0})
    with pytest.raises(ValueError, match="gates: expected a number for 'outcome', got nan"):
        GRA(NAN)
