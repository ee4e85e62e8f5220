"""Servers that fail: what is tried again, what is not, whose fault it is, and that no key gets out."""

from __future__ import annotations

import asyncio
import gzip
import logging
import time
import traceback
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from email.utils import formatdate
from typing import Any

import pytest

from milepost.envs import connections
from milepost.envs.core import Action
from milepost.envs.endpoint import ContextLength, Endpoint, Unreachable, _pause_s
from milepost.envs.refusals import Reply, malformed, parsed
from milepost.envs.scripted_endpoint import Fault, ScriptedEndpoint
from milepost.sandbox.core import EndpointError

HELLO = [{"role": "user", "content": "hello"}]
KEY = "sk-marker/0123456789+abcdef"


def ask(server: ScriptedEndpoint, n: int = 1, model: str = "scripted", **options: Any) -> list[Action]:
    """Return the answers to ``n`` requests, one after the other."""

    async def chat(base_url: str) -> list[Action]:
        endpoint = Endpoint(base_url, **{"back_off_s": 0.01, "tries": 3, **options})
        try:
            return [await endpoint.chat(model, HELLO) for _ in range(n)]
        finally:
            await endpoint.aclose()

    with server as base_url:
        return asyncio.run(chat(base_url))


def failing(*faults: Fault) -> ScriptedEndpoint:
    return ScriptedEndpoint("climb", faults=faults)


PASSING = {
    "408": Fault("status", 408),
    "409": Fault("status", 409),
    "429": Fault("status", 429, retry_after="0"),
    "500": Fault("status", 500),
    "503": Fault("status", 503, message="overloaded"),
    "not JSON": Fault("text"),
    "no choices": Fault("malformed"),
    "without sending a response": Fault("close"),
    "closed connection": Fault("cut"),
    "more than 1 MB": Fault("endless"),
    "within 0.5 s": Fault("hang"),
    " 0.5 s": Fault("trickle"),
}


@pytest.mark.parametrize("what", PASSING)
def test_a_fault_that_passes_is_tried_again_and_one_that_stays_is_named(what: str, monkeypatch):
    fault = PASSING[what]
    monkeypatch.setattr(connections, "MAX_BYTES", 2**20)
    passing = failing(replace(fault, times=2))
    timeout_s = 0.5 if fault.kind in ("hang", "trickle") else 20.0
    assert ask(passing, timeout_s=timeout_s)[0].text == "climb"
    staying = failing(fault)
    with pytest.raises(EndpointError, match=rf"/v1/chat/completions, model 'scripted': .* after 2 tries; .*{what}"):
        ask(staying, timeout_s=timeout_s, tries=2)
    assert staying.n_requests == 2


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        (Fault("status", 401, message="bad key"), r"401: bad key \(the key comes from OPENAI_API_KEY\)"),
        (Fault("status", 403), r"403: scripted fault \(the key"),
        (Fault("status", 400, message="temperature is 3"), "400: temperature is 3"),
        (Fault("status", 422), "422: "),
        (
            Fault("status", 429, code="insufficient_quota", message="pay"),
            r"429: pay \(the account's quota is used up\)",
        ),
        (Fault("status", 402), r"402: .*quota"),
    ],
)
def test_what_the_caller_has_to_mend_is_not_tried_again(fault: Fault, what: str):
    server = failing(fault)
    with pytest.raises(ValueError, match=rf"/v1/chat/completions, model 'scripted': {what}") as caught:
        ask(server)
    assert not isinstance(caught.value, ContextLength)
    assert server.n_requests == 1


@pytest.mark.parametrize("status", [400, 422])
def test_a_request_that_is_refused_where_others_were_taken_fails_alone(status: int):
    server = failing(Fault("status", status, message="no such role", every=2, times=1))
    with server as base_url:
        endpoint = Endpoint(base_url, back_off_s=0.01)
        asyncio.run(endpoint.chat("scripted", HELLO))
        with pytest.raises(EndpointError, match=f"after 1 try; the last: {status}: no such role"):
            asyncio.run(endpoint.chat("scripted", HELLO))
        assert asyncio.run(endpoint.chat("scripted", HELLO)).text == "climb"


def test_a_model_that_the_server_has_not_is_named():
    with pytest.raises(ValueError, match=r"/v1/chat/completions, model 'gtp-4': 404: .*'gtp-4' does not exist"):
        ask(failing(), model="gtp-4")


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", 400, code="context_length_exceeded", message="too many"),
        Fault(
            "status", 400, message="This model's maximum context length is 4096 tokens. However, you requested 5000."
        ),
        Fault("status", 400, code="exceed_context_size_error", message="the request exceeds it"),
        Fault("status", 413, message="Request Entity Too Large"),
    ],
)
def test_messages_that_are_too_long_are_told_apart(fault: Fault):
    with pytest.raises(ContextLength):
        ask(failing(fault))


def test_a_filtered_request_and_a_filtered_or_empty_answer_are_the_agents_turn():
    refused = Fault("status", 400, code="content_filter", times=1)
    actions = ask(failing(refused, Fault("filter", message="so f", times=1), Fault("empty", times=1)), n=4)
    assert [(action.text, action.finish) for action in actions] == [
        ("", "filter"),
        ("so f", "filter"),
        ("", "stop"),
        ("climb", "stop"),
    ]


def test_a_server_that_never_answered_is_unreachable_and_one_that_did_is_not():
    server = failing()
    with server as base_url:
        endpoint = Endpoint(base_url, back_off_s=0.01, tries=4)
        asyncio.run(endpoint.chat("scripted", HELLO))
        fresh = Endpoint(base_url, back_off_s=0.01)
    with pytest.raises(Unreachable, match=r"after 3 tries; the last: ConnectError"):
        asyncio.run(fresh.chat("scripted", HELLO))
    with pytest.raises(EndpointError, match=r"after 4 tries; the last: ConnectError") as caught:
        asyncio.run(endpoint.chat("scripted", HELLO))
    assert not isinstance(caught.value, Unreachable)


def test_a_server_that_is_away_for_a_while_is_waited_for():
    away = Fault("refused", seconds=0.2, every=2, times=1)
    assert [action.text for action in ask(failing(away), n=3, tries=12, back_off_s=0.05)] == ["climb"] * 3


def test_the_server_says_how_long_to_wait_in_seconds_or_by_a_date():
    def wait_s(text: str) -> Any:
        return parsed(Reply(429, {"retry-after": text}, b"{}")).wait_s

    assert [wait_s("7"), wait_s("0.25"), wait_s("-3"), wait_s("soon"), wait_s("inf")] == [7, 0.25, 0, None, None]
    assert 25 < wait_s(formatdate(time.time() + 30, usegmt=True)) <= 30
    assert wait_s(formatdate(time.time() - 30, usegmt=True)) == 0
    assert 7 <= _pause_s(1.0, 5, 7.0) <= 8


def test_the_wait_doubles_up_to_a_minute_with_full_jitter():
    waits = [[_pause_s(1.0, n, None) for _ in range(300)] for n in (1, 3, 20)]
    assert [max(row) <= most for row, most in zip(waits, (1, 4, 60), strict=True)] == [True] * 3
    assert [min(row) < most / 4 < max(row) for row, most in zip(waits, (1, 4, 60), strict=True)] == [True] * 3


def test_a_request_is_sent_again_no_sooner_than_the_server_said():
    began = time.monotonic()
    ask(failing(Fault("status", 429, retry_after="0.4", times=1)))
    assert time.monotonic() - began >= 0.4


def test_a_server_that_asks_to_wait_longer_than_a_try_may_take_is_not_waited_for():
    server = failing(Fault("status", 429, retry_after="3600"))
    with pytest.raises(EndpointError, match=r"after 1 try; the last: 429: scripted fault \(wait 3600 s\)"):
        ask(server, timeout_s=30.0)


def test_an_error_sent_with_status_200_is_read_as_what_it_says():
    assert malformed({"error": {"code": 400, "message": "bad"}}, "").error is ValueError
    assert malformed({"error": {"code": "502", "message": "upstream"}}, "").text == "502: upstream"
    assert malformed({"error": {"code": "9" * 5000}}, "no choices").error is EndpointError
    assert malformed({"error": "odd"}, "no choices").text == """no choices: {"error": "odd"}"""


def test_a_small_reply_that_unpacks_without_end_is_given_up(monkeypatch):
    import httpx2

    monkeypatch.setattr(connections, "MAX_BYTES", 2**20)

    class Stream(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield gzip.compress(bytes(2**25))

    reply = httpx2.Response(200, headers={"Content-Encoding": "gzip"}, stream=Stream())
    with pytest.raises(httpx2.ReadError, match="more than 1 MB"):
        asyncio.run(connections._bounded(reply))


def test_json_that_is_nested_without_end_is_not_json():
    assert parsed(Reply(200, {}, b"[" * 200_000)).text.startswith("not JSON: ")


def _everything_said(error: BaseException, records: Sequence[logging.LogRecord]) -> str:
    texts = ["".join(traceback.format_exception(error)), *(record.getMessage() for record in records)]
    texts += [str(record.__dict__) for record in records]
    seen: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in seen:
        seen.append(at)
        texts += [str(at), repr(at), str(at.__dict__)]
        at = at.__cause__ or at.__context__
    return "\n".join(texts)


@pytest.mark.parametrize("status", [200, 401, 429, 500])
def test_the_key_reaches_the_server_and_no_error_log_or_answer(status: int, monkeypatch, caplog):
    monkeypatch.setenv("MARKER_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    got: list[bool] = []
    fail = connections._Pools._without_key

    def watched(self: Any, text: bytes) -> bytes:
        got.append(KEY.encode() in text)
        return fail(self, text)

    monkeypatch.setattr(connections._Pools, "_without_key", watched)
    with pytest.raises((ValueError, EndpointError), match=r"refused: Bearer \*\*\*|no choices") as caught:
        ask(failing(Fault("echo", status)), tries=2, key_variable="MARKER_KEY")
    assert any(got), "the server did not echo the key"
    said = _everything_said(caught.value, caplog.records)
    assert "marker" not in said
    assert "0123456789" not in said


def test_an_endpoint_and_its_policy_do_not_show_the_key(monkeypatch):
    monkeypatch.setenv("MARKER_KEY", KEY)
    endpoint = Endpoint("http://127.0.0.1:9/v1", key_variable="MARKER_KEY")
    assert "marker" not in repr(endpoint) + str(vars(endpoint))


def test_a_key_that_cannot_be_sent_is_refused_without_showing_it(monkeypatch):
    monkeypatch.setenv("MARKER_KEY", "sk-marker\u00e9")
    with pytest.raises(ValueError, match=r"^MARKER_KEY holds characters that no key has$"):
        Endpoint("http://127.0.0.1:9/v1", key_variable="MARKER_KEY")


def test_a_key_that_is_no_secret_does_not_change_what_the_agent_said(monkeypatch):
    monkeypatch.setenv("MARKER_KEY", "EMPTY")
    assert ask(ScriptedEndpoint("the box is EMPTY"), key_variable="MARKER_KEY")[0].text == "the box is EMPTY"


def test_a_fault_is_read_from_a_line():
    assert Fault.read("status=429 every=7 retry_after=2") == Fault("status", 429, retry_after="2", every=7)
    assert Fault.read("hang times=1") == Fault("hang", times=1)
    with pytest.raises(ValueError, match=r"fault 'hang often=1': expected .*every.*, got often"):
        Fault.read("hang often=1")
    with pytest.raises(ValueError, match="fault: expected one of status, hang"):
        Fault.read("explode")
