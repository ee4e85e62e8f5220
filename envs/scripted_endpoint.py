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
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress

from milepost.envs.scripted_http import Fault, Script
from milepost.sandbox.process import die_with_parent, room_for

__all__ = ["Fault", "Script", "ScriptedEndpoint", "serve_in_process"]


class ScriptedEndpoint(Script):
    """Serves from a thread of this process; see ``Script`` for its arguments."""

    def __enter__(self) -> str:
        """Serve from a thread; return the base URL, which stays the same if it serves again later."""
        self.loop = asyncio.new_event_loop()
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
    command += [word for fault in faults for word in ("--fault", fault)]
    command += ["--function", function] if function else []
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
    endpoint = Script(answer, latency=tuple(args.latency), faults=faults, port=args.port, keep=10)

    async def serve() -> None:
        await endpoint.listen()
        print(endpoint.base_url, flush=True)
        await asyncio.Event().wait()

    with suppress(KeyboardInterrupt):
        asyncio.run(serve())


if __name__ == "__main__":
    main()
