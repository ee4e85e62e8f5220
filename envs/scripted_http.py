"""The connections of ``ScriptedEndpoint``: HTTP/1.1 as far as a chat client speaks it, and its faults."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

Kind = Literal[
    "status", "hang", "close", "cut", "endless", "trickle", "text", "malformed", "filter", "empty", "echo", "refused"
]


@dataclass(frozen=True)
class Fault:
    """Something else than an answer."""

    kind: Kind
    """``status``: an error. ``hang``: nothing. ``close``: the connection ends. ``cut``: half of an answer.
    ``endless``: bytes without end. ``trickle``: one byte now and then. ``text``: no JSON. ``malformed``: no choices.
    ``filter``: the filter cut the answer. ``empty``: a message with nothing in it. ``echo``: an error that repeats the
    Authorization header. ``refused``: no connection is taken for ``seconds``."""
    status: int = 500
    code: str = "scripted"
    message: str = "scripted fault"
    retry_after: str = ""
    """The header of that name."""
    seconds: float = 0.2
    every: int = 1
    """It befalls each so manieth chat request."""
    times: int | None = None
    """It befalls so many in all; None: no limit."""

    @classmethod
    def read(cls, text: str) -> Fault:
        """Return a fault written as ``status=429 every=7`` or ``hang times=1``.

        Raises:
            ValueError: Unknown kind or field.
        """
        kinds = get_args(Kind)
        given: dict[str, str] = {name: value for name, _, value in (word.partition("=") for word in text.split())}
        kind = next((name for name in given if name in kinds), None)
        if kind is None:
            raise ValueError(f"fault: expected one of {', '.join(kinds)}, got {text!r}")
        if not given[kind]:
            del given[kind]
        known: dict[str, Callable[[str], Any]] = {"status": int, "every": int, "times": int, "seconds": float}
        known |= dict.fromkeys(("code", "message", "retry_after"), str)
        if unknown := set(given) - set(known):
            raise ValueError(f"fault {text!r}: expected {', '.join(known)}, got {', '.join(sorted(unknown))}")
        return cls(cast(Kind, kind), **{name: known[name](value) for name, value in given.items()})


Request = dict[str, Any]
Answer = str | dict[str, Any] | Fault


class Script:
    """Says what is answered, when, and what goes wrong, and counts: the part of ``ScriptedEndpoint`` without a thread.

    It serves ``answer``: a text, or a function of the request's body that returns a text, a message or a ``Fault``.

    A message is the assistant's, with ``finish_reason`` and ``reasoning_content`` if wanted. ``latency`` is the range
    of seconds an answer takes: uniform, a function of the request alone.
    """

    def __init__(
        self,
        answer: str | Callable[[Request], Answer] = "ok",
        *,
        latency: tuple[float, float] = (0.0, 0.0),
        faults: Sequence[Fault] = (),
        models: Sequence[str] = ("scripted",),
        port: int = 0,
        keep: int = 1000,
    ) -> None:
        self.answer: Callable[[Request], Answer] = (lambda _: answer) if isinstance(answer, str) else answer
        self.latency, self.faults, self.models, self.port = latency, tuple(faults), tuple(models), port
        self.requests: deque[Request] = deque(maxlen=keep)
        """The bodies of the newest chat requests, in the order of their arrival."""
        self.n_requests = self.n_in_flight = self.max_in_flight = self.n_connections = 0
        self._used = [0] * len(self.faults)
        self.connections: set[Connection] = set()
        self.loop: asyncio.AbstractEventLoop

    @property
    def base_url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}/v1"

    async def listen(self) -> None:
        """Take connections, at the same port as before."""
        self.loop = asyncio.get_running_loop()
        self._server = await self.loop.create_server(
            lambda: Connection(self), "127.0.0.1", self.port, backlog=4096, reuse_address=True
        )
        self.port = self._server.sockets[0].getsockname()[1]

    def refuse(self, seconds: float | None = None) -> None:
        """Drop all connections and take none, for a while or for good."""
        self._server.close()
        for connection in list(self.connections):
            connection.drop()
        if seconds is not None:
            self.loop.call_later(seconds, lambda: self.loop.create_task(self.listen()))

    def fault(self) -> Fault | None:
        """Return what befalls the chat request that was counted last."""
        for i, fault in enumerate(self.faults):
            if self.n_requests % fault.every == 0 and (fault.times is None or self._used[i] < fault.times):
                self._used[i] += 1
                return fault
        return None


class Connection(asyncio.Protocol):
    """One client: reads a request, answers it, and reads the next."""

    def __init__(self, endpoint: Script) -> None:
        self._endpoint = endpoint
        self._buffer = b""
        self._ticks: asyncio.TimerHandle | None = None
        self._busy = self._full = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count it."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._endpoint.connections.add(self)
        self._endpoint.n_connections += 1

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop what was under way."""
        self._endpoint.connections.discard(self)
        if self._ticks is not None:
            self._ticks.cancel()
        self._over()

    def pause_writing(self) -> None:
        """Hold back what has no end."""
        self._full = True

    def resume_writing(self) -> None:
        """Go on with it."""
        self._full = False

    def drop(self) -> None:
        """End the connection at once."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Answer a request as soon as it is whole."""
        self._buffer += data
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return
        lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        length = int(headers.get("content-length", 0))
        if len(rest) < length:
            return
        self._buffer = rest[length:]
        method, path, _ = lines[0].split(" ", 2)
        self._request(method, path, headers, rest[:length])

    def _request(self, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        endpoint = self._endpoint
        if (method, path) == ("GET", "/v1/models"):
            self._reply(200, {"object": "list", "data": [{"id": id_, "object": "model"} for id_ in endpoint.models]})
        elif (method, path) == ("GET", "/v1/stats"):
            names = ("n_requests", "n_in_flight", "max_in_flight", "n_connections")
            self._reply(200, {name: getattr(endpoint, name) for name in names})
        elif (method, path) == ("POST", "/v1/chat/completions"):
            self._chat(headers, body)
        else:
            self._reply(404, _error(f"no {method} {path}", "not_found"))

    def _chat(self, headers: dict[str, str], body: bytes) -> None:
        endpoint = self._endpoint
        request: Request = json.loads(body)
        endpoint.n_requests += 1
        endpoint.n_in_flight += 1
        endpoint.max_in_flight = max(endpoint.max_in_flight, endpoint.n_in_flight)
        endpoint.requests.append(request)
        self._busy = True
        model = request.get("model")
        answer: Answer
        if model not in endpoint.models:
            answer = Fault("status", 404, "model_not_found", f"The model {model!r} does not exist.")
        else:
            answer = endpoint.fault() or endpoint.answer(request)
        low, high = endpoint.latency
        wait_s = low + (high - low) * (zlib.crc32(body) / 2**32)
        if wait_s:
            self._ticks = endpoint.loop.call_later(wait_s, self._answer, request, answer, headers, len(body))
        else:
            self._answer(request, answer, headers, len(body))

    def _answer(self, request: Request, answer: Answer, headers: dict[str, str], n_bytes: int) -> None:
        if isinstance(answer, Fault) and answer.kind == "filter":
            answer = {"content": answer.message, "finish_reason": "content_filter"}
        elif isinstance(answer, Fault) and answer.kind == "empty":
            answer = {"content": None}
        if isinstance(answer, Fault):
            self._fail(answer, headers)
        else:
            message = {"content": answer} if isinstance(answer, str) else dict(answer)
            self._reply(200, _completion(request, message, n_bytes))

    def _fail(self, fault: Fault, headers: dict[str, str]) -> None:
        if fault.kind == "status":
            extra = {"Retry-After": fault.retry_after} if fault.retry_after else {}
            self._reply(fault.status, _error(fault.message, fault.code), extra)
        elif fault.kind == "echo":
            key = headers.get("authorization", "")
            self._reply(fault.status, _error(f"refused: {key}", fault.code), {"X-Echo": key})
        elif fault.kind == "malformed":
            self._reply(200, {"object": "chat.completion"})
        elif fault.kind == "text":
            self._send(200, b"<html>Bad gateway</html>", "text/html")
        elif fault.kind == "close":
            self._transport.close()
        elif fault.kind == "cut":
            self._transport.write(_head(200, "application/json", "Content-Length: 1000") + b'{"choices": [{"mess')
            self._transport.close()
        elif fault.kind == "refused":
            self._endpoint.refuse(fault.seconds)
        elif fault.kind != "hang":
            self._transport.write(_head(200, "application/json", "Transfer-Encoding: chunked"))
            self._pour(*((b" " * (1 << 18), 0.001) if fault.kind == "endless" else (b" ", 0.02)))

    def _pour(self, piece: bytes, pause_s: float) -> None:
        if not self._full:
            self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        self._ticks = self._endpoint.loop.call_later(pause_s, self._pour, piece, pause_s)

    def _reply(self, status: int, body: dict[str, Any], extra: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(body).encode(), "application/json", extra)

    def _send(self, status: int, body: bytes, kind: str, extra: dict[str, str] | None = None) -> None:
        lines = [f"{name}: {value}" for name, value in (extra or {}).items()]
        self._over()
        self._transport.write(_head(status, kind, f"Content-Length: {len(body)}", *lines) + body)
        if self._buffer:
            self.data_received(b"")

    def _over(self) -> None:
        self._endpoint.n_in_flight -= self._busy
        self._busy = False


def _head(status: int, kind: str, *lines: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status} Scripted", f"Content-Type: {kind}", *lines, "", ""]).encode("latin-1")


def _error(message: str, code: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": code, "param": None, "code": code}}


def _completion(request: Request, message: dict[str, Any], n_bytes: int) -> dict[str, Any]:
    finish = message.pop("finish_reason", "tool_calls" if message.get("tool_calls") else "stop")
    n_prompt, n_completion = n_bytes // 4, len(str(message.get("content") or "").split())
    return {
        "id": "chatcmpl-scripted",
        "object": "chat.completion",
        "created": 0,
        "model": request.get("model"),
        "choices": [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}],
        "usage": {
            "prompt_tokens": n_prompt,
            "completion_tokens": n_completion,
            "total_tokens": n_prompt + n_completion,
        },
    }
