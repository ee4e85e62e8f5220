"""A model behind an endpoint as an agent of the driver."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from milepost.agents.core import ContextFull, Request
from milepost.agents.driver import play
from milepost.agents.remote import EndpointPolicy
from milepost.envs.core import Action, Episode, Stop, Task
from milepost.envs.endpoint import Endpoint, Price, Unreachable
from milepost.envs.scripted_endpoint import Fault, ScriptedEndpoint
from milepost.sandbox.core import EndpointError

LADDERS = [Task("milepost/Ladder-v0", task=f"oak {n}", group=f"oak {n}", attempt=i) for n in (5, 6) for i in range(4)]


def policy_for(base_url: str, **options: Any) -> EndpointPolicy:
    return EndpointPolicy(Endpoint(base_url, back_off_s=0.01, tries=2, **options), "scripted")


def n_turns_before(request: dict[str, Any]) -> int:
    return sum(message["role"] == "assistant" for message in request["messages"])


def played(server: ScriptedEndpoint, gather: Any = "greedy") -> list[Episode]:
    with server as base_url:
        return play(LADDERS, policy_for(base_url), gather=gather, slots=8)


@pytest.mark.parametrize("gather", ["greedy", "round"])
def test_a_model_behind_an_endpoint_plays_to_the_end(gather: str):
    episodes = played(ScriptedEndpoint("climb"), gather)
    assert [(episode.stop, episode.success, len(episode.turns)) for episode in episodes] == [
        (Stop.TERMINATED, True, n) for n in (5, 6) for _ in range(4)
    ]
    usages = [turn.action.usage for turn in episodes[0].turns]
    assert all(usage is not None and usage.completion == 1 for usage in usages)


def test_the_agent_is_sent_the_instructions_and_the_whole_history():
    server = ScriptedEndpoint("climb")
    with server as base_url:
        (episode,) = play(LADDERS[:1], policy_for(base_url), gather="greedy")
    assert list(server.requests)[-1]["messages"] == episode.view(4)
    assert 0 <= server.requests[-1]["seed"] < 2**31
    assert len({request["seed"] for request in server.requests}) == 5


def test_the_end_of_a_play_closes_its_connections():
    server = ScriptedEndpoint("climb")
    with server as base_url:
        policy = policy_for(base_url)
        for _ in range(2):
            play(LADDERS, policy, gather="greedy")
            deadline = time.monotonic() + 3.0  # less than an idle connection is kept
            while server.connections and time.monotonic() < deadline:
                time.sleep(0.01)
            assert not server.connections


def test_an_endpoint_that_fails_for_good_ends_its_episode_alone():
    def answer(request: dict[str, Any]) -> str | Fault:
        broken = "of 6" in str(request["messages"]) and n_turns_before(request) == 2
        return Fault("status", 503) if broken else "climb"

    episodes = played(ScriptedEndpoint(answer))
    assert [episode.stop for episode in episodes] == [Stop.TERMINATED] * 4 + [Stop.FAILED] * 4
    assert [episode.outcome for episode in episodes[4:]] == [None] * 4
    assert "EndpointError" in (episodes[4].failure or "")
    assert "after 2 tries; the last: 503" in (episodes[4].failure or "")


def test_a_full_context_ends_the_episode_as_max_tokens():
    def answer(request: dict[str, Any]) -> str | Fault:
        return Fault("status", 400, "context_length_exceeded") if n_turns_before(request) == 3 else "climb"

    assert [(e.stop, len(e.turns)) for e in played(ScriptedEndpoint(answer))] == [(Stop.MAX_TOKENS, 3)] * 8


def test_empty_and_filtered_answers_cost_the_agent_its_turn():
    turns = [Fault("empty"), Fault("filter", message="cli"), Fault("status", 400, "content_filter")]
    server = ScriptedEndpoint(lambda request: dict(enumerate(turns)).get(n_turns_before(request), "climb"))
    episode = played(server)[0]
    assert [(t.action.text, t.action.finish) for t in episode.turns[:4]] == [
        ("", "stop"),
        ("cli", "filter"),
        ("", "filter"),
        ("climb", "stop"),
    ]
    assert (episode.stop, episode.success, len(episode.turns)) == (Stop.TERMINATED, True, 8)


def test_nobody_home_ends_the_run_in_one_line():
    with ScriptedEndpoint() as base_url:
        pass
    with pytest.raises(Unreachable, match=rf"^{base_url}/chat/completions, model 'scripted': no usable answer.*$"):
        play(LADDERS, policy_for(base_url), gather="greedy")


def test_a_wrong_key_ends_the_run():
    with pytest.raises(ValueError, match="401: no"):
        played(ScriptedEndpoint(faults=[Fault("status", 401, message="no")]), "round")


def test_tools_are_offered_and_called_natively():
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    written = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    server = ScriptedEndpoint(lambda request: {"content": "", "tool_calls": [written]})
    with server as base_url:
        request = Request("e", "g", [{"role": "user", "content": "go"}], tools=[tool])
        (action,) = asyncio.run(acted(policy_for(base_url), [request]))
    assert server.requests[-1]["tools"] == [tool]
    assert isinstance(action, Action)
    assert action.move == '[{"id": "c1", "name": "look", "arguments": "{}"}]'


def test_answers_keep_the_order_of_their_requests_and_each_failure_its_place():
    def answer(request: dict[str, Any]) -> str | Fault:
        text = request["messages"][0]["content"]
        if text == "bad":
            return Fault("text")
        return Fault("status", 413) if text == "long" else text

    with ScriptedEndpoint(answer, latency=(0.0, 0.1)) as base_url:
        policy = policy_for(base_url, prices={"scripted": Price(1e6, 1e6, 1e6)})
        texts = ["a", "bad", "b", "long", "c"]
        answers = asyncio.run(acted(policy, [Request(t, t, [{"role": "user", "content": t}]) for t in texts]))
    assert [a.text for a in answers if isinstance(a, Action)] == ["a", "b", "c"]
    assert isinstance(answers[1], EndpointError)
    assert isinstance(answers[3], ContextFull)
    assert policy.usage.completion == 3
    assert policy.usage.cost == policy.usage.prompt + policy.usage.completion


async def acted(policy: EndpointPolicy, requests: list[Request]) -> list[Any]:
    try:
        return await policy.act(requests)
    finally:
        await policy.aclose()
