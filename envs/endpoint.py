"""The one chat client: asynchronous, patient with servers that fail, and silent about keys.

Agents, simulated users and annotators behind an OpenAI-compatible endpoint are all asked through it.
``envs/completions.py`` turns messages into JSON and a completion into an ``Action``, ``envs/refusals.py`` reads what
is none, and ``envs/connections.py`` holds the connections.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

import gymnasium as gym

from milepost.envs.completions import Price, action_of, read_prices, request_body
from milepost.envs.core import Action, Message
from milepost.envs.refusals import ContextLength, Failure, Malformed, Unreachable, malformed, parsed
from milepost.sandbox.core import EndpointError
from milepost.sandbox.process import room_for

if TYPE_CHECKING:
    from milepost.envs.connections import Connections

__all__ = ["ContextLength", "Endpoint", "EndpointError", "Price", "Unreachable", "read_prices", "room_for"]

T = TypeVar("T")
OPENAI = "https://api.openai.com/v1"
MAX_CONNECTIONS = 50
MAX_WAIT_S = 60.0
"""The longest that we wait between two tries on our own account."""
TRIES_TO_REACH = 3
"""After so many a server that never answered is called unreachable."""


class Endpoint:
    """An OpenAI-compatible server: hosted, vLLM, SGLang, llama.cpp or ``milepost serve``; for any event loop.

    Args:
        base_url: Up to ``/v1``; None: OpenAI's.
        key_variable: The environment variable with the key. It may be unset for any server but OpenAI's.
        timeout_s: What one try may take, from connecting to the last byte; a server that asks us to wait longer
            than this is not waited for.
        tries: How often a request is sent at most.
        per_minute: Requests per minute, spread evenly, of all endpoints in this process with this ``base_url``.
        connections: Of one pool; as many pools are opened as the requests in flight need.
        prices: By model; without its price the cost of an answer is None.
        back_off_s: The first wait between two tries is drawn from 0 to this, the next from 0 to twice this, ...
        send_reasoning: Send back the reasoning of earlier turns, which few servers expect.

    Raises:
        ValueError: A bad argument; the key is missing.
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
            if number is not None and not number > 0:
                raise ValueError(f"{name}: expected more than 0, got {number}")
        if not 1 <= connections <= MAX_CONNECTIONS:
            raise ValueError(
                f"connections: expected 1..{MAX_CONNECTIONS}, got {connections}; a bigger pool takes long to find "
                "a free connection, and more pools are opened as they are needed"
            )
        self.key_variable, self.timeout_s, self.tries = key_variable, timeout_s, tries
        self.connections, self.back_off_s, self.send_reasoning = connections, back_off_s, send_reasoning
        self.prices = dict(prices or {})
        self._key()
        self._pace = _PACES.setdefault(self.base_url, _Pace())
        if per_minute:
            self._pace.interval_s = max(self._pace.interval_s, 60.0 / per_minute)
        self._open: dict[asyncio.AbstractEventLoop, Connections] = {}
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

        ``extra`` goes into the request's body; a None takes a field away. ``logprobs`` fills ``Action.tokens`` where
        the server also tells the ids of the tokens (vLLM: ``extra={"return_token_ids": True}``).

        Raises:
            EndpointError: No usable answer after the last try, or the server refuses this request and took others.
            Unreachable: No connection, and none ever worked.
            ContextLength: The messages do not fit the model's context.
            ValueError: The server refuses the key, the model or all requests, or the account's quota is used up.
        """
        fields = {
            "model": model,
            "tools": list(tools) or None,
            "seed": None if seed is None else seed % 2**31,
            "temperature": temperature,
            "max_completion_tokens" if self.base_url == OPENAI else "max_tokens": max_tokens,
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
        return await self._send("/models", None, _model_ids, "list of models") or []

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        connections = self._open.pop(asyncio.get_running_loop(), None)
        if connections is not None:
            await connections.aclose()

    async def _send(self, path: str, body: bytes | None, read: Callable[[Any, float], T], what: str) -> T | None:
        """Return what ``read`` makes of the reply; None where a filter refused the request."""
        n_tries = 0
        while True:
            n_tries += 1
            answer = await self._try(path, body, read)
            if not isinstance(answer, Failure):
                self._worked = True
                return answer
            if answer.filtered:
                return None
            kind, wait_s = answer.error, answer.wait_s
            if kind is Unreachable and (self._worked or n_tries < min(TRIES_TO_REACH, self.tries)):
                kind = EndpointError
            if kind is ValueError and self._worked and answer.text[:3] in ("400", "422"):  # it is this request
                kind = EndpointError
                break
            impatient = wait_s is not None and wait_s > self.timeout_s
            if kind is not EndpointError or impatient or n_tries >= self.tries:
                break
            await asyncio.sleep(_pause_s(self.back_off_s, n_tries, wait_s))
        where = f"{self.base_url}{path}, {what}"
        if issubclass(kind, EndpointError):
            tries = "1 try" if n_tries == 1 else f"{n_tries} tries"
            raise kind(f"{where}: no usable answer after {tries}; the last: {answer.text}")
        hint = f" (the key comes from {self.key_variable})" if answer.text[:3] in ("401", "403") else ""
        raise kind(f"{where}: {answer.text}{hint}")

    async def _try(self, path: str, body: bytes | None, read: Callable[[Any, float], T]) -> T | Failure:
        self._connections()  # before the turn, for the first take time, in which others would catch up
        await self._pace.turn()
        began = time.monotonic()
        reply = parsed(await self._connections().send(path, body, self.timeout_s))
        if isinstance(reply, Failure):
            return reply
        try:
            return read(reply, time.monotonic() - began)
        except Malformed as why:
            return malformed(reply, str(why))

    def _connections(self) -> Connections:
        """Return the connections of the running event loop; those of loops that are over are dropped."""
        loop = asyncio.get_running_loop()
        found = self._open.get(loop)
        if found is None:
            try:
                from milepost.envs.connections import Connections
            except ModuleNotFoundError as error:
                if error.name not in ("openai", "httpx2"):
                    raise
                raise gym.error.DependencyNotInstalled("Endpoints need openai: pip install 'milepost[eval]'") from None
            for other in list(self._open):
                if other.is_closed():
                    self._open.pop(other, None)
            found = self._open[loop] = Connections(self.base_url, self._key(), self.connections)
        return found

    def _key(self) -> str | None:
        key = os.environ.get(self.key_variable, "").strip()
        if not key.isascii() or not key.isprintable():
            raise ValueError(f"{self.key_variable} holds characters that no key has")
        if not key and self.base_url == OPENAI:
            raise ValueError(f"{OPENAI} needs a key: set the environment variable {self.key_variable}")
        return key or None


class _Pace:
    """Spreads the requests to one server: the next may go ``interval_s`` after the one before."""

    def __init__(self) -> None:
        self.interval_s = 0.0
        self._next = 0.0
        self._lock = threading.Lock()

    async def turn(self) -> None:
        if self.interval_s:
            with self._lock:
                now = time.monotonic()
                at = max(now, self._next)
                self._next = at + self.interval_s
            await asyncio.sleep(at - now)


_PACES: WeakValueDictionary[str, _Pace] = WeakValueDictionary()


def _checked_url(url: str) -> str:
    form = "expected http(s)://host[:port]/v1"
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError(f"base_url: {form} and no more, for {parts.hostname}; keys come from the environment")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"base_url: {form}, got {url!r}")
    return url.rstrip("/")


def _pause_s(first_s: float, n_tries: int, asked_s: float | None) -> float:
    """Return how long to wait after so many tries: exponential with full jitter, and no less than the server asked."""
    jitter_s = random.uniform(0.0, min(MAX_WAIT_S, first_s * 2.0 ** (n_tries - 1)))
    return jitter_s if asked_s is None else asked_s + min(jitter_s, first_s)


def _model_ids(reply: Any, seconds: float) -> list[str]:
    rows = reply.get("data") if isinstance(reply, dict) else None
    if not isinstance(rows, list):
        raise Malformed("no list of models")
    return [str(row["id"]) for row in rows if isinstance(row, dict) and "id" in row]
