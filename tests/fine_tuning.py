"""The form of a fine-tuning file, as strictly as the services check it."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

CALL_KEYS = {"id", "type", "function"}


def checked(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file of chats; raise AssertionError where a service would refuse it."""
    lines = path.read_bytes().decode("utf-8").split("\n")
    assert lines.pop() == "", "the last line has its end"
    return [_record(json.loads(line, parse_constant=_refuse)) for line in lines]


def _record(record: dict[str, Any]) -> dict[str, Any]:
    assert record.keys() <= {"messages", "tools"}
    json.dumps(record, ensure_ascii=False).encode()  # refuses a lone surrogate
    names = {tool["function"]["name"] for tool in record.get("tools", ())}
    assert all(tool["type"] == "function" for tool in record.get("tools", ()))
    assert record.get("tools") != []
    messages = record["messages"]
    roles = [message["role"] for message in messages]
    assert "system" not in roles[1:]
    assert roles[-1] == "assistant"
    owed: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            assert message.keys() == {"role", "tool_call_id", "content"}
            assert isinstance(message["content"], str)
            assert owed.pop(0) == message["tool_call_id"]
            continue
        assert not owed, f"calls {owed} have no answer"
        if message["role"] == "assistant":
            assert message.keys() <= {"role", "content", "tool_calls"}
            owed = [_call(call, names) for call in message.get("tool_calls", ())]
            assert message.get("tool_calls") != []
            assert isinstance(message["content"], str)
        else:
            assert message.keys() == {"role", "content"}
            if not isinstance(message["content"], str):
                assert message["role"] == "user"
                assert [_part(part) for part in message["content"]]
    return record


def _call(call: dict[str, Any], names: set[str]) -> str:
    assert call.keys() == CALL_KEYS
    assert call["type"] == "function"
    assert isinstance(json.loads(call["function"]["arguments"]), dict)
    assert call["function"].keys() == {"name", "arguments"}
    assert call["function"]["name"] in names
    return call["id"]


def _part(part: dict[str, Any]) -> bool:
    if part["type"] == "text":
        return part.keys() == {"type", "text"} and bool(part["text"])
    assert part.keys() == {"type", "image_url"}
    found = re.fullmatch(r"data:image/png;base64,([A-Za-z0-9+/]+=*)", part["image_url"]["url"])
    assert found
    return base64.b64decode(found[1], validate=True).startswith(b"\x89PNG")


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")
