"""Policies without a model."""

from __future__ import annotations

import pytest
from driver_envs import DUET, tasks

from milepost.agents.driver import play
from milepost.agents.scripted import OraclePolicy, RandomPolicy, ScriptedPolicy
from milepost.envs.core import Action, ContractError, Task


def moves(episode):
    return [turn.action.text for turn in episode.turns]


def test_a_list_is_a_move_per_turn_and_its_last_one_is_repeated():
    (episode,) = play(tasks(1), ScriptedPolicy(["wait", "more"]))
    assert moves(episode)[:3] == ["wait", "more", "more"]
    assert set(moves(episode)[1:]) == {"more"}


def test_a_function_sees_the_request():
    (episode,) = play([Task(DUET, group="g")], ScriptedPolicy(lambda request: f"I am {request.agent}"))
    assert moves(episode) == ["I am a", "I am b", "I am a", "I am b", "I am a"]


def test_a_scripted_action_is_copied():
    action = Action("thinking ... stop", move="stop")
    first, second = play(tasks(2), ScriptedPolicy([action]))
    assert first.turns[0].action == action == second.turns[0].action
    assert first.turns[0].action is not second.turns[0].action


@pytest.mark.parametrize("wrong", [[], "stop"])
def test_a_script_without_moves_is_refused(wrong):
    with pytest.raises(ValueError, match="moves: expected a list of one or more, or a function"):
        ScriptedPolicy(wrong)


def test_the_oracle_wins():
    assert [e.outcome for e in play(tasks(20), OraclePolicy())] == [1.0] * 20


def test_a_noisy_oracle_errs_now_and_then_by_its_seed():
    first, second = ([moves(e) for e in play(tasks(20), OraclePolicy(noise=0.3))] for _ in range(2))
    assert first == second
    assert any("wait" in row for row in first)
    shares = [m == "more" for row in first for m in row]
    assert 0.5 < sum(shares) / len(shares) < 0.95


def test_luck_is_uniform_over_the_admissible_actions():
    texts = [m for e in play(tasks(400), RandomPolicy()) for m in moves(e)]
    for action in ("more", "stop", "wait"):
        assert texts.count(action) / len(texts) == pytest.approx(1 / 3, abs=0.06)


def test_what_a_policy_from_the_inside_needs_is_named():
    with pytest.raises(ContractError, match=r"Duet-v0 has no oracle\(\)"):
        play([Task(DUET, group="g")], OraclePolicy())
    with pytest.raises(ContractError, match=r"Duet-v0: a random move needs info\['actions'\] to choose from, got None"):
        play([Task(DUET, group="g")], RandomPolicy())
    with pytest.raises(ValueError, match="noise, haste: expected shares"):
        OraclePolicy(noise=2)
