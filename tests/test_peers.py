"""The peers that are estimators and samplers, with numbers by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from milepost.credit import advantage
from milepost.credit.cards import card_of
from milepost.credit.made import episode
from milepost.credit.methods import look_up
from milepost.credit.peers.arpo import arpo, branch_points, entropy_change, shared_prefix
from milepost.credit.peers.empg import empg, step_entropies
from milepost.credit.peers.loop import loop
from milepost.credit.peers.mt_grpo import mt_grpo
from milepost.credit.peers.pure import minimum_to_go, pure
from milepost.credit.peers.reinforce_pp import reinforce_pp
from milepost.credit.peers.starpo import starpo_s
from milepost.credit.peers.tree_grpo import roots, tree_grpo
from milepost.envs.core import Action, Call, ContractError, Episode

KINDS = {
    **dict.fromkeys(("gigpo", "hgpo", "mt_grpo", "reinforce_pp", "loop", "tree_grpo", "pure", "empg"), "estimator"),
    **dict.fromkeys(("arpo", "starpo_s"), "sampler"),
    "monte_carlo": "estimator",
}
BY_EPISODES = [mt_grpo, pure, tree_grpo]


@pytest.mark.parametrize("id", KINDS)
def test_a_method_of_the_table_has_a_card_under_its_own_name(id: str):
    card = card_of(look_up(id))
    assert (card.id, card.kind) == (id, KINDS[id])


@pytest.mark.parametrize("estimator", BY_EPISODES)
def test_shapes_that_differ_and_numbers_that_are_none_are_refused(estimator: Any):
    group = [episode(1.0, n_turns=2)]
    with pytest.raises(ContractError, match=rf"{estimator.__name__}: rewards of episode 'e': expected 2 turns, got 1"):
        estimator([group], [[[1.0]]])
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="expected a finite number"):
            estimator([group], [[[bad, 1.0]]])
    assert estimator([[]], [[]]) == [[]]
    with pytest.raises(ContractError, match="has no turn; groups_of leaves it out"):
        estimator([[Episode(id="e")]], [[[]]])


@pytest.mark.parametrize("estimator", BY_EPISODES)
def test_a_group_of_one_and_equal_attempts_get_zeros(estimator: Any):
    for group in ([episode(1.0, n_turns=3)], [episode(1.0, n_turns=3, id=str(i)) for i in range(3)]):
        table = estimator([group], advantage.rewards([group]))
        assert table == [[[0.0, 0.0, 0.0]] * len(group)]


# ---- REINFORCE++ and LOOP ----


def test_reinforce_pp_whitens_over_the_batch_and_counts_each_attempt_once():
    # Returns: (2, 2), (0), (0), (2). Each attempt counts once: mean 1, deviation 1; as turns they would have mean 1.2.
    assert reinforce_pp([[[0.0, 2.0], [0.0]], [[0.0], [2.0]]], eps=0.0) == [[[1.0, 1.0], [-1.0]], [[-1.0], [1.0]]]


def test_reinforce_pp_discounts_by_turn():
    # Returns (0.5, 1) and (0): the first counts 0.75, so the mean is 0.375.
    table = reinforce_pp([[[0.0, 1.0], [0.0]]], gamma=0.5)
    assert table[0][0][1] / table[0][0][0] == pytest.approx((1 - 0.375) / (0.5 - 0.375))


def test_the_group_baseline_takes_what_is_easy_about_a_task_off():
    # All win the first task and lose the second: nothing was learned about either. In the third, 1 and 0.
    rewards = [[[1.0], [1.0]], [[0.0], [0.0]], [[1.0], [0.0]]]
    assert reinforce_pp(rewards, baseline="group")[:2] == [[[0.0], [0.0]], [[0.0], [0.0]]]
    # 0.5 and -0.5 among four zeros: deviation sqrt(0.5 / 6).
    expected = 0.5 / math.sqrt(0.5 / 6)
    assert np.ravel(reinforce_pp(rewards, baseline="group")[2]) == pytest.approx([expected, -expected])
    assert reinforce_pp(rewards)[0][0][0] > 0, "without it, an easy task pays"


@pytest.mark.parametrize("baseline", ["batch", "group"])
def test_a_batch_that_cannot_tell_attempts_apart_gives_zeros(baseline: Any):
    assert reinforce_pp([[[0.0, 1.0]]], baseline=baseline) == [[[0.0, 0.0]]]
    assert reinforce_pp([[[0.1]] * 3, [[0.1]] * 2], baseline=baseline) == [[[0.0]] * 3, [[0.0]] * 2]
    assert reinforce_pp([], baseline=baseline) == []
    assert reinforce_pp([[]], baseline=baseline) == [[]]


def test_reinforce_pp_refuses_what_is_no_number_and_no_baseline():
    with pytest.raises(ValueError, match="expected a finite number, got nan"):
        reinforce_pp([[[math.nan]]])
    with pytest.raises(ValueError, match="baseline: expected 'batch' or 'group', got 'none'"):
        reinforce_pp([[[1.0]]], baseline="none")  # type: ignore[arg-type]


def test_loop_leaves_the_attempt_out_of_its_own_baseline():
    # Totals 1, 0, 0.5: less the means of the others 0.25, 0.75, 0.5.
    assert loop([[[0.0, 1.0], [0.0], [0.5, None]]]) == [[[0.75, 0.75], [-0.75], [0.0, 0.0]]]
    assert loop([[[1.0]]]) == [[[0.0]]]
    assert loop([[[1.0]]], singleton="raw") == [[[1.0]]]


# ---- MT-GRPO ----


def test_an_attempt_without_a_tool_result_gets_the_score_of_its_sum_on_all_tokens():
    # First segments 0.5, 0; the third called nothing: its turn earned 0.5 - 0 = 0.5 and it ended with 0.
    group = [episode(1.0, n_turns=2), episode(0.0, n_turns=2), episode(0.0, n_turns=1)]
    rows = mt_grpo([group], [[[0.5, 1.0], [0.0, 0.0], [0.5]]], eps=0.0)[0]
    turn, outcome = (
        1 / math.sqrt(3),
        1 / math.sqrt(3),
    )  # pools (0.5, 0, 0.5) and (1, 0, 0), deviations 0.288675, 0.57735
    assert rows[0] == pytest.approx([2 * outcome + turn, 2 * outcome])
    assert rows[1] == pytest.approx([-outcome - 2 * turn, -outcome])
    # Sums 1.5, 0, 0.5: mean 0.666667, deviation 0.763763.
    assert rows[2] == pytest.approx([(0.5 - 2 / 3) / 0.7637626])


def test_what_counts_as_a_tool_result_can_be_said():
    group = [episode(1.0, n_turns=3), episode(0.0, n_turns=3)]
    group[0].turns[1].action = group[1].turns[1].action = Action("", calls=(Call("1", "search", "{}"),))
    rows = mt_grpo(
        [group], [[[0.1, 0.2, 1.0], [0.0, 0.0, 0.0]]], result=lambda e, t: bool(e.turns[t].action.calls), eps=0.0
    )[0]
    half = math.sqrt(0.5)
    assert rows == [pytest.approx([2 * half, 2 * half, half]), pytest.approx([-2 * half, -2 * half, -half])]


def test_many_turns_are_accumulated_before_they_are_compared():
    # Turn rewards (1), (1, 0), outcomes 0: the returns at turn 0 are equal, so going on for nothing costs nothing.
    group = [episode(0.0, n_turns=1), episode(0.0, n_turns=2)]
    assert mt_grpo([group], [[[1.0], [1.0, 0.0]]], segments="turns") == [[[0.0], [0.0, 0.0]]]
    group = [episode(1.0, n_turns=2), episode(0.0, n_turns=2)]
    rows = mt_grpo([group], [[[0.0, 1.5], [0.0, 0.0]]], lam=2.0, segments="turns", eps=0.0)[0]
    half = math.sqrt(0.5)  # of the outcomes, and of the returns (0.5, 0) at either turn
    assert rows == [pytest.approx([3 * half] * 2), pytest.approx([-3 * half] * 2)]


def test_mt_grpo_refuses_other_segments_and_unscored_attempts():
    with pytest.raises(ValueError, match="segments: expected 'two' or 'turns'"):
        mt_grpo([], [], segments="three")  # type: ignore[arg-type]
    with pytest.raises(ContractError, match="mt_grpo: episode 'e' has no outcome"):
        mt_grpo([[episode(None)]], [[[0.0]]])


# ---- Tree-GRPO ----


def tree() -> list[Episode]:
    """Two trees: a with its branches b and c (c from b), d alone; b took over two turns, c three of b's."""
    a, b, c, d = (
        episode(o, n_turns=n, id=i) for o, n, i in ((1.0, 3, "a"), (0.0, 3, "b"), (0.5, 4, "c"), (0.0, 2, "d"))
    )
    b.parent, c.parent = {"episode": "a", "turn": 2}, {"episode": "b", "turn": 3}
    return [a, b, c, d]


def test_a_tree_is_all_that_branched_off_one_attempt():
    assert roots(tree()) == ["a", "a", "a", "d"]
    orphans = [episode(1.0, id=i) for i in "xy"]
    for orphan in orphans:
        orphan.parent = {"episode": "gone", "turn": 1}
    assert roots(orphans) == ["gone", "gone"]


def test_tree_grpo_adds_the_score_in_the_tree_to_that_over_all():
    group = tree()
    rows = tree_grpo([group], advantage.rewards([group]), eps=0.0)[0]
    # In the tree 1, 0, 0.5: deviation 0.5, so 1, -1, 0. Over all 1, 0, 0.5, 0: mean 0.375, deviation 0.478714.
    over = [(x - 0.375) / 0.4787136 for x in (1.0, 0.0, 0.5, 0.0)]
    expected = [[1 + over[0]] * 3, [-1 + over[1]] * 3, [over[2]] * 4, [over[3]] * 2]
    assert rows == [pytest.approx(row) for row in expected]


def test_parents_in_a_circle_are_refused():
    group = [episode(1.0, id=i) for i in "ab"]
    group[0].parent, group[1].parent = {"episode": "b", "turn": 1}, {"episode": "a", "turn": 1}
    with pytest.raises(ContractError, match="lead back to itself"):
        roots(group)
    with pytest.raises(ContractError, match="lead back to itself"):
        shared_prefix([group], [[[1.0], [1.0]]])


def test_a_turn_that_branches_share_has_the_mean_of_their_advantages():
    advantages = [[[1.0, 1.0, 1.0], [4.0, 4.0, 4.0], [7.0, 7.0, 7.0, 7.0], [5.0, 5.0]]]
    # Turns 0 and 1 of a are in b and c too: 4. Turn 2 of b is in c: 5.5. The rest was taken once.
    assert shared_prefix([tree()], advantages) == [[[4, 4, 1], [4, 4, 5.5], [4, 4, 5.5, 7], [5, 5]]]
    once = shared_prefix([tree()], advantages, once=True)
    assert once == [[[4, 4, 1], [None, None, 5.5], [None, None, None, 7], [5, 5]]]


# ---- PURE ----


def test_the_return_of_a_turn_is_the_worst_that_follows():
    assert minimum_to_go([0.9, 0.2, None, 0.5, None]) == [0.2, 0.2, 0.5, 0.5, None]
    assert minimum_to_go([]) == []


def test_many_good_steps_do_not_pay_for_a_bad_one():
    # Steps 0.9, 0.9, 0.1 and 0.5, 0.5, 0.5: the sums favour the first, the minima (0.1 and 0.5) the second.
    group = [episode(0.0, credit={"p": steps}) for steps in ([0.9, 0.9, 0.1], [0.5, 0.5, 0.5])]
    rewards = advantage.rewards([group], "p")
    assert np.array(pure([group], rewards)[0]) == pytest.approx(np.array([[-0.4] * 3, [0.4] * 3]))
    assert np.array(advantage.rloo(rewards)[0])[0, 0] > 0


def test_the_outcome_stays_out_of_the_minimum():
    group = [episode(o, credit={"p": [0.5, 0.7]}) for o in (1.0, 0.0)]
    rewards = advantage.rewards([group], "p")
    assert np.array(pure([group], rewards)[0]) == pytest.approx(np.array([[1.0, 1.0], [-1.0, -1.0]]))
    assert np.array(pure([group], rewards, outcome=0.0)[0]) == pytest.approx(np.zeros((2, 2)), abs=1e-12)


def test_a_last_turn_that_nobody_judged_is_no_zero_in_the_minimum():
    group = [episode(1.0, credit={"p": [0.5, None]}), episode(1.0, credit={"p": [0.3, None]})]
    table = pure([group], advantage.rewards([group], "p"))
    assert np.array(table[0]) == pytest.approx(np.array([[0.2, 0.0], [-0.2, 0.0]]))
    zeros = [episode(1.0, credit={"p": [0.5, 0.0]}), episode(1.0, credit={"p": [0.3, 0.3]})]
    table = pure([zeros], advantage.rewards([zeros], "p"))
    assert np.array(table[0]) == pytest.approx(np.array([[-0.3, -0.3], [0.3, 0.3]])), "a judged 0 counts"


# ---- EMPG ----


def sure(*entropies: float, outcome: float = 1.0, id: str = "e") -> Episode:
    return episode(outcome, entropies=[[h - 0.05, h + 0.05] for h in entropies], id=id)


def test_a_sure_turn_learns_more_and_a_turn_before_a_sure_one_is_liked():
    group = [sure(1.0, 2.0, 3.0), sure(1.0, outcome=0.0)]
    rows = empg([group], advantage.rewards([group]), advantage.rloo)[0]
    # H over 0..1: 0, 0.5, 1 and 0; the mean of exp(-H) is (1 + 0.606531 + 0.367879 + 1) / 4 = 0.743603.
    # Advantages 1 and -1. Scaled 1.344804, 0.815665, 0.494725, -1.344804; bonus 0.05 * (0.606531, 0.367879), 0 at ends.
    values = np.array([1.344804 + 0.030327, 0.815665 + 0.018394, 0.494725, -1.344804])
    assert np.concatenate(rows) == pytest.approx(values - values.mean(), abs=2e-6)  # type: ignore[arg-type]


def test_the_bonus_of_a_turn_stays_in_its_episode():
    groups = [[sure(3.0), sure(1.0), sure(1.0, 3.0)]]
    rows = empg(groups, [[[0.0], [0.0], [0.0, 0.0]]], zeta=1.0)[0]
    # Nobody is better than another; only turn 0 of the third has a following turn, of H = 1.
    assert rows[2][0] - rows[2][1] == pytest.approx(math.exp(-1))
    assert rows[0][0] == rows[1][0] == rows[2][1]


def test_equal_entropies_leave_the_advantages_as_they_are():
    group = [sure(2.0, 2.0), sure(2.0, 2.0, outcome=0.0)]
    rewards = advantage.rewards([group])
    assert empg([group], rewards, zeta=0.0)[0] == [pytest.approx(row) for row in advantage.grpo(rewards)[0]]


def test_missing_entropies_are_estimated_and_counted():
    guessed = episode(1.0, logprobs=[[-1.0, -2.0], [-0.5]])
    table, n_estimated = step_entropies([[guessed, sure(0.7)]])
    assert table[0][0] == pytest.approx([1.5, 0.5])
    assert table[0][1] == pytest.approx([0.7])
    assert n_estimated == 2


@pytest.mark.parametrize("bad", [episode(1.0), episode(1.0, logprobs=[[math.nan]]), episode(1.0, n_tokens=[0])])
def test_a_turn_of_unknown_entropy_is_named(bad: Episode):
    with pytest.raises(ContractError, match=r"empg needs tokens.entropies or tokens.logprobs; episode 'e', turn 0"):
        empg([[bad]], [[[1.0]]])


def test_empg_of_nothing_is_nothing():
    assert empg([], []) == []
    assert empg([[]], [[]]) == [[]]
    assert empg([[sure(1.0)]], [[[1.0]]]) == [[[0.0]]]


# ---- ARPO and StarPO-S ----


def test_the_change_of_entropy_is_that_of_the_first_tokens_in_units_of_log_vocabulary():
    played = episode(1.0, entropies=[[0.5, 0.5, 9.0], [1.5, 2.5, 9.0]])
    assert entropy_change(played, 1, vocab=100, n_tokens=2) == pytest.approx(1.5 / math.log(100))
    with pytest.raises(ContractError, match=r"arpo needs tokens.entropies; episode 'e', turn 0 has none"):
        entropy_change(episode(1.0, logprobs=[[-1.0], [-1.0]]), 1, vocab=100)


def test_branches_grow_after_answers_that_puzzled_and_never_before_the_first_turn():
    sure_then_not = episode(1.0, entropies=[[0.0], [0.0], [4.0]], id="a")
    alone = episode(1.0, entropies=[[0.0]], id="b")
    points = branch_points([sure_then_not, alone], [[0.0, 0.55, 0.55], [0.0]], vocab=10)
    assert points == [(sure_then_not, 2)]
    assert branch_points([], [], vocab=10) == []


def test_arpo_refuses_lists_of_different_length_and_what_is_no_number():
    with pytest.raises(ValueError, match="expected as many draws as changes"):
        arpo([0.1], [0.5, 0.5])
    with pytest.raises(ValueError, match="expected finite"):
        arpo([math.nan], [0.5])


def test_the_tasks_about_which_the_policy_is_undecided_are_kept():
    decided, undecided, half = [[1.0], [1.0]], [[0.0], [1.0]], [[0.0], [0.5, 0.0]]
    groups = [decided, half, undecided, decided, undecided, decided, half, decided]
    assert starpo_s(groups) == [2, 4]
    assert starpo_s(groups, 0.5) == [1, 2, 4, 6]
    assert starpo_s(groups, 1.0) == list(range(8))


def test_equal_deviations_keep_the_earlier_and_one_group_is_always_kept():
    assert starpo_s([[[1.0], [0.0]]] * 6) == [0]
    assert starpo_s([[[1.0]]]) == [0]
    assert starpo_s([]) == []
    with pytest.raises(ValueError, match="share: expected more than 0, at most 1, got 0"):
        starpo_s([], 0.0)
    with pytest.raises(ValueError, match="expected a finite number"):
        starpo_s([[[math.inf]]])
