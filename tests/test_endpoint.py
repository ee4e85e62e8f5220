"""The chat client: what it sends, and what it makes of what comes back."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image

from milepost.envs.completions import action_of
from milepost.envs.core import Action, Call, Tokens, action_message, observation_messages
from milepost.envs.endpoint import Endpoint, Price, read_prices
from milepost.envs.scripted_endpoint import ScriptedEndpoint, serve_in_process
from milepost.sandbox.process import room_for

HELLO = [{"role": "user", "content": "hello"}]
RED = np.full((2, 3, 3), (255, 0, 0), np.uint8)


def ask(answer: Any, messages: Any = HELLO, prices: Any = None, **options: Any) -> tuple[Action, dict[str, Any]]:
    """Return the action, and the request that the server saw."""
    server = ScriptedEndpoint(answer)
    with server as base_url:

        async def chat() -> Action:
            endpoint = Endpoint(base_url, prices=prices, back_off_s=0.01)
            try:
                return await endpoint.chat("scripted", messages, **options)
            finally:
                await endpoint.aclose()

        return asyncio.run(chat()), server.requests[-1]


def call(name: str, arguments: Any, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}, **more}


def test_an_answer_becomes_text_reasoning_and_calls_as_written():
    message = {
        "content": "Let me look.",
        "reasoning_content": "I need the order.",
        "tool_calls": [call("find", '{"id": 7', id="abc"), call("find", '{"id": 8}', id="abd")],
    }
    action, _ = ask(lambda request: message)
    assert (action.text, action.reasoning, action.finish) == ("Let me look.", "I need the order.", "calls")
    assert action.calls == (Call("abc", "find", '{"id": 7'), Call("abd", "find", '{"id": 8}'))
    assert json.loads(action.move or "")[0] == {"id": "abc", "name": "find", "arguments": '{"id": 7'}


def test_reasoning_under_its_other_name_is_kept():
    assert ask(lambda request: {"content": "4", "reasoning": "2 + 2"})[0].reasoning == "2 + 2"


def test_calls_without_an_id_of_their_own_get_one_that_is_new_in_the_chat():
    before = action_message(Action("", calls=(Call("x", "look", "{}"), Call("y", "look", "{}"))))
    message = {"content": None, "tool_calls": [call("a", "{}"), call("b", "{}", id=""), call("c", "{}", id="call_1")]}
    message["tool_calls"].append(call("d", {"n": 1}, id="call_1"))
    action, _ = ask(lambda request: message, [*HELLO, before, {"role": "tool", "tool_call_id": "x", "content": "1"}])
    assert [c.id for c in action.calls] == ["call_2", "call_3", "call_1", "call_5"]
    assert action.calls[3].arguments == '{"n": 1}'
    clash = {
        "tool_calls": [call("a", "{}", id="call_1"), call("b", "{}"), call("c", "{}"), call("d", "{}", id="call_2")]
    }
    assert [c.id for c in ask(lambda request: clash)[0].calls] == ["call_1", "call_3", "call_4", "call_2"]


@pytest.mark.parametrize(
    ("message", "text", "finish"),
    [
        ({"content": None}, "", "stop"),
        ({"content": "so far", "finish_reason": "length"}, "so far", "length"),
        ({"content": "so f", "finish_reason": "content_filter"}, "so f", "filter"),
        ({"content": None, "refusal": "I will not."}, "I will not.", "stop"),
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "ab", "stop"),
        ({"content": "half \ud83d", "finish_reason": "eos"}, "half \ufffd", "stop"),
    ],
)
def test_every_kind_of_message_is_the_agents_turn(message: dict[str, Any], text: str, finish: str):
    action, _ = ask(lambda request: message)
    assert (action.text, action.move, action.finish) == (text, text, finish)


def test_usage_counts_cached_tokens_once_and_costs_what_the_table_says():
    reply = {
        "choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 600}},
    }
    action = action_of(reply, HELLO, 1.5, Price(prompt=2.0, cached=0.5, completion=8.0))
    assert action.usage == (1000, 600, 10, 1.5, pytest.approx((400 * 2.0 + 600 * 0.5 + 10 * 8.0) / 1e6))


def test_the_cost_is_unknown_without_the_models_price_and_without_usage():
    usage = ask("hi", prices={"another": Price(1, 1, 1)})[0].usage
    assert usage is not None
    assert usage.cost is None
    reply = {"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]}
    assert action_of(reply, HELLO, 1.0, Price(1, 1, 1)).usage == (0, 0, 0, 1.0, None)
    absurd = reply | {"usage": {"prompt_tokens": 10**400, "completion_tokens": 1}}
    assert action_of(absurd, HELLO, 1.0, Price(1, 1, 1)).usage == (0, 0, 1, 1.0, 1e-6)


def test_tokens_are_kept_only_where_their_ids_are_known():
    choice = {"message": {"content": "hi"}, "finish_reason": "stop"}
    logprobs = {"content": [{"token": "h", "logprob": -0.5}, {"token": "i", "logprob": -1.0}]}
    known = {"prompt_token_ids": [1, 2, 3], "choices": [choice | {"token_ids": [8, 9], "logprobs": logprobs}]}
    expected = Tokens(0, np.array([1, 2, 3]), np.array([8, 9]), np.array([-0.5, -1.0]))
    assert action_of(known, HELLO, 0.0, None).tokens == expected
    assert action_of({"choices": [choice | {"logprobs": logprobs}]}, HELLO, 0.0, None).tokens is None


def test_what_was_not_asked_for_is_not_sent():
    assert set(ask("hi")[1]) == {"model", "messages"}


def test_options_reach_the_server_and_an_extra_of_none_takes_one_away():
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    options = {"tools": [tool], "seed": 2**62 + 5, "temperature": 0.5, "max_tokens": 9, "logprobs": True}
    _, request = ask("hi", **options, extra={"top_k": 3, "temperature": None})
    del request["messages"]
    expected = {"model": "scripted", "tools": [tool], "seed": 5, "max_tokens": 9, "logprobs": True, "top_k": 3}
    assert request == expected


def test_images_are_sent_as_png_and_those_of_tool_results_in_a_message_behind_them():
    results = observation_messages({"results": [{"id": "a", "text": "a page", "image": RED}, {"id": "b", "text": "2"}]})
    _, request = ask("hi", [*observation_messages({"text": "look", "images": [RED]}), *results, *HELLO])
    user, first, second, pictures, hello = request["messages"]
    url = user["content"][1]["image_url"]["url"]
    png = Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,"))))
    assert np.array_equal(np.asarray(png), RED)
    assert user["content"][0] == {"type": "text", "text": "look"}
    assert (first["content"], second["content"], hello) == ("a page", "2", HELLO[0])
    assert pictures == {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}


def test_reasoning_is_not_sent_back_and_broken_arguments_are_sent_as_json():
    calls = (Call("a", "find", '{"id": 7'), Call("b", "find", '{"id": 8}'), Call("c", "list", ""))
    acted = action_message(Action("hm", calls=calls, reasoning="secret thoughts"))
    _, request = ask("hi", [*HELLO, acted])
    sent = request["messages"][1]
    assert "reasoning_content" not in sent
    arguments = [json.loads(c["function"]["arguments"]) for c in sent["tool_calls"]]
    assert arguments == [{"text": '{"id": 7'}, {"id": 8}, {}]
    assert acted["reasoning_content"] == "secret thoughts", "the history itself was changed"


def test_more_requests_than_a_pool_has_connections_are_in_flight_at_once():
    server = ScriptedEndpoint("hi", latency=(100.0, 100.0))
    with server as base_url:

        async def flood() -> None:
            endpoint = Endpoint(base_url, connections=7)
            chats = [asyncio.create_task(endpoint.chat("scripted", HELLO, seed=i)) for i in range(60)]
            while server.n_in_flight < 60:
                await asyncio.sleep(0.01)
            for chat in chats:
                chat.cancel()
            await asyncio.gather(*chats, return_exceptions=True)
            await endpoint.aclose()

        asyncio.run(asyncio.wait_for(flood(), 60))


def test_connections_are_used_again():
    server = ScriptedEndpoint("hi")
    with server as base_url:

        async def chat() -> None:
            endpoint = Endpoint(base_url)
            for _ in range(5):
                await endpoint.chat("scripted", HELLO)
            await endpoint.aclose()

        asyncio.run(chat())
    assert (server.n_requests, server.n_connections) == (5, 1)


def test_one_endpoint_serves_several_event_loops():
    with serve_in_process("climb") as base_url:
        endpoint = Endpoint(base_url)
        assert [asyncio.run(endpoint.chat("scripted", HELLO)).text for _ in range(2)] == ["climb", "climb"]
        assert asyncio.run(endpoint.models()) == ["scripted"]


def test_all_endpoints_of_a_server_share_its_requests_per_minute_without_bursts():
    arrivals: list[float] = []

    def answer(request: dict[str, Any]) -> str:
        arrivals.append(time.monotonic())
        return "hi"

    with ScriptedEndpoint(answer) as base_url:

        async def chat() -> None:
            one, other = Endpoint(base_url, per_minute=300), Endpoint(base_url + "/")
            await asyncio.gather(*(endpoint.chat("scripted", HELLO) for endpoint in (one, other) for _ in range(3)))
            await one.aclose()
            await other.aclose()

        asyncio.run(chat())
    assert arrivals[-1] - arrivals[0] > 2.5 * 60 / 300, "five times as long; twice, were each alone"


def test_a_request_that_waits_for_its_turn_outlives_the_end_of_another_play():
    with ScriptedEndpoint("hi") as base_url:

        async def chat() -> list[Any]:
            endpoint = Endpoint(base_url, per_minute=300)
            chats = [asyncio.create_task(endpoint.chat("scripted", HELLO)) for _ in range(2)]
            await chats[0]
            await endpoint.aclose()
            answers = await asyncio.gather(*chats)
            await endpoint.aclose()
            return answers

        assert [answer.text for answer in asyncio.run(chat())] == ["hi", "hi"]


def test_prices_are_read_from_a_table_per_model(tmp_path):
    path = tmp_path / "prices.toml"
    path.write_text('["gpt-4.1"]\nprompt = 2\ncached = 0.5\ncompletion = 8\n[tiny]\nprompt = 1\ncompletion = 2.5\n')
    assert read_prices(path) == {"gpt-4.1": Price(2.0, 0.5, 8.0), "tiny": Price(1.0, 1.0, 2.5)}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[gpt-4.1]\nprompt = 2\ncompletion = 8\n", r"'gpt-4'.*expected prompt, completion.*got 1;.*quoted"),
        ("[a]\nprompt = 2\n", r"'a'.*got prompt"),
        ("[a]\nprompt = 2\ncompletion = 1\nimages = 3\n", r"'a'.*got completion, images, prompt"),
        ("[a]\nprompt = -2\ncompletion = 1\n", r"'a', prompt: expected a price per million tokens, got -2"),
        ("[a", r"prices\.toml: "),
    ],
)
def test_a_table_of_prices_with_a_mistake_is_refused(tmp_path, text: str, what: str):
    path = tmp_path / "prices.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=what):
        read_prices(path)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"base_url": "localhost:8000"}, r"base_url: expected http\(s\)://host.*got 'localhost:8000'"),
        ({"base_url": "http://me:hunter2@host/v1"}, r"base_url: .*for host; keys come from the environment$"),
        ({"base_url": "https://host/v1?key=hunter2"}, r"base_url: .*for host; keys come from the environment$"),
        ({"base_url": "http://a/v1", "connections": 300}, r"connections: expected 1..50, got 300; .*more pools"),
        ({"base_url": "http://a/v1", "tries": 0}, "tries: expected more than 0, got 0"),
        ({"base_url": "http://a/v1", "per_minute": 0}, "per_minute: expected more than 0, got 0"),
        ({"key_variable": "NO_SUCH_KEY"}, "needs a key: set the environment variable NO_SUCH_KEY"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(options: dict[str, Any], what: str):
    with pytest.raises(ValueError, match=what):
        Endpoint(**options)


def test_a_server_elsewhere_is_asked_through_the_proxy_of_the_environment(monkeypatch):
    from milepost.envs.connections import _proxy

    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "inside.example")
    urls = ["https://api.example/v1", "https://inside.example/v1", "http://api.example/v1", "https://127.0.0.1:8000/v1"]
    monkeypatch.delenv("http_proxy", raising=False)
    monkeypatch.delenv("all_proxy", raising=False)
    assert [_proxy(url) for url in urls] == ["http://proxy:3128", None, None, None]


def test_a_file_limit_that_is_too_low_is_named():
    with pytest.raises(
        ValueError, match=r"1000000000 connections need a file limit of \d+; the hard limit here is \d+"
    ):
        room_for(10**9)
