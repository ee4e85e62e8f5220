"""Progress and the dense and outcome rewards beside it, turn by turn as a hook asks for them."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import gymnasium as gym
import pytest

from milepost.credit import advantage
from milepost.credit.core import Credit, assign
from milepost.credit.dense import Dense
from milepost.credit.made import episode
from milepost.credit.outcome import Outcome
from milepost.credit.progress import Progress
from milepost.credit.validity import Validity
from milepost.envs.core import ContractError, Episode, Stop, Utf8
from milepost.envs.hooks import TurnHooks


def play(progress: Credit, whole: Episode) -> list[Any]:
    """Ask after every turn, as the hooks do: the stop is known at the last one only."""
    n = len(whole.turns)
    return [
        progress.on_turn(replace(whole, turns=whole.turns[: t + 1], stop=whole.stop if t + 1 == n else None))
        for t in range(n)
    ]


def test_a_turn_earns_the_drop_of_the_remaining_length():
    assert play(Progress(), episode(potential=[-3, -2, -2, -3, -1])) == [1.0, 0.0, -1.0, 2.0]


def test_progress_sums_to_the_last_potential_less_the_first():
    assert sum(play(Progress(), episode(potential=[-3, -5, 0, -2]))) == -2 - -3


def test_discounted_progress_by_hand():
    assert play(Progress(gamma=0.5), episode(potential=[-4, -2, 0])) == [3.0, 2.0]


def test_shares_of_the_initial_distance_add_up_to_one_for_a_solved_task():
    assert play(Progress(scale="initial"), episode(potential=[-4, -3, -1, 0])) == [0.25, 0.5, 0.25]
    assert play(Progress(scale="initial"), episode(potential=[0, -1])) == [-1.0]


@pytest.mark.parametrize(("stop", "last"), [(Stop.TERMINATED, 2.0), (Stop.MAX_TURNS, -3.0), (Stop.TIMEOUT, -3.0)])
def test_the_zero_rule_holds_at_terminal_states_and_not_where_an_episode_was_cut(stop, last):
    whole = episode(potential=[-3, -2, -5], stop=stop)
    assert play(Progress(terminal="zero"), whole) == [1.0, last]
    assert play(Progress(), whole) == [1.0, -3.0]


def test_a_move_that_was_not_executed_costs_its_penalty():
    whole = episode(potential=[-2, -2, -1], valid=[False, True])
    assert play(Validity(), whole) == [-0.1, 0.0]
    assert play(Progress(), whole) == [0.0, 1.0]


def test_where_nobody_says_whether_a_move_was_executed_it_is_not_judged():
    assert play(Validity(), episode(n_turns=2)) == [None, None]


def test_a_missing_potential_is_named_with_its_place():
    with pytest.raises(ContractError, match=r"needs a finite info\['potential'\] from reset; my/Env-v0 gave None"):
        Progress().on_turn(episode())
    whole = episode(potential=[-2, -1, float("nan")])
    with pytest.raises(ContractError, match=r"from the step of turn 1; my/Env-v0 gave nan"):
        play(Progress(), whole)


def test_unknown_options_are_named():
    with pytest.raises(ValueError, match="terminal: expected 'real' or 'zero', got 'no'"):
        Progress(terminal="no")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="scale: expected 'none' or 'initial', got 'group'"):
        Progress(scale="group")  # type: ignore[arg-type]


def test_progress_is_asked_during_play_and_measured_after_it():
    progress, whole = Progress(), episode(potential=[-2, -1, 0])
    for turn, value in zip(whole.turns, play(progress, whole), strict=True):
        turn.put(progress.label, value)
    assert progress.live
    assert assign([progress], [[whole]])["credit/progress/mean"] == 1.0


class Stairs(gym.Env[str, str]):
    """Three steps up to the door; only "up" is a move."""

    observation_space = action_space = Utf8()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        self.left = 3
        return "stairs", {"potential": -self.left}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        valid = action == "up"
        self.left -= valid
        info = {"potential": -self.left, "valid": valid}
        return "stairs", 0.0, self.left == 0, False, info | ({"outcome": 1.0} if self.left == 0 else {})


def test_anyones_own_loop_sees_progress_and_validity_in_the_reward_of_each_turn():
    env = TurnHooks(Stairs(), pickle.loads(pickle.dumps([Progress(scale="initial"), Validity()])))
    env.reset()
    rewards = [env.step(move)[1] for move in ("up", "fly", "up", "up")]
    assert rewards == pytest.approx([1 / 3, -0.1, 1 / 3, 1 / 3])
    assert [turn.credit["progress"] for turn in env.episode.turns] == pytest.approx([1 / 3, 0.0, 1 / 3, 1 / 3])
    assert advantage.rewards([[env.episode]], ["progress", "validity"])[0][0] == pytest.approx(
        [1 / 3, -0.1, 1 / 3, 4 / 3]
    )


def test_dense_shares_a_win_among_the_turns_that_scored():
    (won,) = Dense().on_group([episode(1.0, score=[0, 1, 0, 1, 1])])
    assert won == pytest.approx([0, 1 / 3, 0, 1 / 3, 1 / 3])
    assert sum(won) == pytest.approx(1.0)  # type: ignore[arg-type]


def test_dense_divides_a_loss_by_what_was_to_be_had():
    lost = episode(0.0, score=[1, 0, -1])
    assert Dense(max_total=4.0).on_group([lost]) == [[0.25, 0.0, -0.25]]
    assert Dense(max_total=0.2).on_group([lost]) == [[1.0, 0.0, -1.0]]


def test_a_win_without_an_increase_divides_by_one():
    assert Dense().on_group([episode(1.0, score=[0, 0])]) == [[0.0, 0.0]]


def test_sparse_keeps_the_outcome_at_the_end():
    assert Dense(sparse=True).on_group([episode(0.5, n_turns=3)]) == [[0.0, 0.0, 0.5]]


def test_dense_names_an_environment_without_components():
    with pytest.raises(ContractError, match=r"dense needs info\['reward_components'\]\['score'\]; my/Env-v0 gave none"):
        Dense().on_group([episode(1.0)])


def test_outcome_judges_the_last_turn_alone():
    groups = [[episode(1.0, n_turns=3), episode(0.0)]]
    assert Outcome().on_group(groups[0]) == [[None, None, 1.0], [0.0]]
    assign([Outcome()], groups)
    assert advantage.rloo(advantage.rewards(groups, "outcome", outcome=0.0)) == [[[1.0] * 3, [-1.0]]]
