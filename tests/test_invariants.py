"""What every estimator must keep: the dark room, ragged groups, and the symmetries of a batch."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.credit import advantage, normalise
from milepost.credit.advantage import Returns
from milepost.credit.gra import DRA, GRA
from milepost.credit.made import episode

Rows = list[list[float]]

raw = partial(advantage.turn_rtg, singleton="raw")
totals_without_std = partial(advantage.grpo, scale="none")
indexwise = partial(advantage.turn_rtg, leave_one_out=False, order="normalise_then_accumulate")


def pooled_order(batch: Any) -> Returns:
    return advantage.returns(advantage.normalised(batch, over="group"))


LINEAR: list[Callable[..., Returns]] = [advantage.rloo, totals_without_std, advantage.turn_rtg, raw, pooled_order]
ALL = [*LINEAR, advantage.grpo, partial(advantage.turn_rtg, scale="group"), indexwise]

# -- the dark room: a group in which all attempts failed


def failed_group(c: float) -> list[Rows]:
    return [[[0.03 * c, 0.02 * c], [0.01 * c], [0.0, 0.03 * c]]]


@pytest.mark.parametrize("estimator", LINEAR)
def test_where_all_failed_a_small_process_term_stays_small(estimator):
    (loud,), (quiet,) = estimator(failed_group(1.0)), estimator(failed_group(0.01))
    for a, b in zip(loud, quiet, strict=True):
        assert b == pytest.approx([0.01 * x for x in a])
    assert max(abs(x) for row in quiet for x in row) < 1e-3


def test_where_all_failed_the_division_makes_any_process_term_as_loud_as_a_win():
    z = partial(advantage.grpo, eps=0.0)
    (loud,), (quiet,) = z(failed_group(1.0)), z(failed_group(0.01))
    for a, b in zip(loud, quiet, strict=True):
        assert b == pytest.approx(a)
    assert max(abs(x) for row in quiet for x in row) == pytest.approx(1.0)


def test_one_scale_for_the_batch_is_out_of_the_dark_room_as_soon_as_one_group_won():
    won = [[1.0], [0.0], [0.0]]
    _, (first, *_) = advantage.grpo([won, *failed_group(0.01)], scale="batch")
    assert abs(first[0]) < 1e-3


# -- the ragged game: at most 3 turns, each goes on (0.5) or stops (0), P(go on) = sigmoid(0.3), groups of 4

P = 1 / (1 + math.exp(-0.3))
EXACT = 0.5 * P * (1 - P) * (1 + 2 * P + 3 * P**2)
PLAYS = ["s", "cs", "ccs", "ccc"]
CHANCE = dict(zip(PLAYS, [1 - P, P * (1 - P), P**2 * (1 - P), P**3], strict=True))
SCORES = {"c": 1 - P, "s": -P}
GROUPS = list(product(PLAYS, repeat=4))
GROUP_CHANCE = np.array([math.prod(CHANCE[play] for play in group) for group in GROUPS])


def estimates(estimator: Callable[..., Returns], bonus: float = 0.0) -> np.ndarray:
    """[256] each possible group's estimate of the gradient of the expected return."""
    found = []
    for group in GROUPS:
        rewards = [[0.5 + bonus if a == "c" else bonus for a in play] for play in group]
        (rows,) = estimator([rewards])
        terms = [SCORES[a] * x for play, row in zip(group, rows, strict=True) for a, x in zip(play, row, strict=True)]
        found.append(sum(terms) / 4)
    return np.array(found)


def test_the_exact_gradient_of_the_ragged_game_is_that_of_the_specification():
    assert pytest.approx(0.3837, abs=5e-5) == EXACT


def pooled_unbiased(batch: Any) -> Returns:
    groups = [[episode(0.0, credit={"a": row}) for row in group] for group in batch]
    others = partial(normalise.rloo, singleton="raw")
    return advantage.pooled(groups, "a", normaliser=others, order="accumulate_then_normalise")


@pytest.mark.parametrize("estimator", [raw, advantage.rloo, pooled_unbiased], ids=["turns", "totals", "pools"])
def test_leave_one_out_is_exactly_unbiased_in_the_ragged_game(estimator):
    assert GROUP_CHANCE @ estimates(estimator) == pytest.approx(EXACT, abs=1e-12)


@pytest.mark.parametrize(
    ("estimator", "mean"),
    [
        (advantage.turn_rtg, 0.363),
        (partial(advantage.turn_rtg, leave_one_out=False), 0.254),
        (indexwise, 0.148),
        (pooled_order, 0.186),
        (totals_without_std, 0.75 * EXACT),
    ],
    ids=[
        "lone survivors zeroed",
        "own in the mean",
        "each turn centred first",
        "the pool centred first",
        "own in total",
    ],
)
def test_the_other_orders_are_biased_in_the_ragged_game_by_as_much_as_the_specification_says(estimator, mean):
    assert GROUP_CHANCE @ estimates(estimator) == pytest.approx(mean, abs=2e-3)


def test_sampled_groups_find_the_unbiased_mode_within_three_standard_errors_and_the_others_far_off():
    n = 40_000
    sampled = np.random.default_rng(0).choice(len(GROUPS), size=n, p=GROUP_CHANCE)
    off = {}
    for name, estimator in {"raw": raw, "zeroed": advantage.turn_rtg, "index": indexwise, "pool": pooled_order}.items():
        values = estimates(estimator)[sampled]
        off[name] = abs(values.mean() - EXACT) / (values.std(ddof=1) / math.sqrt(n))
    assert off["raw"] < 3
    assert all(off[name] > 10 for name in ("zeroed", "index", "pool"))


def test_with_a_cost_for_every_turn_the_pooled_order_points_the_wrong_way_and_leave_one_out_does_not():
    cost = 1.0
    exact = P * (1 - P) * (0.5 * (1 + 2 * P + 3 * P**2) - cost * (1 + 2 * P))
    assert GROUP_CHANCE @ estimates(raw, -cost) == pytest.approx(exact, abs=1e-12)
    assert exact < 0 < GROUP_CHANCE @ estimates(pooled_order, -cost)


# -- symmetries

NUMBERS = st.integers(-8, 8).map(lambda n: n / 8)
ROWS = st.lists(NUMBERS, min_size=1, max_size=5)
GROUP = st.lists(ROWS, min_size=1, max_size=5)
BATCH = st.lists(GROUP, min_size=1, max_size=3)


def same(a: Any, b: Any) -> bool:
    return len(a) == len(b) and all(
        len(x) == len(y) and all(p == pytest.approx(q, abs=1e-9) for p, q in zip(x, y, strict=True))
        for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("estimator", ALL)
@given(batch=BATCH)
def test_every_turn_gets_a_finite_advantage_and_the_rewards_are_left_alone(estimator, batch):
    before = [[list(row) for row in group] for group in batch]
    result = estimator(batch)
    assert [[len(row) for row in group] for group in result] == [[len(row) for row in group] for group in batch]
    assert all(math.isfinite(x) for group in result for row in group for x in row)
    assert batch == before


@pytest.mark.parametrize("estimator", ALL)
@given(group=GROUP, data=st.data())
def test_the_order_of_attempts_does_not_matter(estimator, group, data):
    order = data.draw(st.permutations(range(len(group))))
    (result,) = estimator([group])
    (shuffled,) = estimator([[group[i] for i in order]])
    assert same(shuffled, [result[i] for i in order])


@pytest.mark.parametrize("estimator", ALL)
@given(batch=BATCH)
def test_a_group_does_not_feel_the_others(estimator, batch):
    assert estimator(batch) == [estimator([group])[0] for group in batch]
    assert estimator(batch[::-1]) == estimator(batch)[::-1]


@pytest.mark.parametrize("scale", ["none", "group", "batch"])
@given(batch=BATCH)
def test_the_order_of_groups_does_not_matter_under_any_scale(scale, batch):
    forth, back = (advantage.turn_rtg(b, scale=scale) for b in (batch, batch[::-1]))
    assert all(same(a, b) for a, b in zip(forth, back[::-1], strict=True))


@pytest.mark.parametrize("estimator", [advantage.rloo, advantage.grpo, totals_without_std, advantage.turn_rtg])
@given(group=GROUP, shift=NUMBERS)
def test_shifting_all_outcomes_changes_nothing(estimator, group, shift):
    shifted = [[*row[:-1], row[-1] + shift] for row in group]
    assert same(estimator([shifted])[0], estimator([group])[0])


@pytest.mark.parametrize("estimator", [e for e in ALL if e is not raw])
@given(row=ROWS)
def test_a_group_of_one_gets_zero(estimator, row):
    if estimator is pooled_order:
        row = row[:1]
    assert estimator([[row]]) == [[[0.0] * len(row)]]


@pytest.mark.parametrize("estimator", [advantage.rloo, advantage.grpo, totals_without_std])
@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=6), outcome=st.floats(-3, 3))
def test_equal_outcomes_give_exactly_zero_whatever_the_lengths(estimator, lengths, outcome):
    group = [[0.0] * (n - 1) + [outcome] for n in lengths]
    assert {x for row in estimator([group])[0] for x in row} == {0.0}


@given(group=GROUP)
def test_leave_one_out_advantages_sum_to_zero_over_a_group_and_over_those_alive_at_each_turn(group):
    assert sum(row[0] for row in advantage.rloo([group])[0]) == pytest.approx(0.0, abs=1e-9)
    alive = defaultdict(float)
    for row in advantage.turn_rtg([group])[0]:
        for t, x in enumerate(row):
            alive[t] += x
    assert list(alive.values()) == pytest.approx([0.0] * len(alive), abs=1e-9)


@given(group=GROUP)
def test_of_two_attempts_of_one_turn_all_baselines_without_the_own_one_agree(group):
    pair = [row[:1] for row in (group * 2)[:2]]
    assert same(advantage.rloo([pair])[0], advantage.turn_rtg([pair])[0])


# -- unjudged and zero


def test_an_unjudged_turn_adds_nothing_to_a_return_and_keeps_its_place():
    judged, unjudged = [[[0.5, 0.0, 1.0], [0.0]]], [[[0.5, None, 1.0], [None]]]
    assert advantage.turn_rtg(unjudged, 0.9) == advantage.turn_rtg(judged, 0.9)
    assert advantage.rloo(unjudged) == advantage.rloo(judged)


def test_a_zero_enters_the_pool_and_an_unjudged_turn_does_not():
    assert advantage.normalised([[[3.0, 0.0], [0.0]]], over="group") == [[[2.0, -1.0], [-1.0]]]
    assert advantage.normalised([[[3.0, None], [0.0]]], over="group") == [[[1.5, None], [-1.5]]]
    assert advantage.normalised([[[1.0, 3.0], [None, 0.0]]]) == [[[0.0, 1.5], [None, -1.5]]]


def test_unjudged_credit_of_pooled_advantages_leaves_the_outcome():
    group = [episode(1.0, credit={"a": [None, None]}), episode(0.0, credit={"a": [0.25, None]})]
    (rows,) = advantage.pooled([group], "a", normaliser=normalise.center)
    assert rows == [[0.5, 0.5], [-0.5, -0.5]]


@given(steps=ROWS, outcome=NUMBERS, gate=NUMBERS)
def test_what_is_placed_on_turns_sums_to_the_episodes_total(steps, outcome, gate):
    e = episode(outcome, step=steps)
    direct: Any = DRA().on_group([e])[0]
    gated: Any = GRA(gate).on_group([e])[0]
    assert sum(direct) == pytest.approx(outcome + sum(steps))
    assert sum(gated) == pytest.approx(outcome + (sum(steps) if outcome > gate else 0.0))
