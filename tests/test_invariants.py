"""Estimators by hand: the dark room, and what holds of some alone. test_estimator_properties.py has what all keep."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

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


def pooled_order(batch: Any) -> Returns:
    return advantage.returns(advantage.normalised(batch, over="group"))


LINEAR: list[Callable[..., Returns]] = [advantage.rloo, totals_without_std, advantage.turn_rtg, raw, pooled_order]

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


@pytest.mark.parametrize("scale", ["none", "group", "batch"])
@given(batch=BATCH)
def test_the_order_of_groups_does_not_matter_under_any_scale(scale, batch):
    forth, back = (advantage.turn_rtg(b, scale=scale) for b in (batch, batch[::-1]))
    assert all(same(a, b) for a, b in zip(forth, back[::-1], strict=True))


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
