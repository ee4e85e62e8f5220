"""A scaffold asks in its form, and reads the move from the answer as it was meant."""

from __future__ import annotations

import json

import pytest
from agent_envs import CELLAR, Seeing

from milepost.agents.core import Request
from milepost.agents.driver import play
from milepost.agents.scaffolded import Scaffolded
from milepost.agents.scaffolds import Act, ReAct, Scaffold, ToolCalls, scaffold
from milepost.agents.scripted import OraclePolicy, ScriptedPolicy
from milepost.envs.core import Action, Call, Episode, Task

LADDER = Task("milepost/Ladder-v0", task="oak 5", group="oak")
FETCH = Task(CELLAR, group="cellar")


def moved(answer: str) -> str | None:
    return ReAct().move(Action(answer))


def observations(episode: Episode) -> list[str]:
    """Return the texts that the actions of an episode were answered with."""
    texts = []
    for seen in [*[turn.observation for turn in episode.turns[1:]], episode.last]:
        assert seen is not None
        texts.append(seen if isinstance(seen, str) else "\n".join(result["text"] for result in seen["results"]))
    return texts


@pytest.mark.parametrize(
    "answer",
    [
        "Thought: it is high.\nAction: climb",
        "Thought: I could rest.\nAction: rest\nNo. \nAction: climb",
        "Thought 3: it is high.\nAction 3: climb",
        "**Thought:** it is high.\n**Action:** climb",
        "Thought: it is high. Action: climb",
        "thought: it is high\naction: climb\n\n",
        "Action: climb\nObservation: You are on top.\nThought: what now?\nAction: rest",
        "Observation: rung 1.\nThought: it is high.\nAction: climb",
    ],
)
def test_the_move_is_what_follows_the_last_action(answer: str):
    assert moved(answer) == "climb"


def test_a_word_inside_an_action_does_not_cut_it():
    call = 'tell(text="Required Action: pay. Action: call us")'
    assert moved(f"Thought: he wants an answer.\nAction: {call}") == call
    assert moved("Action: write\n1. one\n2. two") == "write\n1. one\n2. two"


def test_without_an_action_the_move_is_the_whole_answer():
    assert moved("I wonder.") == "I wonder."
    assert moved("Actions: speak") == "Actions: speak"
    assert moved("Thought: hm.\nAction:") == ""


@pytest.mark.parametrize("kind", [Act(), ReAct(), ToolCalls()])
def test_native_calls_are_the_move_in_every_scaffold(kind: Scaffold):
    action = Action("Thought: look first.\nAction: wait", calls=(Call("c1", "look", '{"shelf": 2}'),))
    assert kind.move(action) == json.dumps([{"id": "c1", "name": "look", "arguments": '{"shelf": 2}'}])


def test_three_scaffolds_play_one_game():
    native = [
        Action("", calls=(Call("c0", "look", '{"shelf": 2}'),)),
        Action("", calls=(Call("c1", "take", '{"bottle": "rum"}'),)),
    ]
    act = ["look(shelf=2)", '{"name": "take", "arguments": {"bottle": "rum"}}']
    react = [f"Thought: next.\nAction: {move}" for move in act]
    for kind, script in ((ToolCalls(), native), (Act(), act), (ReAct(), react)):
        (episode,) = play([FETCH], Scaffolded(ScriptedPolicy(script), kind))
        assert (observations(episode), episode.outcome) == (["rum", "You have rum."], 1.0), kind.name


def test_tools_are_offered_natively_or_told_but_never_both():
    for kind in (Act(), ReAct(), ToolCalls()):
        policy = Seeing(lambda request: Action('take(bottle="rum")'))
        (episode,) = play([FETCH], Scaffolded(policy, kind))
        (request,) = policy.requests
        system = request.messages[0]["content"]
        assert system.startswith(episode.instructions)
        assert (list(request.tools) == episode.tools, "look(shelf: integer)" in system) in [
            (True, False),
            (False, True),
        ]
        assert bool(request.tools) == kind.native
        assert system.removeprefix("Fetch the bottle.").removeprefix("\n\n") == kind.instructions(episode.tools)
        assert list(request.messages[1:]) == episode.view(0)[1:]


def test_without_tools_only_react_asks_for_a_form():
    assert (Act().instructions(()), ToolCalls().instructions(())) == ("", "")
    assert "Action:" in ReAct().instructions(())


def test_an_agent_without_a_system_message_gets_one():
    policy = Seeing()
    Scaffolded(policy, ReAct()).act([Request("a", "g", [{"role": "user", "content": "hi"}])])
    assert [message["role"] for message in policy.requests[0].messages] == ["system", "user"]


def test_the_whole_answer_is_recorded_and_seen_again():
    policy = Seeing(lambda request: Action("Thought: up.\nAction: climb"))
    (episode,) = play([LADDER], Scaffolded(policy, ReAct()))
    assert episode.success is True
    assert episode.turns[0].action == Action("Thought: up.\nAction: climb", move="climb")
    assert policy.requests[1].messages[2]["content"] == "Thought: up.\nAction: climb"


def test_an_oracle_plays_inside_any_scaffold():
    for kind in (Act(), ReAct(), ToolCalls()):
        assert play([LADDER], Scaffolded(OraclePolicy(), kind))[0].success is True


def test_an_unknown_scaffold_is_named_with_the_closest():
    assert scaffold("react").name == "react"
    with pytest.raises(
        ValueError, match=r"no scaffold 'reakt' \(did you mean 'react'\?\); there are: act, react, tools"
    ):
        scaffold("reakt")
