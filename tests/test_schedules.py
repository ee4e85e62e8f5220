"""Coefficients that move: hypervolume, gradient weights, discount, imitation against reward, effective rank."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milepost.credit.combine.ads import Progress, discount, lis, nearest
from milepost.credit.combine.amft import alignment, amft, blended, val_slope
from milepost.credit.combine.effective_rank import Dynamics, Verl, dynamics, effective_rank, erank, shaped
from milepost.credit.combine.gradient_weights import gradient_weights, influences
from milepost.credit.combine.hypervolume import Front, hypervolume, multiplier

INF, NAN = float("inf"), float("nan")
check = settings(deadline=None, max_examples=60)
point3 = st.lists(st.integers(-1, 3).map(float), min_size=3, max_size=3)


# -- hypervolume


@check
@given(st.lists(point3, max_size=5))
def test_the_volume_is_the_number_of_unit_cubes_below_some_point(points: list[list[float]]):
    cubes = itertools.product(range(3), repeat=3)
    covered = sum(any(all(p > c for p, c in zip(point, cube, strict=True)) for point in points) for cube in cubes)
    assert hypervolume(points, [0.0] * 3) == pytest.approx(covered)


@check
@given(st.lists(point3, max_size=4), point3)
def test_another_point_never_lowers_the_volume_and_one_that_is_dominated_adds_exactly_nothing(points, new):
    front = Front([0.0] * 3, points)
    before = front.volume
    gain = front.add(new)
    assert gain >= 0
    assert front.volume == pytest.approx(before + gain)
    assert front.add(new) == 0.0
    assert front.add([x - 1 for x in new]) == 0.0


@check
@given(st.lists(point3, max_size=6))
def test_a_front_keeps_only_points_that_no_other_dominates(points: list[list[float]]):
    front = Front([0.0] * 3, points)
    assert front.volume == pytest.approx(hypervolume(points, [0.0] * 3))
    for a, b in itertools.permutations(front.points, 2):
        assert not all(x >= y for x, y in zip(a, b, strict=True))


def test_volumes_by_hand_of_one_two_and_four_objectives():
    assert hypervolume([[3.0], [5.0]], [1.0]) == 4.0
    assert hypervolume([[1.0, 2.0], [2.0, 1.0]], [0.0, 0.0]) == 3.0
    # two boxes of 2 and 2 that share a unit cube
    assert hypervolume([[2.0, 1, 1, 1], [1.0, 1, 1, 2]], [0.0] * 4) == 3.0
    assert hypervolume([], [0.0, 0.0]) == 0.0


def test_a_point_that_is_worse_than_the_start_in_one_objective_gains_nothing():
    front = Front([0.2, 0.2])
    assert front.add([0.9, 0.1]) == front.add([0.9, 0.2]) == 0.0
    assert front.add([0.3, 0.3]) == pytest.approx(0.01)


def test_the_multiplier_goes_from_a_half_to_two():
    assert (multiplier(0.0), multiplier(50.0)) == (0.5, 2.0)
    assert multiplier(0.1) < multiplier(0.2)


def test_a_hypervolume_names_what_is_wrong():
    with pytest.raises(ValueError, match="hypervolume: expected 2 objectives, as the reference has, got 1"):
        Front([0.0, 0.0]).add([1.0])
    with pytest.raises(ValueError, match="hypervolume: gain: expected at least 0, got -1"):
        multiplier(-1)
    with pytest.raises(ValueError, match="hypervolume: gain: expected at least 0, got nan"):
        multiplier(NAN)
    with pytest.raises(ValueError, match="hypervolume: points: expected 2 dimensions"):
        hypervolume([1.0, 2.0], [0.0, 0.0])


# -- gradient weights


def test_an_objective_whose_gradient_helps_the_others_gains_weight_and_one_against_them_loses():
    found = influences([[1.0, 0.0], [1.0, 0.0], [-0.5, 0.0]])
    assert found.tolist() == [1.5, 1.5, -0.75]
    weights = gradient_weights([1 / 3] * 3, found, eta=1.0, mu=1.0)
    # e^1.5 : e^1.5 : e^-0.75
    assert weights[0] / weights[2] == pytest.approx(math.exp(2.25))
    assert weights.sum() == pytest.approx(1.0)


def test_influences_of_several_steps_count_with_their_mean():
    assert gradient_weights([0.5, 0.5], [[2.0, 0.0], [0.0, 2.0]], eta=1.0, mu=1.0).tolist() == [0.5, 0.5]


def test_weights_stay_finite_whatever_the_influence_and_one_of_zero_stays_zero():
    assert gradient_weights([0.5, 0.5, 0.0], [1e9, 0.0, 1e9], eta=1.0).tolist() == [1.0, 0.0, 0.0]


def test_gradient_weights_name_what_is_wrong():
    with pytest.raises(ValueError, match="expected none below 0 and one above"):
        gradient_weights([0.0, 0.0], [1.0, 1.0], eta=1.0)
    with pytest.raises(ValueError, match="expected 2 influences, one a weight, got shape"):
        gradient_weights([0.5, 0.5], [1.0], eta=1.0)
    with pytest.raises(ValueError, match="mu: expected a positive number, got 0"):
        gradient_weights([1.0], [1.0], eta=1.0, mu=0)
    with pytest.raises(ValueError, match="gradient_weights: gradients: expected finite numbers, got inf"):
        influences([[INF]])


# -- ADS


@check
@given(st.lists(st.integers(0, 5), max_size=7))
def test_the_longest_increasing_subsequence_is_what_trying_all_of_them_finds(positions: list[int]):
    runs = (c for n in range(len(positions) + 1) for c in itertools.combinations(positions, n))
    longest = max(len(c) for c in runs if all(a < b for a, b in itertools.pairwise(c)))
    assert lis(positions) == longest


@check
@given(st.integers(1, 200))
def test_a_reward_k_turns_ahead_weighs_alpha(k: int):
    assert discount(k) ** k == pytest.approx(0.2)
    assert discount(k) < discount(k + 1) < 1


def test_an_agent_that_follows_advances_five_at_once_and_stops_at_the_horizon():
    progress = Progress(12, [range(12)])
    assert progress.k == 2
    steps = []
    for _ in range(4):
        progress.update([range(12)])
        steps.append(progress.k)
    assert steps == [7, 12, 12, 12]
    assert progress.gamma == pytest.approx(0.2 ** (1 / 12))


def test_an_agent_that_stands_still_never_advances():
    progress = Progress(20, [range(20)])
    progress.update([[0] * 20])
    assert progress.k == 4
    progress.update([[0] * 10 + list(range(1, 11))])  # it follows, but only after its first 4 turns
    assert progress.k == 4
    assert Progress(20, [range(20)]).update([]) == pytest.approx(0.2 ** (1 / 4))


def test_progress_goes_as_far_as_the_agent_followed():
    # it follows for 6 turns, then stands still: k = 4, 5, 6 need 3, 4, 5 of 4, 5, 6; k = 7 needs int(6.3) = 6 and has
    # 6; k = 8 needs int(7.2) = 7 and has 6
    progress = Progress(20, [range(20)])
    progress.update([[0, 1, 2, 3, 4, 5] + [5] * 14])
    assert progress.k == 8


def test_the_reference_is_the_median_of_demonstrations_and_the_agent_its_best_tenth():
    # references over 4 turns: 4, 4, 1: median 4, int(3.6) = 3. Scores 1 in ten attempts and 3 in one: percentile 90
    # of eleven is the tenth of them, 1; with two of eleven it is 3
    references = [range(20), range(20), [0] * 20]
    bad, good = [0] * 20, [0, 1, 2] + [2] * 17
    one, two = Progress(20, references), Progress(20, references)
    one.update([bad] * 10 + [good])
    two.update([bad] * 9 + [good] * 2)
    assert (one.k, two.k) == (4, 5)


def test_a_short_horizon_begins_with_one_turn():
    assert Progress(3, [range(3)]).k == 1


def test_a_resumed_schedule_goes_on():
    ours, theirs = Progress(20, [range(20)]), Progress(20, [range(20)])
    ours.update([range(20)])
    theirs.load_state_dict(ours.state_dict())
    assert theirs.gamma == ours.gamma


def test_the_nearest_turn_is_the_earlier_of_equals():
    assert nearest([[0.5, 0.1, 0.1], [2.0, 3.0, 1.0]]) == [1, 2]


def test_the_schedule_names_what_is_wrong():
    with pytest.raises(ValueError, match="ads: progress: expected at least 1 turn, got 0"):
        discount(0)
    with pytest.raises(ValueError, match="ads: alpha: expected a number between 0 and 1, got 1"):
        discount(3, alpha=1)
    with pytest.raises(ValueError, match="ads needs references"):
        Progress(5, [])
    with pytest.raises(ValueError, match="ads: horizon: expected at least 1 turn, got 0"):
        Progress(0, [[0]])
    with pytest.raises(ValueError, match="ads needs distances"):
        nearest(np.zeros((2, 0)))


# -- AMFT


def test_imitation_grows_where_its_gradient_agrees_more_with_the_validations():
    for_sft = alignment([1.0, 0.0], [2.0, 0.0], [1.0, 5.0])
    assert for_sft == 1.0
    more = amft(0.5, val_slope(for_sft, lr=1.0), 1.0, 1.0)
    less = amft(0.5, val_slope(-for_sft, lr=1.0), 1.0, 1.0)
    assert less < 0.5 < more


def test_one_step_of_mu_lowers_the_validation_loss():
    # L_val = 0.5 * (x - 1)^2, L_SFT = 0.5 * (x - 2)^2, L_RL = 0.5 * (x + 1)^2 at x = 0, one step of 0.1
    def val_after(mu: float) -> float:
        return 0.5 * (-0.1 * ((1 - mu) * 1.0 + mu * -2.0) - 1.0) ** 2

    slope = val_slope(alignment([-1.0], [-2.0], [1.0]), lr=0.1)
    assert slope == pytest.approx((val_after(0.001) - val_after(-0.001)) / 0.002, rel=0.1)
    assert val_after(amft(0.5, slope, 0.0, 0.0, eta_meta=0.1)) < val_after(0.5)


def test_too_little_entropy_moves_towards_imitation_and_the_ends_hold():
    assert amft(0.5, 0.0, 0.2, 1.2) == pytest.approx(0.5005)
    assert amft(0.5, 0.0, 1.2, 0.2) == pytest.approx(0.4995)
    assert amft(0.5, 1e9, 1.0, 1.0) == 0.05
    assert amft(0.5, -1e9, 1.0, 1.0) == 0.95


def test_the_losses_are_blended_by_mu():
    assert blended(2.0, 6.0, 0.25) == 3.0


def test_amft_names_what_is_wrong():
    with pytest.raises(ValueError, match="amft: mu, slope, entropy, target_entropy: expected finite numbers, got nan"):
        amft(0.5, NAN, 1.0, 1.0)
    with pytest.raises(ValueError, match="amft: gradients: expected one shape"):
        alignment([1.0], [1.0, 2.0], [1.0])


# -- effective rank


@check
@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=8), st.floats(0.1, 10))
def test_the_effective_rank_lies_between_1_and_n_and_does_not_depend_on_scale(values: list[float], scale: float):
    found = erank(values)
    assert 1 - 1e-9 <= found <= len(values) + 1e-9
    assert erank([scale * v for v in values]) == pytest.approx(found)


def test_ranks_by_hand():
    assert erank([2.0, 2.0, 2.0]) == pytest.approx(3.0)
    assert erank([5.0, 0.0]) == pytest.approx(1.0)
    assert erank([]) == erank([0.0]) == 0.0
    # centred: +-e1 and +-e2, two directions of one size
    assert effective_rank([[1.0, 0], [-1.0, 0], [0, 1.0], [0, -1.0]]) == pytest.approx(2.0)


def test_hidden_states_are_centred_first():
    states = np.array([[1.0, 0], [-1.0, 0], [0, 1.0], [0, -1.0]])
    assert effective_rank(states + np.array([100.0, -7.0])) == pytest.approx(2.0)
    assert effective_rank([[3.0, 3.0]] * 4) == effective_rank([[3.0, 3.0]]) == effective_rank(np.zeros((0, 2))) == 0.0


def test_velocity_is_against_the_mean_of_what_came_before_and_acceleration_between_velocities():
    states = np.random.default_rng(0).normal(size=(7, 5))
    a, b, c = (effective_rank(states[:n]) for n in (2, 4, 6))
    found = dynamics(states, stride=2)
    v1, v2 = b - a, c - (a + b) / 2
    assert found == pytest.approx((effective_rank(states), (v1 + v2) / 2, v2 - v1))


def test_an_answer_too_short_has_no_velocity_and_no_acceleration():
    states = np.eye(5)
    assert dynamics(states)[1:] == (0.0, 0.0)
    assert dynamics(states, stride=2).acceleration == 0.0
    assert dynamics(states, stride=2).velocity != 0.0
    assert dynamics(np.zeros((0, 3))) == (0.0, 0.0, 0.0)


def test_phi_by_hand():
    # usual (2, 1, 0.5). First: rank +50 %, velocity -100 %, acceleration as usual: beta 1/2
    # second: acceleration +100 %: beta = sigmoid(2); rank as usual, velocity +20
    verl = Verl()
    verl.update([Dynamics(2.0, 1.0, 0.5)])
    first, second = verl.phi([Dynamics(3.0, 0.0, 0.5), Dynamics(2.0, 21.0, 1.0)])
    assert first == pytest.approx(0.5 * math.tanh(0.5) - 0.5 * math.tanh(1.0))
    assert second == pytest.approx(math.tanh(5.0) / (1 + math.exp(2.0)))


def test_what_is_usual_follows_the_batches_by_three_tenths():
    verl = Verl()
    assert verl.phi([Dynamics(9.0, 9.0, 9.0)]) == [0.0]
    verl.update([Dynamics(1.0, 0.0, 0.0), Dynamics(3.0, 0.0, 0.0)])
    verl.update([Dynamics(12.0, 1.0, 0.0)])
    verl.update([])
    assert verl.usual == pytest.approx((0.7 * 2 + 0.3 * 12, 0.3, 0.0))
    resumed = Verl()
    resumed.load_state_dict(verl.state_dict())
    assert resumed.usual == verl.usual
    fresh: dict[str, Any] = Verl().state_dict()
    resumed.load_state_dict(fresh)
    assert resumed.usual is None


@check
@given(st.floats(-10, 10), st.floats(-5, 5))
def test_a_shaped_advantage_keeps_its_sign_and_never_falls(advantage: float, phi: float):
    found = shaped([advantage], [phi])[0]
    assert found >= advantage
    assert found * advantage >= 0
    assert abs(found - advantage) <= abs(advantage) / 2 + 1e-12


def test_shaped_advantages_by_hand():
    assert shaped([2.0, -2.0, 0.0, 2.0], [0.3, 5.0, 5.0, -1.0]).tolist() == [2.3, -1.0, 0.0, 2.0]


def test_the_effective_rank_names_what_is_wrong():
    with pytest.raises(ValueError, match="effective_rank: hidden: expected 2 dimensions, got shape"):
        effective_rank([1.0])
    with pytest.raises(ValueError, match="singular values: expected none below 0, got -1"):
        erank([-1.0])
    with pytest.raises(ValueError, match="stride: expected at least 1 token, got 0"):
        dynamics([[1.0]], stride=0)
    with pytest.raises(ValueError, match="kappa: expected above 1, got 1"):
        shaped([1.0], [1.0], kappa=1)
    with pytest.raises(ValueError, match="effective_rank: advantages and phi: expected one shape"):
        shaped([1.0], [1.0, 2.0])
