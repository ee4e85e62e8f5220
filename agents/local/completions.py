"""Replies in the OpenAI chat form, whole or as events of a stream."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from milepost.agents.local.chat_api import Chat, Reply
from milepost.agents.local.tool_text import read_calls


def completion(chat: Chat, reply: Reply, model: str, number: int) -> dict[str, Any]:
    """Return the answer to a chat as a ``chat.completion``."""
    action = reply.action
    message: dict[str, Any] = {"role": "assistant", "content": action.text}
    finish = action.finish
    if chat.tools:
        n_before = sum(len(m.get("tool_calls", ())) for m in chat.messages)
        content, calls = read_calls(action.text, n_before)
        if calls:
            functions = [(c.id, {"name": c.name, "arguments": c.arguments}) for c in calls]
            message["tool_calls"] = [{"id": id_, "type": "function", "function": f} for id_, f in functions]
            message["content"], finish = content or None, "calls"
    choice: dict[str, Any] = {
        "index": 0,
        "message": message,
        "finish_reason": "tool_calls" if finish == "calls" else finish,
        "logprobs": None,
    }
    if chat.logprobs:
        tokens = [
            {"token": s.text, "bytes": list(s.bytes), "logprob": s.logprob, "top_logprobs": []} for s in reply.spoken
        ]
        choice["logprobs"] = {"content": tokens}
    told: dict[str, Any] = {}
    if chat.token_ids and action.tokens is not None:
        told["prompt_token_ids"], choice["token_ids"] = list(reply.prompt), action.tokens.ids.tolist()
    usage = action.usage
    assert usage is not None
    return told | {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [choice],
        "usage": {
            "prompt_tokens": usage.prompt,
            "completion_tokens": usage.completion,
            "total_tokens": usage.prompt + usage.completion,
            "prompt_tokens_details": {"cached_tokens": usage.cached},
        },
    }


def events(chat: Chat, whole: dict[str, Any]) -> Iterator[str]:
    """Yield a completion as server-sent events: the role, all of the message, the end, the usage where asked for."""
    (choice,) = whole["choices"]
    message = dict(choice["message"])
    if "tool_calls" in message:
        message["tool_calls"] = [{"index": i, **call} for i, call in enumerate(message["tool_calls"])]
    head = {key: whole[key] for key in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
    for delta, finish, logprobs in (
        ({"role": message.pop("role"), "content": ""}, None, None),
        (message, None, choice["logprobs"]),
        ({}, choice["finish_reason"], None),
    ):
        part = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": logprobs}
        yield f"data: {json.dumps(head | {'choices': [part]})}\n\n"
    if chat.stream_usage:
        yield f"data: {json.dumps(head | {'choices': [], 'usage': whole['usage']})}\n\n"
    yield "data: [DONE]\n\n"
