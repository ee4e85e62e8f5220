"""The ladder: its rules, and the advantages that are known exactly."""

from __future__ import annotations

import time

import gymnasium as gym
import pytest

from milepost.envs.hooks import TurnHooks
from milepost.envs.ladder import MOVES, LadderEnv, State, advantages
from milepost.envs.make import make


def played(*moves: str, task: str = "oak 5") -> TurnHooks:
    env = TurnHooks(make("milepost/Ladder-v0"))
    env.reset(options={"task": task})
    for move in moves:
        env.step(move)
    return env


def test_the_oracle_wins_in_five_turns_from_the_ground():
    episode = played(*["climb"] * 5).episode
    assert (episode.outcome, episode.success, len(episode.turns)) == (1.0, True, 5)


def test_the_oracle_goes_on_from_where_one_stands():
    assert played("climb", "rest", "climb").get_wrapper_attr("oracle")() == ["climb"] * 3


def test_resting_leads_nowhere():
    env = played("rest")
    assert env.episode.turns[0].info["potential"] == -5.0
    assert env.episode.last == "The oak ladder, rung 0 of 5."


def test_dusting_to_the_end_loses_and_pays_more_than_any_win():
    episode = played(*["dust"] * 8).episode
    assert (episode.outcome, episode.success) == (0.0, False)
    assert sum(turn.info["reward_components"]["dust"] for turn in episode.turns) == pytest.approx(2.4)


def test_a_word_that_is_no_move_costs_the_turn_and_is_answered():
    turn = played("jump high").episode.turns[0]
    assert (turn.info["valid"], turn.reward) == (False, 0.0)
    for text in ("", "\n", "\U0001f600", "{"):
        assert str(played(text).episode.last).startswith("Say climb, rest or dust.")


def test_the_first_word_counts_and_case_does_not():
    assert played("Climb, I think").episode.turns[0].info["valid"] is False
    assert played("CLIMB I think").episode.turns[0].info["potential"] == -4.0


def test_splits_share_no_ladder():
    splits = [set(LadderEnv().tasks(split)) for split in ("train", "valid", "test")]
    assert sum(map(len, splits)) == len(set.union(*splits)) == 20


def test_a_ladder_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="such as 'oak 5', got 'oak 7'"):
        played(task="oak 7")
    with pytest.raises(ValueError, match="expected one of train, valid, test, got 'dev'"):
        LadderEnv().tasks("dev")


def test_exact_advantages_by_hand():
    """One rung, two turns: the policy takes each of three moves with a third."""
    exact = advantages(lambda _: dict.fromkeys(MOVES, 1 / 3), True, n_rungs=1, n_turns=2)
    # after one wrong turn: a third of 1; after one dusting: a third of 1.3; at first: (1 + 1/3 + 1.3/3) / 3
    first = (1 + 1 / 3 + 1.3 / 3) / 3
    assert exact[State(0, 0, 0)] == pytest.approx({"climb": 1 - first, "rest": 1 / 3 - first, "dust": 1.3 / 3 - first})
    assert exact[State(0, 1, 1)] == pytest.approx({"climb": 1.3 * 2 / 3, "rest": -1.3 / 3, "dust": -1.3 / 3})


@pytest.mark.parametrize(("gated", "better"), [(True, "climb"), (False, "dust")])
def test_an_agent_that_dusts_a_lot_should_climb_only_where_the_dust_is_gated(gated, better):
    moves = advantages(lambda _: {"climb": 0.2, "rest": 0.1, "dust": 0.7}, gated)[State(0, 2, 2)]
    assert max(moves, key=lambda move: moves[move]) == better


def test_advantages_average_to_zero_under_their_policy():
    policy = {"climb": 0.5, "rest": 0.2, "dust": 0.3}
    for gated in (True, False):
        for moves in advantages(lambda _: policy, gated).values():
            assert sum(policy[move] * value for move, value in moves.items()) == pytest.approx(0.0)


def test_fifty_thousand_turns_take_less_than_a_second():
    env = gym.make("milepost/Ladder-v0", disable_env_checker=True).unwrapped
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(625):
            env.reset(options={"task": "oak 5"})
            for _ in range(8):
                env.step("dust")
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.1
