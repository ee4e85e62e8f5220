"""The one chat client: asynchronous, patient with servers that fail, and silent about keys.

Agents, simulated users and annotators that live behind an OpenAI-compatible endpoint are all asked through it. What
is asked is turned into JSON and what comes back into an ``Action`` in ``envs/completions.py``; the connections are
those of ``envs/connections.py``.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary, WeakValueDictionary

import gymnasium as gym

from milepost.envs.completions import Malformed, Price, action_of, read_prices, request_body
from milepost.envs.core import Action, Message
from milepost.sandbox.core import EndpointError
from milepost.sandbox.process import room_for

if TYPE_CHECKING:
    from milepost.envs.connections import Connections

__all__ = ["ContextLength", "Endpoint", "Price", "Unreachable", "read_prices", "room_for"]

OPENAI = "https://api.openai.com/v1"
MAX_CONNECTIONS = 50
MAX_WAIT_S = 60.0
"""The longest that we wait between two tries on our own account."""
RETRIED = frozenset({408, 409, 425, 429})
OUT_OF_QUOTA = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})


class Unreachable(EndpointError):
    """No connection could be made, and none ever worked: the address is wrong or no server runs there."""


class ContextLength(ValueError):
    """The messages are longer than the model's context."""


class Reply(NamedTuple):
    """What a server sent."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class NoReply(NamedTuple):
    """Why there is none; not an exception, so that no traceback leads to a request and its key."""

    text: str
    connected: bool = True


class _Failure(NamedTuple):
    """What went wrong in one try."""

    text: str
    error: type[Exception] = EndpointError
    """EndpointError is tried again; what is the caller's is not."""
    wait_s: float | None = None
    """What the server asked for."""
    filtered: bool = False


class Endpoint:
    """An OpenAI-compatible server: hosted, vLLM, SGLang, llama.cpp or ``milepost serve``.

    Args:
        base_url: Up to ``/v1``; None: OpenAI's.
        key_variable: The environment variable with the key. It may be unset for any server but OpenAI's.
        timeout_s: What one try may take, from connecting to the last byte.
        tries: How often a request is sent at most.
        per_minute: Requests per minute, spread evenly, of all endpoints in this process with this ``base_url``.
        connections: Connections of one pool; there are as many pools as the requests in flight need.
        prices: By model; without them a cost is None.
        back_off_s: The first wait between two tries is drawn from 0 to this, the next from 0 to twice this, ...
        send_reasoning: Send back the reasoning of earlier turns; few servers expect it.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        key_variable: str = "OPENAI_API_KEY",
        timeout_s: float = 600.0,
        tries: int = 6,
        per_minute: int | None = None,
        connections: int = MAX_CONNECTIONS,
        prices: Mapping[str, Price] | None = None,
        back_off_s: float = 1.0,
        send_reasoning: bool = False,
    ) -> None:
        self.base_url = _checked_url(base_url or OPENAI)
        for name, number in {"timeout_s": timeout_s, "tries": tries, "per_minute": per_minute}.items():
            if number is not None and number <= 0:
                raise ValueError(f"{name}: expected more than 0, got {number}")
        if not 1 <= connections <= MAX_CONNECTIONS:
            raise ValueError(
                f"connections: expected 1..{MAX_CONNECTIONS} per pool, got {connections}; bigger pools search long for "
                "a free connection, and more pools are opened as they are needed"
            )
        if self.base_url == OPENAI and not os.environ.get(key_variable):
            raise ValueError(f"{OPENAI} needs a key: set the environment variable {key_variable}")
        self.key_variable = key_variable
        self.timeout_s, self.tries, self.connections, self.back_off_s = timeout_s, tries, connections, back_off_s
        self.prices = dict(prices or {})
        self.send_reasoning = send_reasoning
        self._pace = _PACES.setdefault(self.base_url, _Pace())
        if per_minute:
            self._pace.interval_s = max(self._pace.interval_s, 60.0 / per_minute)
        self._open: WeakKeyDictionary[asyncio.AbstractEventLoop, Connections] = WeakKeyDictionary()
        self._worked = False

    async def chat(
        self,
        model: str,
        messages: Sequence[Message],
        *,
        tools: Sequence[dict[str, Any]] = (),
        seed: int | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        logprobs: bool = False,
        extra: Mapping[str, Any] | None = None,
    ) -> Action:
        """Return the model's next message.

        ``extra`` is merged into the request's body; None takes a field away. Reasoning stays in the action and is
        not sent back.

        Raises:
            EndpointError: No usable answer after the last try.
            Unreachable: No connection, and none ever worked.
            ContextLength: The messages do not fit the model's context.
            ValueError: The server refuses the key, the model or the request, or the account's quota is used up.
        """
        limit = "max_completion_tokens" if self.base_url == OPENAI else "max_tokens"
        fields = {
            "model": model,
            "tools": list(tools) or None,
            "seed": None if seed is None else seed % 2**31,
            "temperature": temperature,
            limit: max_tokens,
            "logprobs": logprobs or None,
            **(extra or {}),
        }
        body = await request_body(messages, fields, send_reasoning=self.send_reasoning)

        def read(reply: Any, seconds: float) -> Action:
            return action_of(reply, messages, seconds, self.prices.get(model))

        answer = await self._send("/chat/completions", body, read, f"model {model!r}")
        return Action("", finish="filter") if answer is None else answer

    async def models(self) -> list[str]:
        """Return the ids of the models that the server has.

        Raises:
            EndpointError, ValueError: See ``chat``.
        """
        return await self._send("/models", None, _model_ids, "its list of models") or []

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        connections = self._open.pop(asyncio.get_running_loop(), None)
        if connections is not None:
            await connections.aclose()

    async def _send(self, path: str, body: bytes | None, read: Any, what: str) -> Any:
        """Return what ``read`` makes of the reply; None where a filter refused the request."""
        where = f"{self.base_url}{path}, {what}"
        failure = _Failure("")
        n_tries = 0
        while n_tries < self.tries:
            n_tries += 1
            await self._pace.turn()
            began = time.monotonic()
            reply = await self._try(path, body)
            if not isinstance(reply, _Failure):
                try:
                    answer = read(reply, time.monotonic() - began)
                except Malformed as error:
                    reply = _malformed(reply, str(error))
                else:
                    self._worked = True
                    return answer
            failure = reply
            if failure.filtered:
                return None
            if failure.error is Unreachable and (self._worked or n_tries < 3):
                failure = failure._replace(error=EndpointError)
            longest = self.timeout_s if failure.wait_s is None else failure.wait_s
            if failure.error is not EndpointError or longest > self.timeout_s or n_tries == self.tries:
                break
            await asyncio.sleep(_pause(self.back_off_s, n_tries, failure.wait_s))
        if issubclass(failure.error, EndpointError):
            times = "1 try" if n_tries == 1 else f"{n_tries} tries"
            raise failure.error(f"{where}: no usable answer after {times}; the last: {failure.text}")
        hint = f" (the key comes from {self.key_variable})" if failure.text[:3] in ("401", "403") else ""
        raise failure.error(f"{where}: {failure.text}{hint}")

    async def _try(self, path: str, body: bytes | None) -> Any:
        """Return the reply's JSON, or what went wrong."""
        reply = await self._connections().send(path, body, self.timeout_s)
        if isinstance(reply, NoReply):
            return _Failure(reply.text, EndpointError if reply.connected else Unreachable)
        if reply.status >= 400:
            return _refused(reply)
        try:
            return json.loads(reply.content)
        except (ValueError, RecursionError):
            return _Failure(f"not JSON: {_shortened(reply.content.decode('utf-8', 'replace'))!r}")

    def _connections(self) -> Connections:
        loop = asyncio.get_running_loop()
        found = self._open.get(loop)
        if found is None:
            try:
                from milepost.envs.connections import Connections
            except ModuleNotFoundError as error:
                if error.name not in ("openai", "httpx2"):
                    raise
                raise gym.error.DependencyNotInstalled("Endpoints need openai: pip install 'milepost[eval]'") from None
            key = os.environ.get(self.key_variable) or "none"
            found = self._open[loop] = Connections(self.base_url, key, self.connections)
        return found


class _Pace:
    """Spreads the requests to one server: the next may go ``interval_s`` after the one before."""

    def __init__(self) -> None:
        self.interval_s = 0.0
        self._next = 0.0

    async def turn(self) -> None:
        if self.interval_s:
            now = time.monotonic()
            at = max(now, self._next)
            self._next = at + self.interval_s
            await asyncio.sleep(at - now)


_PACES: WeakValueDictionary[str, _Pace] = WeakValueDictionary()


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"base_url: expected http(s)://host[:port]/v1, got {url!r}")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError(
            f"base_url: expected http(s)://host[:port]/v1 and no more, for {parts.hostname}; "
            "keys come from the environment"
        )
    return url.rstrip("/")


def _pause(first_s: float, n_tries: int, asked_s: float | None) -> float:
    """Return how long to wait after so many tries: exponential with full jitter, or what the server asked for."""
    jitter = random.uniform(0.0, min(MAX_WAIT_S, first_s * 2.0 ** (n_tries - 1)))
    return jitter if asked_s is None else asked_s + min(jitter, first_s)


def _refused(reply: Reply) -> _Failure:
    """Return what a status of 400 or more says."""
    try:
        body = json.loads(reply.content)
    except (ValueError, RecursionError):
        body = None
    detail = body.get("error", body) if isinstance(body, dict) else None
    text = reply.content.decode("utf-8", "replace")
    return _read_error(reply.status, detail, text, _retry_after(reply.headers))


def _malformed(reply: Any, why: str) -> _Failure:
    """Return what a reply that is no completion says; some servers send their errors with a status of 200."""
    detail = reply.get("error") if isinstance(reply, dict) else None
    code = detail.get("code") if isinstance(detail, dict) else None
    if isinstance(code, int) and 400 <= code < 600:
        return _read_error(code, detail, "", None)
    return _Failure(f"{why}: {_shortened(json.dumps(reply))}")


def _read_error(status: int, detail: Any, text: str, wait_s: float | None) -> _Failure:
    fields = detail if isinstance(detail, dict) else {"message": detail if isinstance(detail, str) else text}
    message = str(fields.get("message") or fields.get("detail") or text)
    codes = {str(fields.get(name)) for name in ("code", "type")}
    said = f"{status}: {_shortened(message)}"
    if status == 402 or (status == 429 and codes & OUT_OF_QUOTA):
        return _Failure(f"{said} (the account's quota is used up)", ValueError)
    if status in RETRIED or status >= 500 or status < 400:
        return _Failure(said, wait_s=wait_s)
    if "content_filter" in codes:
        return _Failure(said, filtered=True)
    if status == 413 or codes & {"context_length_exceeded", "exceed_context_size_error"} or _is_too_long(message):
        return _Failure(said, ContextLength)
    return _Failure(said, ValueError)


def _is_too_long(message: str) -> bool:
    low = message.lower()
    return any(words in low for words in ("context length", "context size", "context window", "prompt is too long"))


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that the server asks to wait: a number of them, or a date."""
    text = headers.get("retry-after", "")
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def _shortened(text: str, n: int = 300) -> str:
    line = " ".join(text.split())
    return line if len(line) <= n else line[:n] + " ..."


def _model_ids(reply: Any, seconds: float) -> list[str]:
    rows = reply.get("data") if isinstance(reply, dict) else None
    if not isinstance(rows, list):
        raise Malformed("no list of models")
    return [str(row["id"]) for row in rows if isinstance(row, dict) and "id" in row]
