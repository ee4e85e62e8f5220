"""A model behind ``milepost serve``: what the official client, our own and a careless one get from it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("openai")
pytest.importorskip("uvicorn")

import httpx
import openai

from milepost.agents.core import Request
from milepost.agents.driver import play
from milepost.agents.local import models, tiny
from milepost.agents.local.chat_api import Chat, Refused, Reply
from milepost.agents.local.chats import Chats
from milepost.agents.local.policy import LocalPolicy
from milepost.agents.local.server import MAX_BODY, application, running, serving
from milepost.agents.remote import EndpointPolicy
from milepost.envs.core import Action, Stop, Task, Usage
from milepost.envs.endpoint import Endpoint

torch.set_num_threads(1)
GO = [{"role": "user", "content": "You are in a room. You see a door."}]
FIND = {"type": "function", "function": {"name": "find", "description": "Find a word."}}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    return models.load(tiny.build(tmp_path_factory.mktemp("tiny"), ["go north", "take the lamp"]))


@pytest.fixture(scope="module")
def base_url(loaded: Any) -> Iterator[str]:
    with serving(*loaded, max_new_tokens=24) as url:
        yield url


def client(base_url: str) -> Any:
    return openai.OpenAI(base_url=base_url, api_key="none", max_retries=0, timeout=60)


def ask(base_url: str, messages: Sequence[Any] = GO, **options: Any) -> Any:
    return client(base_url).chat.completions.create(model="local", messages=list(messages), **options)


def post(base_url: str, body: Any) -> tuple[int, dict[str, Any]]:
    """Post a body, as it is where it is bytes; return the status and the error."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = httpx.post(f"{base_url}/chat/completions", content=content, timeout=60)
    return response.status_code, response.json().get("error", {})


@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.0])
def test_the_official_client_gets_the_text_and_the_logprobs_that_the_policy_gives(
    loaded: Any, base_url: str, temperature: float
) -> None:
    policy = LocalPolicy(*loaded, temperature=temperature, max_new_tokens=20, stop=())
    (action,) = policy.act([Request("e", "g", GO, seed=11)])
    assert isinstance(action, Action)
    assert action.tokens is not None
    answer = ask(
        base_url,
        seed=11,
        temperature=temperature,
        max_tokens=20,
        logprobs=True,
        extra_body={"return_token_ids": True},
    )
    (choice,) = answer.choices
    assert (choice.message.content, choice.finish_reason) == (action.text, action.finish)
    spoken = choice.logprobs.content
    assert np.abs(np.array([s.logprob for s in spoken]) - action.tokens.logprobs).max() < 1e-5
    assert choice.token_ids == action.tokens.ids.tolist()
    assert answer.prompt_token_ids == action.tokens.context.tolist()
    said = [s for s in spoken if s.token != "<|im_end|>"]
    assert b"".join(bytes(s.bytes) for s in said).decode(errors="replace") == action.text
    assert answer.usage.prompt_tokens == len(action.tokens.context)
    assert answer.usage.completion_tokens == len(action.tokens.ids)


def test_a_stream_is_the_same_answer_in_parts(base_url: str) -> None:
    whole = ask(base_url, seed=4, logprobs=True)
    parts = list(ask(base_url, seed=4, logprobs=True, stream=True, stream_options={"include_usage": True}))
    choices = [part.choices[0] for part in parts if part.choices]
    assert "".join(c.delta.content or "" for c in choices) == whole.choices[0].message.content
    assert [c.finish_reason for c in choices if c.finish_reason] == [whole.choices[0].finish_reason]
    assert [t.bytes for c in choices if c.logprobs for t in c.logprobs.content] == [
        t.bytes for t in whole.choices[0].logprobs.content
    ]
    assert parts[-1].usage.completion_tokens == whole.usage.completion_tokens == 24


def test_a_conversation_is_not_computed_again_and_says_what_was_cached(base_url: str) -> None:
    first = ask(base_url, seed=1)
    more = [*GO, first.choices[0].message, {"role": "user", "content": [{"type": "text", "text": "on"}]}]
    second = ask(base_url, more, seed=2)
    assert first.usage.prompt_tokens_details.cached_tokens == 0
    assert second.usage.prompt_tokens_details.cached_tokens >= first.usage.prompt_tokens
    with_null = [{**m, "tool_calls": None, "name": None} if isinstance(m, dict) else m for m in more]
    assert ask(base_url, with_null, seed=2).choices[0].message.content == second.choices[0].message.content


def test_an_answer_ends_at_a_stop_text_or_at_its_length(base_url: str) -> None:
    text = ask(base_url, seed=3).choices[0].message.content
    for stop in (text[5], ["never", text[5]]):
        cut = ask(base_url, seed=3, stop=stop).choices[0]
        assert (cut.message.content, cut.finish_reason) == (text[: text.index(text[5])], "stop")
    short = ask(base_url, seed=3, max_completion_tokens=2)
    assert (short.choices[0].finish_reason, short.usage.completion_tokens) == ("length", 2)


BAD: list[tuple[Any, int, str]] = [
    (b"{", 400, "the body is no JSON"),
    (b"[" * 100_000, 400, "the body is no JSON"),
    ([], 400, "expected a JSON object"),
    ({}, 400, "messages: expected a list of one or more, got None"),
    ({"messages": []}, 400, "messages: expected a list of one or more"),
    ({"messages": [{"role": "me", "content": "x"}]}, 400, r"messages\[0\]: expected an object with a role of"),
    ({"messages": [*GO, "x"]}, 400, r"messages\[1\]: expected an object"),
    ({"messages": [{"role": "user"}]}, 400, r"messages\[0\].content: expected a text, got None"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, 400, "model reads text"),
    ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, 400, r"messages\[0\].tool_calls: expected a list"),
    ({"messages": GO, "model": "locl"}, 404, "model 'locl' is not served here; there is 'local'"),
    ({"messages": GO, "top_p": 0.9}, 400, "top_p: expected 1, which is all that is served, got 0.9"),
    ({"messages": GO, "n": 2}, 400, "n: expected 1"),
    ({"messages": GO, "top_logprobs": 3, "logprobs": True}, 400, "top_logprobs: expected 0"),
    ({"messages": GO, "response_format": {"type": "json_object"}}, 400, "response_format: expected"),
    ({"messages": GO, "temperature": -1}, 400, "temperature: expected 0, or 1e-6..1e6, got -1"),
    ({"messages": GO, "temperature": True}, 400, "temperature: expected int or float, got True"),
    ({"messages": GO, "max_tokens": 0}, 400, "max_tokens: expected 1 or more, got 0"),
    ({"messages": GO, "max_completion_tokens": "9"}, 400, "max_completion_tokens: expected int, got '9'"),
    ({"messages": GO, "max_tokens": 5000}, 400, "the context holds 4096 tokens; the messages have 2., the .* 5000"),
    ({"messages": GO, "stop": [""]}, 400, "stop: expected a text or a list of texts"),
    ({"messages": GO, "seed": 1.5}, 400, "seed: expected int, got 1.5"),
    ({"messages": GO, "tools": [{"name": "find"}]}, 400, r"tools\[0\]: expected"),
    ({"messages": GO, "tools": [FIND], "tool_choice": "required"}, 400, "tool_choice: expected 'auto' or 'none'"),
]


@pytest.mark.parametrize(("body", "status", "words"), BAD)
def test_what_cannot_be_answered_is_refused_in_the_form_of_openai(
    base_url: str, body: Any, status: int, words: str
) -> None:
    got, error = post(base_url, body)
    assert (got, error["type"]) == (status, "invalid_request_error")
    with pytest.raises(ValueError, match=words):
        raise ValueError(error["message"])


def test_bodies_and_paths_that_are_not_served_are_told_and_odd_ones_that_are_answered(base_url: str) -> None:
    assert post(base_url, b" " * (MAX_BODY + 1))[0] == 413
    assert httpx.get(f"{base_url}/completions").json()["error"]["message"].endswith("POST /v1/chat/completions")
    assert httpx.get(f"{base_url}/chat/completions").status_code == 405
    assert [model.id for model in client(base_url).models.list()] == ["local"]
    assert client(base_url).models.retrieve("local").id == "local"
    half = [{"role": "user", "content": "half a pair \ud800"}]
    assert post(base_url, {"messages": half, "user": "me", "max_tokens": 1})[0] == 200


class Says(Chats):
    """Answers a text, whatever it is asked."""

    text = ""

    def answer(self, chats: Sequence[Chat]) -> list[Reply | Refused]:
        if self.text == "break":
            raise RuntimeError("broken")
        return [Reply(Action(self.text, usage=Usage(1, 0, 1)), (), ()) for _ in chats]


def test_tool_calls_come_as_such_whole_and_streamed_unless_none_are_asked_for(loaded: Any) -> None:
    chats = Says(*loaded)
    chats.text = 'Look. <tool_call>{"name": "find", "arguments": {"n": 1}}</tool_call>'
    with running(application(chats, "local")) as url:
        (choice,) = ask(url, tools=[FIND]).choices
        (call,) = choice.message.tool_calls
        assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Look.")
        assert (call.id, call.function.name, call.function.arguments) == ("call_0", "find", '{"n": 1}')
        answer = {"role": "tool", "tool_call_id": "call_0", "content": "nothing"}
        (again,) = ask(url, [*GO, choice.message, answer], tools=[FIND]).choices
        assert again.message.tool_calls[0].id == "call_1"
        deltas = [part.choices[0].delta for part in ask(url, tools=[FIND], stream=True)]
        assert [c.function.name for d in deltas for c in d.tool_calls or ()] == ["find"]
        for options in ({}, {"tools": [FIND], "tool_choice": "none"}):
            (choice,) = ask(url, **options).choices
            assert (choice.message.content, choice.message.tool_calls) == (chats.text, None)


def test_a_model_that_fails_is_an_error_of_the_server_and_the_next_request_is_answered(
    loaded: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    chats = Says(*loaded)
    with running(application(chats, "local")) as url:
        chats.text = "break"
        with pytest.raises(openai.InternalServerError, match="the model failed: RuntimeError: broken"):
            ask(url)
        chats.text = "fine"
        assert ask(url).choices[0].message.content == "fine"
    assert "broken" in capsys.readouterr().err


def test_tools_that_cannot_be_told_to_the_model_are_refused_and_cost_no_other_chat_its_answer(loaded: Any) -> None:
    broken = [{"function": {"name": "find", "parameters": {"properties": {"word": 7}}}}]
    chats = Chats(*loaded, max_new_tokens=3)
    refused, answered = chats.answer([Chat(GO, tools=broken), Chat(GO)])
    assert isinstance(refused, Refused)
    assert refused.status == 400
    assert isinstance(answered, Reply)


def test_a_client_that_hangs_up_costs_nobody_else_anything(loaded: Any) -> None:
    chats = Chats(*loaded)
    with running(application(chats, "local")) as url:
        with pytest.raises(openai.APITimeoutError):
            ask(url, max_tokens=4000, timeout=0.3, temperature=0.0)
        assert ask(url, max_tokens=3, temperature=0.0).usage.completion_tokens == 3
    assert chats.metrics["sampled"] < 4000


def ladder(n: int) -> list[Task]:
    return [Task("milepost/Ladder-v0", {}, seed=seed, group=f"{seed}") for seed in range(n)]


def test_eight_episodes_at_once_are_played_over_http_and_depend_on_their_requests_alone(base_url: str) -> None:
    policy = EndpointPolicy(Endpoint(base_url), "local", temperature=1.0, max_tokens=4, extra={"stop": ["\n"]})
    episodes = play(ladder(8), policy, gather="greedy")
    alone = play(ladder(8), policy, gather="greedy", slots=1)
    assert all(e.stop not in (Stop.FAILED, None) for e in episodes), [e.failure for e in episodes]
    for a, b in zip(episodes, alone, strict=True):
        assert [turn.action.text for turn in a.turns] == [turn.action.text for turn in b.turns]
    assert any(t.action.usage.cached for e in episodes for t in e.turns if t.action.usage)


def test_an_episode_that_outgrows_the_context_ends_there_and_ends_no_run(loaded: Any) -> None:
    with serving(*loaded, max_context=120) as url:
        episodes = play(ladder(2), EndpointPolicy(Endpoint(url), "local", max_tokens=16), gather="greedy")
    assert [episode.stop for episode in episodes] == [Stop.MAX_TOKENS] * 2


@pytest.mark.slow
def test_smollm2_plays_over_http_as_it_does_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("textworld")
    model, tokenizer = models.load("smollm2")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tasks = [
        Task("milepost/TextWorld-v0", {"level": "w2-o3-q2", "max_episode_steps": 4}, task=name, group=name)
        for name in ("50001", "50002")
    ]
    policy = LocalPolicy(model, tokenizer, temperature=0.0, max_new_tokens=12, stop=())
    local = play(tasks, policy)
    with serving(model, tokenizer) as url:
        remote = play(tasks, EndpointPolicy(Endpoint(url), "local", temperature=0.0, max_tokens=12), gather="greedy")
        for here, there in zip(local, remote, strict=True):
            assert [t.action.text for t in here.turns] == [t.action.text for t in there.turns]
        episode = local[0]
        for t in range(len(episode.turns)):
            request = Request("e", "g", episode.view(t), seed=t)
            (action,) = LocalPolicy(model, tokenizer, max_new_tokens=12).act([request])
            assert isinstance(action, Action)
            assert action.tokens is not None
            answer = ask(url, episode.view(t), seed=t, max_tokens=12, stop="\n", logprobs=True).choices[0]
            assert answer.message.content == action.text
            assert [s.logprob for s in answer.logprobs.content] == pytest.approx(action.tokens.logprobs, abs=1e-4)
