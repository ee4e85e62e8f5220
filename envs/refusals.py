"""What a server says instead of an answer, and whose fault that is."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

from milepost.sandbox.core import EndpointError

RETRIED = frozenset({408, 409, 425, 429})
OUT_OF_QUOTA = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
TOO_LONG = ("context length", "context size", "context window", "maximum context", "prompt is too long")


class Unreachable(EndpointError):
    """No connection could be made, and none ever worked: the address is wrong or no server runs there."""


class ContextLength(ValueError):
    """The messages are longer than the model's context."""


class Malformed(Exception):
    """The reply is no completion."""


class Reply(NamedTuple):
    """What a server sent."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class NoReply(NamedTuple):
    """Why there is none; not an exception, so that no traceback leads to a request and its key."""

    text: str
    connected: bool = True


class Failure(NamedTuple):
    """What went wrong in one try."""

    text: str
    error: type[Exception] = EndpointError
    """What it becomes when there are no more tries: an EndpointError is worth another one, all else is not."""
    wait_s: float | None = None
    """What the server asked for."""
    filtered: bool = False
    """A filter refused the request: that is the answer."""


def parsed(reply: Reply | NoReply) -> Any:
    """Return a reply's JSON, or the Failure that it is."""
    if isinstance(reply, NoReply):
        return Failure(reply.text, EndpointError if reply.connected else Unreachable)
    text = reply.content.decode("utf-8", "replace")
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        if reply.status < 400:
            return Failure(f"not JSON: {shortened(text)!r}")
        body = None
    if reply.status < 400:
        return body
    return _failure(reply.status, body.get("error", body) if isinstance(body, dict) else text, _wait_s(reply.headers))


def malformed(body: Any, why: str) -> Failure:
    """Return what JSON that is no completion says; some servers send their errors with a status of 200."""
    detail = body.get("error") if isinstance(body, dict) else None
    code = str(detail.get("code")) if isinstance(detail, dict) else ""
    if len(code) == 3 and code.isdecimal() and 400 <= int(code) < 600:
        return _failure(int(code), detail, None)
    return Failure(f"{why}: {shortened(json.dumps(body))}")


def _failure(status: int, detail: Any, wait_s: float | None) -> Failure:
    fields = detail if isinstance(detail, dict) else {"message": detail or ""}
    said = f"{status}: {shortened(str(fields.get('message') or fields.get('detail') or json.dumps(detail)))}"
    codes = {str(fields.get(name)) for name in ("code", "type")}
    if status == 402 or (status == 429 and codes & OUT_OF_QUOTA):
        return Failure(f"{said} (the account's quota is used up)", ValueError)
    if status in RETRIED or status >= 500:
        return Failure(said + (f" (wait {wait_s:.0f} s)" if wait_s else ""), wait_s=wait_s)
    if "content_filter" in codes:
        return Failure(said, filtered=True)
    too_long = any(words in said.lower() for words in TOO_LONG)
    if (
        status == 413
        or codes & {"context_length_exceeded", "exceed_context_size_error"}
        or (status == 400 and too_long)
    ):
        return Failure(said, ContextLength)
    return Failure(said, ValueError)


def _wait_s(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that the server asks to wait: a number of them, or a date."""
    text = headers.get("retry-after", "")
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, TypeError):
            return None
    return max(0.0, seconds) if seconds < float("inf") else None


def shortened(text: str, n: int = 300) -> str:
    """Return the beginning of a text as one line."""
    line = " ".join(text[: 4 * n].split())
    return line if len(line) <= n else line[:n] + " ..."
