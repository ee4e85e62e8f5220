"""A function plays; what it does wrong is one line that names it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agent_envs import CELLAR

from milepost.agents.core import ContextFull, Request
from milepost.agents.driver import play
from milepost.agents.function import FunctionPolicy, load
from milepost.agents.outside import read_message
from milepost.envs.core import Action, Call, ContractError, Episode, Stop, Task, Turn
from milepost.sandbox.core import EndpointError

LADDER = Task("milepost/Ladder-v0", task="oak 5", group="oak")
FETCH = Task(CELLAR, group="cellar")


def climber(messages: list[dict[str, Any]]) -> str:
    return "climb"


async def async_climber(messages: list[dict[str, Any]]) -> str:
    return "climb"


class Climber:
    def __call__(self, messages: list[dict[str, Any]]) -> str:
        return "climb"

    async def later(self, messages: list[dict[str, Any]]) -> str:
        return "climb"


def fetch(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> dict[str, Any]:
    """Call the second tool that is offered, as an OpenAI message."""
    call = {"function": {"name": tools[1]["function"]["name"], "arguments": {"bottle": "rum"}}}
    return {"role": "assistant", "content": None, "reasoning_content": "rum!", "tool_calls": [call]}


def run(function: Callable[..., Any], task: Task = LADDER) -> Episode:
    (episode,) = play([task], FunctionPolicy(function), gather="greedy")
    return episode


@pytest.mark.parametrize("function", [climber, async_climber, Climber(), Climber().later, lambda messages: "climb"])
def test_a_function_plays_sync_or_async(function: Callable[..., Any]):
    assert run(function).success is True


def test_a_function_calls_tools_with_openai_messages():
    (turn,) = run(fetch, FETCH).turns
    assert replace(turn.action, usage=None) == Action(
        "", calls=(Call("call_2_0", "take", '{"bottle": "rum"}'),), reasoning="rum!", finish="calls"
    )
    assert turn.info["outcome"] == 1.0


def test_calls_of_one_message_with_one_id_are_told_apart():
    call = {"id": "c", "function": {"name": "take", "arguments": "{}"}}
    assert [c.id for c in read_message({"tool_calls": [call, call]}, 2).calls] == ["c", "call_2_1"]


def test_a_function_is_given_what_it_names():
    got: list[Any] = []

    def agent(chat: Any, *, seed: int, episode: str, observation: str, temperature: float = 0.5) -> str:
        got.append((len(chat), episode, observation, seed))
        return "climb"

    episode = run(agent)
    assert [row[:3] for row in got[:2]] == [
        (2, episode.id, "The oak ladder, rung 0 of 5."),
        (4, episode.id, "The oak ladder, rung 1 of 5."),
    ]
    assert got[0][3] != got[1][3]

    def anything(*messages: Any, **rest: Any) -> str:
        got.append((len(messages), sorted(rest)))
        return "climb"

    run(anything)
    assert got[-1] == (1, ["episode", "observation", "seed", "tools"])


def test_a_function_may_change_the_messages_it_is_given():
    def agent(messages: list[dict[str, Any]]) -> str:
        messages[0]["content"] = "Dust!"
        messages.clear()
        return "climb"

    assert run(agent).success is True


def test_an_action_is_taken_as_it_is():
    action = run(lambda messages: Action("I go up.", move="climb")).turns[0].action
    assert replace(action, usage=None) == Action("I go up.", move="climb")


def test_blocking_functions_wait_side_by_side():
    together = threading.Barrier(8, timeout=60)

    def agent(messages: list[dict[str, Any]]) -> str:
        together.wait()
        return "climb"

    tasks = [Task("milepost/Ladder-v0", task="oak 5", group="g", attempt=i) for i in range(8)]
    for gather in ("greedy", "round"):
        assert all(episode.success for episode in play(tasks, FunctionPolicy(agent), gather=gather, slots=8))


def test_an_image_arrives_as_a_data_url():
    episode = Episode(turns=[Turn({"text": "see", "images": [np.zeros((1, 2, 3), np.uint8)]}, Action("ok"))], last="")
    seen: list[Any] = []

    def agent(messages: list[dict[str, Any]]) -> str:
        seen.extend(messages)
        return ""

    asyncio.run(FunctionPolicy(agent).act([Request("a", "g", episode.view(0))]))
    assert seen[0]["content"][1]["image_url"]["url"].startswith("data:image/png;base64,")


def test_an_exception_of_the_function_ends_the_run_with_its_place():
    def agent(messages: list[dict[str, Any]]) -> str:
        return messages[0]["contents"]

    with pytest.raises(
        ContractError, match=r"^agent \S*agent, episode 0:oak:0: KeyError: 'contents' \(line \d+ of test"
    ):
        run(agent)

    async def leaver(messages: list[dict[str, Any]]) -> str:
        raise SystemExit(3)

    with pytest.raises(ContractError, match="SystemExit: 3"):
        run(leaver)

    def interrupter(messages: list[dict[str, Any]]) -> str:
        raise KeyboardInterrupt

    with pytest.raises(ContractError, match="KeyboardInterrupt"):
        run(interrupter)


def test_the_machines_error_fails_its_episode_alone():
    def agent(messages: list[dict[str, Any]], episode: str) -> str:
        if episode.endswith("1"):
            raise EndpointError("no answer")
        if episode.endswith("2") and len(messages) > 2:
            raise ContextFull("too long")
        return "climb"

    tasks = [Task("milepost/Ladder-v0", task="oak 5", group="g", attempt=i) for i in range(3)]
    ends = [episode.stop for episode in play(tasks, FunctionPolicy(agent))]
    assert ends == [Stop.TERMINATED, Stop.FAILED, Stop.MAX_TOKENS]


@pytest.mark.parametrize(
    ("answer", "got"),
    [
        (None, "expected a text, a message (dict) or an Action, got None"),
        (5, "got int 5"),
        ({"text": "climb"}, "expected a message with content or tool_calls, got the keys ['text']"),
        ({"content": 5}, "content: expected a text, got int 5"),
        ({"tool_calls": ["climb"]}, "tool_calls: expected {"),
        ({"tool_calls": 5}, "tool_calls: expected a list, got int 5"),
        ({"tool_calls": [{"function": {"name": "x", "arguments": {1}}}]}, "expected arguments as JSON, got set {1}"),
        ({"content": "", "reasoning_content": 5}, "reasoning_content: expected a text, got int 5"),
    ],
)
def test_a_wrong_answer_is_told(answer: Any, got: str):
    with pytest.raises(ContractError, match=r"^agent .*, episode 0:oak:0: ") as told:
        run(lambda messages: answer)
    assert got in str(told.value)


@pytest.mark.parametrize(
    ("function", "got"),
    [
        (lambda: "climb", "got <lambda>()"),
        (lambda messages, env: "climb", "got <lambda>(messages, env)"),
        (lambda *, messages: "climb", "got <lambda>(*, messages)"),
        (lambda messages, tools, /: "climb", "got <lambda>(messages, tools, /)"),
        (Climber, "expected a function, got the class Climber"),
        ("climb", "expected a function, got str 'climb'"),
    ],
)
def test_a_function_that_cannot_be_called_so_is_refused_at_once(function: Any, got: str):
    with pytest.raises(ValueError, match=r"^agent ") as told:
        FunctionPolicy(function)
    assert got in str(told.value)
    assert "expected" in str(told.value)


def test_an_agent_is_loaded_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "my_agent_x.py").write_text("class A:\n    def go(self, m):\n        return 'climb'\nagent = A()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (episode,) = play([LADDER], load("my_agent_x:agent.go"))
    assert episode.success is True
    for spec, told in {
        "my_agent_x:agent.goo": r"agent my_agent_x:agent\.goo: my_agent_x has no 'agent\.goo' \(did you mean 'go'\?\)",
        "my_agent_x:agnt": r"has no 'agnt' \(did you mean 'agent'\?\)",
        "my_agent_x:agent": "expected a function, got A <",
        "my_agent_y:agent": "no module 'my_agent_y'",
        "my_agent_x": "agent 'my_agent_x': expected module:function",
    }.items():
        with pytest.raises(ValueError, match=told):
            load(spec)
