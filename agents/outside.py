"""What an agent outside of this package is sent, and what it answers, in OpenAI's form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from milepost.agents.core import Request
from milepost.envs.completions import wire_messages
from milepost.envs.core import Action, Call, Message, Usage


def sent_messages(request: Request) -> list[Message]:
    """Return copies of a request's messages, images as data URLs."""
    return wire_messages(request.messages, send_reasoning=True)


def read_message(message: Mapping[str, Any], n_messages: int = 0) -> Action:
    """Return the action that a message says: its ``content``, ``tool_calls`` and ``reasoning_content``.

    A call without an id gets one that is made of ``n_messages``, the number of messages that came before.

    Raises:
        ValueError: What is wrong: expected, got.
    """
    if not {"content", "tool_calls"} & set(message):
        raise ValueError(f"expected a message with content or tool_calls, got the keys {sorted(map(str, message))}")
    reasoning = message.get("reasoning_content")
    if reasoning is not None and not isinstance(reasoning, str):
        raise ValueError(f"reasoning_content: expected a text, got {told(reasoning)}")
    calls = message.get("tool_calls") or ()
    if not isinstance(calls, (list, tuple)):
        raise ValueError(f"tool_calls: expected a list, got {told(calls)}")
    read = tuple(_call(call, f"call_{n_messages}_{i}") for i, call in enumerate(calls))
    return Action(_text(message.get("content")), calls=read, reasoning=reasoning, finish="calls" if read else "stop")


def timed(action: Action, seconds: float) -> Action:
    """Return an action that says how long its agent took, unless it says so itself."""
    return action if action.usage is not None else replace(action, usage=Usage(seconds=seconds))


def told(value: Any) -> str:
    """Return a value for an error's line: its type and its beginning."""
    return f"{type(value).__name__} {repr(value)[:80]}" if value is not None else "None"


def _text(content: Any) -> str:
    """Return the text of a content: a text, None, or a list of parts."""
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, list) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in content):
        return "".join(part["text"] for part in content)
    raise ValueError(f"content: expected a text, got {told(content)}")


def _call(call: Any, default_id: str) -> Call:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        form = '{"id": ..., "function": {"name": ..., "arguments": ...}}'
        raise ValueError(f"tool_calls: expected {form}, got {told(call)}")
    arguments = function.get("arguments", "{}")
    return Call(
        str(call.get("id") or default_id),
        function["name"],
        arguments if isinstance(arguments, str) else json.dumps(arguments),
    )
