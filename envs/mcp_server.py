"""An environment as an MCP server, over stdio or streamable HTTP.

A server has one environment and plays one episode at a time, whoever connects: the newest protocol has no sessions that
could tell two clients apart. For several agents start several servers.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from milepost.envs.files import png
from milepost.envs.hosted import Hosted, Reply

if TYPE_CHECKING:
    from mcp.server import Server
    from mcp.types import CallToolResult

PATH = "/mcp"
CLOSE_S = 30.0
"""So long the call under way and the end of the environment may take: a sandbox of its may need half of it."""


class EnvServer:
    """The MCP server of one environment, which lives in a thread of its own.

    Args:
        make: Makes it; called in that thread, where it is also played and closed.
        name: What the server is called.
    """

    def __init__(self, make: Callable[[], Hosted], name: str = "milepost") -> None:
        import mcp.server  # noqa: F401 - that it is missing is told before an environment is made

        self._thread = ThreadPoolExecutor(1, thread_name_prefix="milepost-mcp")
        self._name = name
        self._stuck = False
        with _stdout_kept():
            self._hosted = self._thread.submit(make).result()

    def server(self) -> Server[Any]:
        """Return the server of the ``mcp`` package; the environment is closed when it ends, if it comes to an end."""
        from mcp import types
        from mcp.server import Server

        async def tools(context: Any, params: Any) -> types.ListToolsResult:
            listed = [schema["function"] for schema in self._hosted.tools]
            return types.ListToolsResult(
                tools=[
                    types.Tool(
                        name=f["name"],
                        description=f.get("description"),
                        input_schema=f.get("parameters") or {"type": "object"},
                    )
                    for f in listed
                ]
            )

        async def call(context: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
            return _result(await self._in_thread(self._hosted.call, params.name, params.arguments or {}))

        @asynccontextmanager
        async def lifespan(server: Server[Any]) -> AsyncIterator[dict[str, Any]]:
            try:
                yield {}
            finally:
                await asyncio.to_thread(self._close)

        return Server(
            self._name,
            version=version("milepost"),
            instructions=self._hosted.about,
            lifespan=lifespan,
            on_list_tools=tools,
            on_call_tool=call,
        )

    def serve_stdio(self) -> None:
        """Serve on standard input and output until the input ends; whatever else is printed goes to standard error.

        SIGINT and SIGTERM end the process.
        """
        from mcp.server.stdio import stdio_server

        def leave(number: int) -> None:
            self._close()
            os._exit(128 + number)  # the thread that waits for input would keep the interpreter

        async def serve() -> None:
            server = self.server()
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, leave, number)
            async with stdio_server() as (reads, writes):
                await server.run(reads, writes, server.create_initialization_options())

        with self._left_behind():
            asyncio.run(serve())

    def serve_http(self, host: str, sock: socket.socket) -> None:
        """Serve streamable HTTP at ``/mcp`` of a socket (see ``bound``) until SIGINT or SIGTERM."""
        import uvicorn

        app = self.server().streamable_http_app(streamable_http_path=PATH, host=host)
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)
        with self._left_behind():
            uvicorn.Server(config).run(sockets=[sock])

    def _close(self) -> None:
        try:
            self._thread.submit(self._hosted.close).result(CLOSE_S)
        except TimeoutError:
            self._stuck = True
            print(
                f"milepost: the environment did not end within {CLOSE_S:g} s and is left", file=sys.stderr, flush=True
            )
        self._thread.shutdown(wait=False)

    @contextmanager
    def _left_behind(self) -> Iterator[None]:
        """End the process where a call never ends: its thread would keep the interpreter."""
        try:
            yield
        finally:
            if self._stuck:
                os._exit(130 if isinstance(sys.exception(), KeyboardInterrupt) else 1)

    async def _in_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)


def bound(host: str, port: int) -> socket.socket:
    """Return a socket that listens at the port; 0 is any that is free. Who connects waits until the server runs.

    Raises:
        ValueError: The port is taken, or the host is not this machine's.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        sock = socket.socket(family)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen()
    except (OSError, OverflowError) as error:
        raise ValueError(f"--host {host} --port {port}: expected an address that is free here: {error}") from None
    return sock


def _result(reply: Reply) -> CallToolResult:
    """Return a reply as MCP has it: texts, then pictures, and whether and how the episode ended as structured content.

    The rewards of single turns are not in it: many clients show it to their model.
    """
    from mcp import types

    content: list[types.ContentBlock] = [types.TextContent(text=_whole(text)) for text in reply.texts]
    for image in reply.images:
        content.append(types.ImageContent(data=b64encode(png(image)).decode(), mime_type="image/png"))
    structured = {"done": reply.done} | {key: value for key, value in reply.end.items() if value is not None}
    return types.CallToolResult(content=content, structured_content=structured, is_error=reply.mistake)


def _whole(text: str) -> str:
    """Return a text without half surrogate pairs, which no transport can carry."""
    return text.encode("utf-8", "replace").decode()


@contextmanager
def _stdout_kept() -> Iterator[None]:
    """Send what is printed meanwhile, also by programs that are started, to standard error."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
