"""Tool calls in a model's text, and tools told in a system message."""

from __future__ import annotations

from typing import Any

import pytest

from milepost.agents.local.tool_text import as_text, read_calls

FIND = {"type": "function", "function": {"name": "find", "description": "Find a word."}}


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ('<tool_call>\n{"name": "find", "arguments": {"n": 1}}\n</tool_call>', "", [("call_2", "find", '{"n": 1}')]),
        (
            'Two: <tool_call>{"name": "a", "arguments": {}}</tool_call>\n<tool_call>{"name": "b", "arguments": "{"}',
            "Two:",
            [("call_2", "a", "{}"), ("call_3", "b", "{")],
        ),
        ('{"name": "a", "parameters": {"x": "\u00e9"}}', "", [("call_2", "a", '{"x": "\u00e9"}')]),
        ('```json\n[{"name": "a", "arguments": {}}]\n```', "", [("call_2", "a", "{}")]),
        (
            '<tool_call>{"name": </tool_call><tool_call>{"name": "a", "arguments": {}}</tool_call>',
            '<tool_call>{"name": </tool_call>',
            [("call_2", "a", "{}")],
        ),
        (' <tool_call>{"name": "a", "arguments": {', ' <tool_call>{"name": "a", "arguments": {', []),
        ('{"name": "Ada", "age": 36}', '{"name": "Ada", "age": 36}', []),
        ("[" * 5000, "[" * 5000, []),
        ("find(n=1)", "find(n=1)", []),
        ("[]", "[]", []),
    ],
)
def test_a_models_text_is_read_as_calls_and_broken_ones_stay_text(text: str, content: str, calls: list[Any]) -> None:
    assert read_calls(text, 2) == (content, calls)


def test_a_template_without_tools_is_told_them_in_the_system_message_and_reads_calls_as_text() -> None:
    call = {"id": "call_0", "type": "function", "function": {"name": "find", "arguments": {"n": 1}}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": "Well.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_0", "content": "nothing"},
    ]
    told = as_text(messages, [FIND])
    assert told[0]["content"].startswith("Be brief.\n\nYou may call these tools.")
    assert told[0]["content"].endswith("\nfind(): Find a word.")
    assert told[1:] == [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": 'Well.\n<tool_call>{"name": "find", "arguments": {"n": 1}}</tool_call>'},
        {"role": "user", "content": "<tool_response>\nnothing\n</tool_response>"},
    ]
    assert as_text(messages[:1], []) == messages[:1]
    assert [message["role"] for message in as_text(messages[1:2], [FIND])] == ["system", "user"]
