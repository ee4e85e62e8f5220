"""Chat messages as the JSON that servers take, and their completions as actions."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import tomllib
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from milepost.envs.core import Action, Call, Finish, Message, Tokens, Usage
from milepost.envs.refusals import Malformed

FINISHES: dict[str, Finish] = {"length": "length", "content_filter": "filter"}
BROKEN = ("error", "abort")
"""Reasons to finish that are the server's."""


class Price(NamedTuple):
    """What a million tokens cost, in a currency of the user's choice."""

    prompt: float
    cached: float
    """Of the prompt, those that the server had in its cache."""
    completion: float


def read_prices(path: str | Path) -> dict[str, Price]:
    """Return the prices that a TOML file has.

    It has a table per model, ``["gpt-x.y"]``, with ``prompt``, ``completion`` and ``cached``.
    Without that, a cached token costs what any of the prompt does.

    Raises:
        ValueError: The file is no such table.
    """
    try:
        tables = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"prices {path}: {error}") from None
    return {model: _price(f"prices {path}, {model!r}", table) for model, table in tables.items()}


def _price(where: str, table: Any) -> Price:
    names = set(table) if isinstance(table, dict) else set()
    if not {"prompt", "completion"} <= names <= set(Price._fields):
        got = ", ".join(sorted(names)) if names else repr(table)
        raise ValueError(
            f"{where}: expected prompt, completion and perhaps cached, got {got}; "
            'the name of a model with a dot is quoted: ["gpt-x.y"]'
        )
    for name, value in table.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
            raise ValueError(f"{where}, {name}: expected a price per million tokens, got {value!r}")
    return Price(float(table["prompt"]), float(table.get("cached", table["prompt"])), float(table["completion"]))


async def request_body(messages: Sequence[Message], fields: Mapping[str, Any], *, send_reasoning: bool) -> bytes:
    """Return a chat request as JSON; a field that is None is left out. Images are packed in a thread."""

    def pack() -> bytes:
        body = {name: value for name, value in fields.items() if value is not None}
        return json.dumps(body | {"messages": wire_messages(messages, send_reasoning)}).encode()

    if any(isinstance(message.get("content"), list) for message in messages):
        return await asyncio.to_thread(pack)
    return pack()


def wire_messages(messages: Sequence[Message], send_reasoning: bool = False) -> list[Message]:
    """Return messages as servers take them.

    Images become PNG data URLs; those of tool results move into a message of the user behind the results, because a
    result is text. Arguments that are no JSON object, which servers refuse to read back, are wrapped as
    ``{"text": ...}``.
    """
    wired: list[Message] = []
    pictures: list[dict[str, Any]] = []
    for message in messages:
        if pictures and message["role"] != "tool":
            wired.append({"role": "user", "content": pictures})
            pictures = []
        message = dict(message)
        if not send_reasoning:
            message.pop("reasoning_content", None)
        if message.get("tool_calls"):
            message["tool_calls"] = [_readable(call) for call in message["tool_calls"]]
        if isinstance(message.get("content"), list):
            message["content"] = parts = [_wire_part(part) for part in message["content"]]
            if message["role"] == "tool":
                pictures += [part for part in parts if part["type"] != "text"]
                message["content"] = "\n".join(part["text"] for part in parts if part["type"] == "text")
        wired.append(message)
    return [*wired, {"role": "user", "content": pictures}] if pictures else wired


def _readable(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    try:
        if isinstance(json.loads(function["arguments"]), dict):
            return call
    except (ValueError, RecursionError):
        pass
    text = function["arguments"]
    return {**call, "function": {**function, "arguments": json.dumps({"text": text}) if text.strip() else "{}"}}


def _wire_part(part: dict[str, Any]) -> dict[str, Any]:
    if part.get("type") != "image":
        return part
    return {"type": "image_url", "image_url": {"url": _data_url(part["image"])}}


def _data_url(image: Any) -> str:
    try:
        from PIL import Image
    except ImportError:
        raise gym.error.DependencyNotInstalled("Pictures need pillow: pip install 'milepost[images]'") from None
    png = io.BytesIO()
    Image.fromarray(np.asarray(image)).save(png, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()


def action_of(reply: Any, messages: Sequence[Message], seconds: float, price: Price | None) -> Action:
    """Return a completion as an action.

    Raises:
        Malformed: It has no choice, or the server says that it broke off.
    """
    choices = reply.get("choices") if isinstance(reply, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise Malformed("no choices")
    why = choice.get("finish_reason")
    if why in BROKEN:
        raise Malformed(f"it finished with {why!r}")
    calls = _calls(message.get("tool_calls"), messages)
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    return Action(
        text=_text(message.get("content")) or _text(message.get("refusal")),
        calls=calls,
        reasoning=_text(reasoning) if isinstance(reasoning, str) else None,
        finish=FINISHES.get(str(why), "calls" if calls else "stop"),
        tokens=_tokens(reply, choice),
        usage=_usage(reply.get("usage"), seconds, price),
    )


def _text(content: Any) -> str:
    """Return the text of a content; halves of surrogate pairs, which no file can hold, become U+FFFD."""
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(_text(text) for text in texts if isinstance(text, str))
    if not isinstance(content, str):
        return ""
    return content if content.isascii() else content.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _calls(written: Any, messages: Sequence[Message]) -> tuple[Call, ...]:
    """Return tool calls as written; one without an id of its own gets the next free ``call_N``."""
    if not isinstance(written, list):
        return ()
    n = sum(len(message.get("tool_calls") or ()) for message in messages)
    own = [_text(call.get("id")) if isinstance(call, dict) else "" for call in written]
    calls: list[Call] = []
    for i, (call, id_) in enumerate(zip(written, own, strict=True)):
        function = call.get("function") if isinstance(call, dict) else None
        function = function if isinstance(function, dict) else {}
        arguments = function.get("arguments")
        text = _text(arguments) if isinstance(arguments, str) else "" if arguments is None else json.dumps(arguments)
        if not id_ or id_ in own[:i]:
            id_ = next(free for k in count(n + i) if (free := f"call_{k}") not in {*own, *(c.id for c in calls)})
        calls.append(Call(id_, _text(function.get("name")), text))
    return tuple(calls)


def _usage(usage: Any, seconds: float, price: Price | None) -> Usage:
    if not isinstance(usage, dict):
        return Usage(seconds=seconds)
    details = usage.get("prompt_tokens_details")
    prompt, completion = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    cached = min(prompt, _count(details.get("cached_tokens")) if isinstance(details, dict) else 0)
    cost = None
    if price is not None:
        cost = ((prompt - cached) * price.prompt + cached * price.cached + completion * price.completion) / 1e6
    return Usage(prompt, cached, completion, seconds, cost)


def _count(number: Any) -> int:
    return number if isinstance(number, int) and 0 <= number < 2**53 else 0


def _tokens(reply: dict[str, Any], choice: dict[str, Any]) -> Tokens | None:
    """Return the sampled tokens where the server gives the prompt's ids, the answer's and their log-probabilities."""
    prompt, ids = reply.get("prompt_token_ids") or choice.get("prompt_token_ids"), choice.get("token_ids")
    logprobs = choice.get("logprobs")
    rows = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not (isinstance(prompt, list) and isinstance(ids, list) and isinstance(rows, list) and len(rows) == len(ids)):
        return None
    try:
        values = np.array([row["logprob"] for row in rows], np.float32)
        return Tokens(0, np.array(prompt, np.int32), np.array(ids, np.int32), values)
    except (TypeError, ValueError, KeyError, OverflowError):
        return None
