"""A chat endpoint without a model: answers from a function, late and broken as told, for tests and benchmarks.

``with ScriptedEndpoint("climb") as base_url`` serves from a thread of this process, ``serve_in_process("climb")`` and
``python -m milepost.envs.scripted_endpoint --answer climb`` from a process of its own. It speaks ``/chat/completions``
and ``/models`` of the OpenAI API over HTTP/1.1; ``GET /stats`` returns what it counted.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress

from milepost.envs.scripted_http import Answer, Connection, Fault, Request
from milepost.sandbox.process import die_with_parent, room_for


class ScriptedEndpoint:
    """Serves ``answer``: a text, or a function of the request's body that returns a text, a message or a ``Fault``.

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
        self.loop = asyncio.new_event_loop()

    def __enter__(self) -> str:
        """Serve from a thread; return the base URL."""
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), name="scripted-endpoint", daemon=True)
        self._thread.start()
        started.wait()
        if self.loop.is_closed():
            raise OSError(f"cannot listen on port {self.port}")
        return self.base_url

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()

    @property
    def base_url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}/v1"

    def _run(self, started: threading.Event) -> None:
        try:
            self.loop.run_until_complete(self.listen())
            self.loop.call_soon(started.set)
            self.loop.run_forever()
            self.refuse()
            self.loop.run_until_complete(asyncio.sleep(0))
        finally:
            self.loop.close()
            started.set()

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


@contextmanager
def serve_in_process(
    answer: str = "ok",
    *,
    latency: tuple[float, float] = (0.0, 0.0),
    faults: Sequence[str] = (),
    function: str | None = None,
) -> Generator[str]:
    """Serve from a process that ends with this one; yield the base URL.

    ``function`` (``module:name``) answers in the place of the text; ``faults`` are as ``Fault.read`` reads them.
    """
    command = [sys.executable, "-m", "milepost.envs.scripted_endpoint", "--parent", str(os.getpid())]
    command += ["--latency", *map(str, latency), "--answer", answer]
    command += [word for fault in faults for word in ("--fault", fault)] + (
        ["--function", function] if function else []
    )
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            base_url = process.stdout.readline().strip()
            if not base_url:
                raise OSError("the scripted endpoint did not start")
            yield base_url
        finally:
            process.kill()


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until the process is ended; print the base URL."""
    parser = argparse.ArgumentParser(prog="python -m milepost.envs.scripted_endpoint", description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", type=float, nargs=2, default=(0.0, 0.0), metavar=("LOW", "HIGH"))
    parser.add_argument("--answer", default="ok", help="the text of every answer")
    parser.add_argument("--function", help="module:name of a function that answers in its place")
    parser.add_argument("--fault", action="append", default=[], help="for example 'status=429 every=7'")
    parser.add_argument("--parent", type=int, help="end with this process")
    args = parser.parse_args(argv)
    if args.parent is not None:
        die_with_parent(args.parent)
    room_for(8192)
    answer = args.answer
    if args.function:
        module, _, name = args.function.partition(":")
        answer = getattr(importlib.import_module(module), name)
    faults = [Fault.read(text) for text in args.fault]
    endpoint = ScriptedEndpoint(answer, latency=tuple(args.latency), faults=faults, port=args.port, keep=10)

    async def serve() -> None:
        await endpoint.listen()
        print(endpoint.base_url, flush=True)
        await asyncio.Event().wait()

    with suppress(KeyboardInterrupt):
        asyncio.run(serve())


if __name__ == "__main__":
    main()
