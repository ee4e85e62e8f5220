"""Potential-based shaping: telescoping, the terminal rule, and that the best policy stays the best."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.credit.returns import return_to_go
from milepost.credit.shaping import shaped

NUMBERS = st.floats(-100, 100)


def test_shaping_by_hand():
    assert shaped([-3.0, -2.0, -2.0, -4.0]) == [1.0, 0.0, -2.0]
    assert shaped([-3.0, -2.0, 1.0], gamma=0.5) == [2.0, 2.5]
    assert shaped([7.0]) == []


def test_the_potential_of_a_terminal_state_can_count_as_zero_and_a_cut_one_never_does():
    assert shaped([-3.0, -2.0], terminal="zero") == [3.0]
    assert shaped([-3.0, -2.0], terminal="zero", terminated=False) == [1.0]


@given(st.lists(NUMBERS, min_size=1, max_size=20), st.floats(0, 1))
def test_discounted_shaping_telescopes_to_the_last_potential_less_the_first(potentials, gamma):
    total = sum(gamma**t * f for t, f in enumerate(shaped(potentials, gamma=gamma)))
    expected = gamma ** (len(potentials) - 1) * potentials[-1] - potentials[0]
    assert total == pytest.approx(expected, abs=1e-9)


@given(st.lists(NUMBERS, min_size=2, max_size=20), st.floats(0, 1))
def test_by_the_zero_rule_shaping_is_the_same_for_every_way_to_an_end(potentials, gamma):
    returns = return_to_go(shaped(potentials, gamma=gamma, terminal="zero"), gamma)
    assert returns == pytest.approx(-np.array(potentials[:-1]), abs=1e-9)


def test_with_the_real_potential_the_better_end_can_change_and_with_zero_it_cannot():
    # two one-turn plays from one state: A ends with reward 1 where Phi is 0, B with reward 0.5 where Phi is 3
    def totals(terminal):
        return [reward + shaped([1.0, phi], terminal=terminal)[0] for reward, phi in ((1.0, 0.0), (0.5, 3.0))]

    a, b = totals("zero")
    assert a - b == pytest.approx(0.5)
    a, b = totals("real")
    assert a < b


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="terminal: expected 'real' or 'zero', got 'none'"):
        shaped([0.0], terminal="none")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="potentials: expected one per state"):
        shaped([])
