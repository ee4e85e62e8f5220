"""A shortened history says what it left out, is what the record shows, and never parts a call from its result."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from agent_envs import CELLAR, Seeing
from driver_envs import DUET
from hypothesis import given, settings
from hypothesis.strategies import integers, one_of

from milepost.agents.context import Context, LastTurns, TokenBudget, estimate
from milepost.agents.core import Answer, ContextFull, Request
from milepost.agents.driver import play
from milepost.agents.scaffolded import Scaffolded
from milepost.envs.core import Action, Call, Episode, Stop, Task
from milepost.envs.messages import Message
from milepost.sandbox.core import EndpointError

LADDER = Task("milepost/Ladder-v0", task="oak 6", group="oak")


class SeeingAsync(Seeing):
    n_closed = 0

    async def aclose(self) -> None:
        self.n_closed += 1

    async def act(self, requests: Sequence[Request]) -> list[Answer]:  # type: ignore[override]
        return super().act(requests)


def looks(request: Request) -> Action:
    """Make no, one or two calls, or one written as text, by the request's seed."""
    rng = np.random.default_rng(request.seed)
    kind, shelf = rng.integers(4), int(rng.integers(3))
    if kind == 0:
        return Action("Let me think.")
    if kind == 1:
        return Action(f"look(shelf={shelf})")
    calls = [Call(f"{len(request.messages)}-{i}", "look", json.dumps({"shelf": shelf})) for i in range(kind - 1)]
    return Action("", calls=tuple(calls))


def played(context: Context, task: Task = LADDER, answer: Any = None) -> tuple[Episode, list[Sequence[Message]]]:
    policy = Seeing(answer) if answer else Seeing()
    (episode,) = play([task], Scaffolded(policy, context=context))
    return episode, [request.messages for request in policy.requests]


def asked(policy: Scaffolded, *requests: Request) -> Sequence[Answer]:
    answers = policy.act(requests)
    assert isinstance(answers, Sequence)
    return answers


contexts = one_of(integers(0, 5).map(LastTurns), integers(160, 300).map(TokenBudget))


@settings(max_examples=20, deadline=None)
@given(context=contexts, seed=integers(0, 10**6))
def test_the_record_shows_what_the_agent_saw(context: Context, seed: int):
    policy = Seeing(looks)
    (episode,) = play([Task(CELLAR, group="c")], Scaffolded(policy, context=context), seed=seed)
    assert [request.messages for request in policy.requests] == [episode.view(t) for t in range(len(episode.turns))]


@settings(max_examples=20, deadline=None)
@given(context=contexts, seed=integers(0, 10**6))
def test_a_call_is_never_parted_from_its_result(context: Context, seed: int):
    policy = Seeing(looks)
    play([Task(CELLAR, group="c")], Scaffolded(policy, context=context), seed=seed)
    for request in policy.requests:
        open_calls: list[str] = []
        for message in request.messages:
            if message["role"] == "tool":
                assert message["tool_call_id"] == open_calls.pop(0)
            else:
                assert open_calls == []
                open_calls = [call["id"] for call in message.get("tool_calls", ())]
        assert open_calls == []


def test_the_last_turns_are_shown_with_the_task_and_a_line_for_the_rest():
    episode, seen = played(LastTurns(2))
    assert [message["content"] for message in seen[5]] == [
        "Climb the ladder. Answer with one word: climb, rest or dust.",
        *("The oak ladder, rung 0 of 6.", "rest"),
        "[2 earlier turns are not shown]",
        *("The oak ladder, rung 0 of 6.", "rest") * 2,
        "The oak ladder, rung 0 of 6.",
    ]
    assert episode.turns[5].view == {"turns": [[0, 1], [3, 5]], "summary": "[2 earlier turns are not shown]"}
    assert [turn.view for turn in episode.turns[:4]] == [None] * 4


def test_each_of_two_agents_has_a_view_of_its_own_turns():
    episode, seen = played(LastTurns(0), Task(DUET, group="d"), lambda request: Action(f"{request.agent} speaks"))
    assert [message["content"] for message in seen[4]] == [
        *("You are a.", "begin, a", "a speaks", "[1 earlier turn is not shown]", "a hears b speaks")
    ]
    assert seen == [episode.view(t) for t in range(5)]
    assert episode.part("a").view(2) == seen[4]


def test_a_budget_drops_the_oldest_turns_until_the_rest_fits():
    sizes = {"system": 4 + 15, "see": 4 + 7, "rest": 4 + 1, "line": 4 + 8}  # characters / 4, rounded up, and 4 each
    n = sizes["system"] + 3 * (sizes["see"] + sizes["rest"]) + sizes["line"] + sizes["see"]
    episode, seen = played(TokenBudget(n))
    assert estimate(seen[5]) == n
    assert episode.turns[5].view == {"turns": [[0, 1], [3, 5]], "summary": "[2 earlier turns are not shown]"}
    episode, _ = played(TokenBudget(n - 1))
    assert episode.turns[5].view == {"turns": [[0, 1], [4, 5]], "summary": "[3 earlier turns are not shown]"}


def test_a_tokenizer_may_count_instead():
    episode, _ = played(TokenBudget(7, count=len))
    assert episode.turns[5].view == {"turns": [[0, 1], [4, 5]], "summary": "[3 earlier turns are not shown]"}


def test_where_nothing_more_can_be_dropped_the_context_is_full():
    first = 4 + 15 + 4 + 7
    episode, _ = played(TokenBudget(first))
    assert (episode.stop, len(episode.turns)) == (Stop.MAX_TOKENS, 1)
    with pytest.raises(
        ValueError, match=r"the first prompt is longer than the agent's context: .* more than 29 tokens"
    ):
        played(TokenBudget(first - 1))


def test_a_full_context_of_one_request_leaves_the_others_their_answers():
    short = Request("a", "g", [{"role": "user", "content": "hi"}])
    long = Request("b", "g", [{"role": "user", "content": "hi" * 100}])
    full, answer = asked(Scaffolded(Seeing(), context=TokenBudget(20)), long, short)
    assert isinstance(full, ContextFull)
    assert answer == Action("rest")


def test_images_and_tools_count():
    image = {"role": "user", "content": [{"type": "text", "text": "1234"}, {"type": "image", "image": np.zeros(1)}]}
    assert estimate([image]) == 4 + 1 + 1000
    request = Request("a", "g", [{"role": "user", "content": "1234"}], tools=[{"function": {"name": "x" * 400}}])
    (answer,) = asked(Scaffolded(Seeing(), context=TokenBudget(100)), request)
    assert isinstance(answer, ContextFull)


def test_a_number_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="LastTurns: expected 0 or a number of turns, got -1"):
        LastTurns(-1)
    with pytest.raises(ValueError, match="TokenBudget: expected a number of tokens, got 0"):
        TokenBudget(0)


def test_a_wrapped_policy_is_asked_as_it_wants_to_be():
    inner, inner_async = Seeing(), SeeingAsync()
    plain = [t.action for t in play([LADDER], inner)[0].turns]
    for policy in (inner, inner_async):
        (episode,) = play([LADDER], Scaffolded(policy, context=LastTurns(1)), gather="greedy")
        assert [turn.action for turn in episode.turns] == plain
        assert policy.forgotten[-1] == episode.id
    assert inner_async.n_closed == 1
    assert Scaffolded(inner).version == 3


def test_a_request_is_passed_on_as_it_is_where_nothing_changes():
    messages = [{"role": "user", "content": "hi"}]
    policy = Seeing(lambda request: Action(str(request.messages is messages and request.n_seen)))
    assert Scaffolded(policy, context=LastTurns(5)).act([Request("a", "g", messages, n_seen=1)]) == [Action("1")]


def test_a_machine_that_breaks_inside_a_scaffold_fails_its_episode():
    (episode,) = play([LADDER], Scaffolded(Seeing(lambda request: EndpointError("gone")), context=LastTurns(1)))
    assert episode.stop is Stop.FAILED
