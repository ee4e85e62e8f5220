"""The connections of an endpoint: many small pools, replies of bounded size, and no key in what comes back.

Imported on use only: it needs the ``openai`` package and the HTTP client that comes with it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import ssl
from functools import cache
from urllib.parse import quote, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2
import openai

from milepost.envs.refusals import NoReply, Reply

MAX_BYTES = 32 * 2**20
"""A reply that is longer is given up: no completion is."""
CONNECT_S = 60.0
KEEP_S = 4.0
"""An idle connection is closed before the server, often after 5 s, closes it under a request."""
KEEP_ALIVE = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)] + [
    (socket.IPPROTO_TCP, getattr(socket, name), seconds)
    for name, seconds in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 30), ("TCP_KEEPCNT", 5))
    if hasattr(socket, name)
]
"""A connection that waits minutes for an answer stays open in the routers on its way."""
SHORTEST_SECRET = 8
"""``EMPTY`` and the like are no secrets."""


class Connections:
    """The ``openai`` client for one server and one event loop, with its own retries switched off."""

    def __init__(self, base_url: str, key: str | None, per_pool: int) -> None:
        for name in ("httpcore2", "httpx2"):  # at DEBUG they write down headers, in which a server may repeat the key
            logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger(name).level))
        transport = _Pools(base_url, key, per_pool)
        http = httpx2.AsyncClient(
            transport=transport, timeout=httpx2.Timeout(None, connect=CONNECT_S), follow_redirects=True
        )
        self._client = openai.AsyncOpenAI(api_key=key or "none", base_url=base_url, max_retries=0, http_client=http)

    async def send(self, path: str, body: bytes | None, timeout_s: float) -> Reply | NoReply:
        """Send a request once, a POST if it has a body."""
        try:
            async with asyncio.timeout(timeout_s):
                if body is None:
                    reply = await self._client.get(path, cast_to=httpx2.Response)
                else:
                    headers = {"Content-Type": "application/json"}
                    reply = await self._client.post(
                        path, cast_to=httpx2.Response, content=body, options={"headers": headers}
                    )
        except TimeoutError:
            return NoReply(f"no whole answer within {timeout_s:g} s")
        except openai.APIStatusError as error:
            reply = error.response
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            connected = not isinstance(cause, (httpx2.ConnectError, httpx2.ConnectTimeout))
            return NoReply(f"{type(cause).__name__}: {cause}".removesuffix(": "), connected)
        return Reply(reply.status_code, reply.headers, reply.content)

    async def aclose(self) -> None:
        """Close them."""
        await self._client.close()


class _Pools(httpx2.AsyncBaseTransport):
    """Sends each request through the first pool with a free connection, and opens one more when there is none.

    So no request waits for a connection. One pool for thousands would cost tens of milliseconds a request.
    """

    def __init__(self, base_url: str, key: str | None, per_pool: int) -> None:
        self._pools: list[httpx2.AsyncHTTPTransport] = []
        self._busy: list[int] = []
        self._limits = httpx2.Limits(
            max_connections=per_pool, max_keepalive_connections=per_pool, keepalive_expiry=KEEP_S
        )
        self._per_pool = per_pool
        self._proxy = _proxy(base_url)
        self._secrets = _forms(key) if key and len(key) >= SHORTEST_SECRET else set()
        self._open()  # now, for the first costs a tenth of a second, in which requests that were spread would meet

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Return the whole reply, without the key."""
        i = next((i for i, n in enumerate(self._busy) if n < self._per_pool), len(self._busy))
        if i == len(self._busy):
            self._open()
        self._busy[i] += 1
        try:
            response = await self._pools[i].handle_async_request(request)
            try:
                content = await _bounded(response)
            finally:
                await response.aclose()
        finally:
            self._busy[i] -= 1
        headers = [
            (name, self._without_key(value))
            for name, value in response.headers.raw
            if name.lower() not in (b"content-encoding", b"content-length", b"transfer-encoding")
        ]
        return httpx2.Response(response.status_code, headers=headers, content=self._without_key(content))

    def _open(self) -> None:
        self._pools.append(
            httpx2.AsyncHTTPTransport(
                verify=_trusted(), limits=self._limits, proxy=self._proxy, socket_options=KEEP_ALIVE
            )
        )
        self._busy.append(0)

    def _without_key(self, text: bytes) -> bytes:
        for secret in self._secrets:
            text = text.replace(secret, b"***")
        return text

    async def aclose(self) -> None:
        """Close all pools."""
        for pool in self._pools:
            await pool.aclose()


async def _bounded(response: httpx2.Response) -> bytes:
    pieces, n_bytes = [], 0
    async for piece in response.aiter_bytes():
        pieces.append(piece)
        n_bytes += len(piece)
        if n_bytes > MAX_BYTES:
            raise httpx2.ReadError(f"more than {MAX_BYTES >> 20} MB and no end")
    return b"".join(pieces)


def _forms(key: str) -> set[bytes]:
    """Return a key as it may stand in plain text, in JSON and in a URL."""
    quoted = json.dumps(key)[1:-1]
    return {form.encode() for form in (key, quoted, quoted.replace("/", "\\/"), quote(key, safe=""))}


@cache
def _trusted() -> ssl.SSLContext:
    return httpx2.create_ssl_context()


def _proxy(base_url: str) -> str | None:
    """Return the proxy that the environment names for this server."""
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    if host in ("localhost", "::1") or host.startswith("127.") or proxy_bypass(host):
        return None
    proxies = getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")
