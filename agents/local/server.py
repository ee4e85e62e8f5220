"""Serve a local model as an OpenAI-compatible endpoint: whatever speaks to such an endpoint can use it."""

from __future__ import annotations

import asyncio
import errno
import json
import socket
import threading
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from milepost.agents.local.chat_api import Chat, Refused, Reply, read
from milepost.agents.local.chats import Chats
from milepost.agents.local.completions import completion, events
from milepost.agents.threads import Worker

MAX_BODY = 32 * 2**20
"""Bytes of the longest request that is read."""
GRACE_S = 1
"""So long a stopped server waits for answers under way."""


class Batches:
    """Take chats to the model, all that came while it was busy in one go; every call of it is made in one thread."""

    def __init__(self, chats: Chats) -> None:
        self._chats = chats
        self._worker = Worker("milepost-serve")
        self._waiting: list[tuple[Chat, asyncio.Future[Reply | Refused]]] = []
        self._work: asyncio.Task[None] | None = None

    async def ask(self, chat: Chat) -> Reply | Refused:
        """Return the model's answer; whoever cancels this is no longer waited for, and disturbs no other."""
        answer: asyncio.Future[Reply | Refused] = asyncio.get_running_loop().create_future()
        self._waiting.append((chat, answer))
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._answer())
        try:
            return await answer
        finally:
            chat.gone = True

    async def close(self) -> None:
        """Drop what waits, and wait for the model to end the token it is at."""
        for chat, answer in self._waiting:
            chat.gone = True
            answer.cancel()
        if self._work is not None:
            await asyncio.gather(self._work, return_exceptions=True)
        self._worker.stop()
        await self._worker.join(60.0)

    async def _answer(self) -> None:
        await asyncio.sleep(0)  # what arrives in this round of the loop is answered together
        while self._waiting:
            self._waiting = [waiting for waiting in self._waiting if not waiting[0].gone]
            batch, self._waiting = self._waiting[: self._chats.slots], self._waiting[self._chats.slots :]
            try:
                replies: list[Any] = list(await self._worker.run(self._chats.answer, [chat for chat, _ in batch]))
            except Exception as error:
                traceback.print_exc()
                replies = [Refused(f"the model failed: {type(error).__name__}: {error}", status=500)] * len(batch)
            for (_, answer), reply in zip(batch, replies, strict=True):
                if not answer.done():
                    answer.set_result(reply)


def application(chats: Chats, name: str) -> Starlette:
    """Return the ASGI application that answers as the model ``name``."""
    model = {"id": name, "object": "model", "created": 0, "owned_by": "milepost"}
    state: dict[str, Any] = {"n": 0}

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        state["batches"] = Batches(chats)
        try:
            yield
        finally:
            await state["batches"].close()

    async def models(request: Request) -> Response:
        return _json({"object": "list", "data": [model]})

    async def one_model(request: Request) -> Response:
        if (wanted := request.path_params["name"]) != name:
            raise Refused(f"model {wanted!r} is not served here; there is {name!r}", "model", status=404)
        return _json(model)

    async def chat_completions(request: Request) -> Response:
        chat = read(await _body(request), name)
        reply = await _while_connected(request, state["batches"].ask(chat))
        if reply is None:
            return Response(status_code=499)  # nobody reads it
        if isinstance(reply, Refused):
            raise reply
        state["n"] += 1
        whole = completion(chat, reply, name, state["n"])
        if chat.stream:
            return Response("".join(events(chat, whole)), media_type="text/event-stream")
        return _json(whole)

    return Starlette(
        routes=[
            Route("/v1/models", models),
            Route("/v1/models/{name:path}", one_model),
            Route("/v1/chat/completions", chat_completions, methods=["POST"]),
        ],
        exception_handlers={Refused: _refused, HTTPException: _refused, Exception: _failed},
        lifespan=lifespan,
    )


def _json(value: Any, status: int = 200) -> Response:
    """Return JSON in ASCII, which can also say half a surrogate pair."""
    return Response(json.dumps(value), status, media_type="application/json")


async def _refused(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        there = "GET /v1/models, POST /v1/chat/completions"
        text = f"{request.method} {request.url.path}: {error.detail}; there is {there}"
        error = Refused(text, status=error.status_code)
    assert isinstance(error, Refused)
    return _json(error.body(), error.status)


async def _failed(request: Request, error: Exception) -> Response:
    traceback.print_exception(error)
    return _json(Refused(f"{type(error).__name__}: {error}", status=500).body(), 500)


async def _body(request: Request) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            raise Refused(f"the body is longer than {MAX_BODY} bytes", status=413)
        parts.append(part)
    return b"".join(parts)


async def _while_connected(request: Request, answering: Any) -> Reply | Refused | None:
    """Return the answer, or None once the client has left."""

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    answer, leaving = asyncio.ensure_future(answering), asyncio.ensure_future(left())
    try:
        await asyncio.wait((answer, leaving), return_when=asyncio.FIRST_COMPLETED)
        return answer.result() if answer.done() else None
    finally:
        for task in (answer, leaving):
            task.cancel()
        await asyncio.gather(answer, leaving, return_exceptions=True)


def listen(host: str, port: int) -> tuple[socket.socket, str]:
    """Return a socket that listens, and the base URL that a client is given.

    Raises:
        ValueError: The port is in use or not allowed, or there is no such host.
    """
    if not 0 <= port < 2**16:
        raise ValueError(f"port: expected 0..65535, got {port}")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        why = "it is in use; --port 0 takes a free one" if error.errno == errno.EADDRINUSE else error.strerror
        raise ValueError(f"cannot listen on {host} port {port}: {why}") from None
    shown = f"[{host}]" if ":" in host else host
    return listening, f"http://{shown}:{listening.getsockname()[1]}/v1"


def server(app: Starlette) -> uvicorn.Server:
    """Return the server that ``run(sockets=[...])`` runs until ``should_exit``, or until a signal."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            log_level="critical",
            access_log=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=GRACE_S,
        )
    )


@contextmanager
def serving(model: Any, tokenizer: Any, *, name: str = "local", **options: Any) -> Iterator[str]:
    """Serve a model in a thread of this process and yield the base URL; ``options`` are those of ``Chats``."""
    with running(application(Chats(model, tokenizer, **options), name)) as base_url:
        yield base_url


@contextmanager
def running(app: Starlette) -> Iterator[str]:
    """Run an application on a free port of this machine, in a thread, and yield its base URL."""
    listening, base_url = listen("127.0.0.1", 0)
    runner = server(app)
    thread = threading.Thread(target=runner.run, args=([listening],), name="milepost-server", daemon=True)
    thread.start()
    try:
        yield base_url  # the socket listens already: a client that is early waits
    finally:
        runner.should_exit = True
        thread.join()
