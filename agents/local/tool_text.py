"""Tool calls in what a model reads and writes: its text read as calls, and tools told where its template knows none."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from milepost.envs.core import Call, Message
from milepost.envs.tools import describe

_TAGGED = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
_FENCED = re.compile(r"\A```(?:json)?\s*\n(.*?)\n?```\Z", re.DOTALL)
HOW = "You may call these tools. Write a call as {example}, several one after the other.\nTools:\n{tools}"


def read_calls(text: str, first: int = 0) -> tuple[str, list[Call]]:
    """Return the text without its tool calls, and these; what is no call stays text, broken JSON too.

    Two forms are read: ``<tool_call>{"name": ..., "arguments": {...}}</tool_call>`` anywhere (Hermes, Qwen), and a
    text that is nothing but such an object or a list of them, fenced or not (Llama). Ids are ``call_<first>`` and on.
    """
    found: list[tuple[str, str]] = []

    def take(match: re.Match[str]) -> str:
        calls = _calls(match[1])
        found.extend(calls or ())
        return match[0] if calls is None else ""

    rest = _TAGGED.sub(take, text).strip()
    if not found:
        bare = text.strip()
        fenced = _FENCED.match(bare)
        found, rest = _calls(fenced[1] if fenced else bare) or [], ""
    calls = [Call(f"call_{first + i}", name, arguments) for i, (name, arguments) in enumerate(found)]
    return (rest if calls else text), calls


def as_text(messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> list[Message]:
    """Return a chat for a template without tools: the system message tells them, calls and results are text."""
    told: list[Message] = []
    for message in messages:
        content = message["content"]
        if message["role"] == "tool":
            told.append({"role": "user", "content": f"<tool_response>\n{content}\n</tool_response>"})
            continue
        written = [_written(call["function"]) for call in message.get("tool_calls", ())]
        told.append({"role": message["role"], "content": "\n".join([content] * bool(content) + written)})
    if not tools:
        return told
    example = _written({"name": "NAME", "arguments": {"PARAMETER": "VALUE"}})
    text = HOW.format(example=example, tools=describe(tools))
    if told[0]["role"] == "system":
        return [{"role": "system", "content": f"{told[0]['content']}\n\n{text}"}, *told[1:]]
    return [{"role": "system", "content": text}, *told]


def _written(function: dict[str, Any]) -> str:
    call = {"name": function["name"], "arguments": function["arguments"]}
    return f"<tool_call>{json.dumps(call, ensure_ascii=False)}</tool_call>"


def _calls(text: str) -> list[tuple[str, str]] | None:
    """Return the (name, arguments) of the call, or list of calls, that a text is; None where it is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    calls = []
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            return None
        arguments = item.get("arguments", item.get("parameters"))
        if isinstance(arguments, dict):
            arguments = json.dumps(arguments, ensure_ascii=False)
        if not isinstance(arguments, str):
            return None
        calls.append((item["name"], arguments))
    return calls or None
