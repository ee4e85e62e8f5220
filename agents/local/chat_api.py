"""The OpenAI chat form, in and out: a request's body as a ``Chat``, a reply as a completion, refusals as errors."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from milepost.agents.local.tool_text import read_calls
from milepost.envs.core import Action, Message

ROLES = ("system", "developer", "user", "assistant", "tool")
NEUTRAL: dict[str, Any] = {
    "top_p": 1,
    "n": 1,
    "top_logprobs": 0,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "logit_bias": {},
    "response_format": {"type": "text"},
}
"""Options that would change the answer and that nothing here reads: their only value."""


class Refused(Exception):
    """A request that is answered by an error."""

    def __init__(self, text: str, param: str | None = None, *, status: int = 400, code: str | None = None) -> None:
        super().__init__(text)
        self.param, self.status, self.code = param, status, code

    def body(self) -> dict[str, Any]:
        """Return the error in the OpenAI form."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


@dataclass(eq=False)
class Chat:
    """What one request asks for."""

    messages: list[Message]
    tools: list[dict[str, Any]] = field(default_factory=list)
    temperature: float = 1.0
    max_tokens: int | None = None
    """None: what the server allows and the context has room for."""
    stop: tuple[str, ...] = ()
    seed: int | None = None
    logprobs: bool = False
    token_ids: bool = False
    """Whether the answer tells the ids of all tokens, as vLLM's ``return_token_ids`` does."""
    stream: bool = False
    stream_usage: bool = False
    gone: bool = False
    """Whether the client has left, so that nobody wants the answer."""


class Spoken(NamedTuple):
    """A sampled token, for a reader."""

    text: str
    bytes: bytes
    logprob: float
    """In nats."""


class Reply(NamedTuple):
    """What the model answers."""

    action: Action
    prompt: Sequence[int]
    """The chat as tokens."""
    spoken: Sequence[Spoken]
    """Every sampled token, where the chat asked for them."""


def read(body: bytes, served: str) -> Chat:
    """Return what a request's body asks for.

    Raises:
        Refused: It is no JSON object, has a field of the wrong type, or wants what is not here.
    """
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(f"the body is no JSON: {error}") from None
    if not isinstance(asked, dict):
        raise Refused(f"the body: expected a JSON object, got {_told(asked)}")
    asked = {key: value for key, value in asked.items() if value is not None}
    model = _field(asked, "model", str, served)
    if model != served:
        raise Refused(
            f"model {model!r} is not served here; there is {served!r}", "model", status=404, code="model_not_found"
        )
    for name, only in NEUTRAL.items():
        if asked.get(name, only) != only:
            raise Refused(
                f"{name}: expected {json.dumps(only)}, which is all that is served, got {_told(asked[name])}", name
            )
    temperature = _field(asked, "temperature", (int, float), 1.0)
    if not (temperature == 0 or 1e-6 <= temperature <= 1e6):
        raise Refused(f"temperature: expected 0, or 1e-6..1e6, got {_told(temperature)}", "temperature")
    return Chat(
        messages=_messages(asked.get("messages")),
        tools=_tools(asked),
        temperature=float(temperature),
        max_tokens=_max_tokens(asked),
        stop=_stop(asked),
        seed=_field(asked, "seed", int, None),
        logprobs=_field(asked, "logprobs", bool, False),
        token_ids=_field(asked, "return_token_ids", bool, False),
        stream=_field(asked, "stream", bool, False),
        stream_usage=bool(_field(asked, "stream_options", dict, {}).get("include_usage")),
    )


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


def _field(asked: dict[str, Any], name: str, kind: Any, default: Any) -> Any:
    value = asked.get(name, default)
    if value is default:
        return default
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        names = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise Refused(f"{name}: expected {names}, got {_told(value)}", name)
    return value


def _max_tokens(asked: dict[str, Any]) -> int | None:
    name = "max_completion_tokens" if "max_completion_tokens" in asked else "max_tokens"
    value: int | None = _field(asked, name, int, None)
    if value is not None and value < 1:
        raise Refused(f"{name}: expected 1 or more, got {value}", name)
    return value


def _stop(asked: dict[str, Any]) -> tuple[str, ...]:
    value = asked.get("stop", [])
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        raise Refused(f"stop: expected a text or a list of texts, none empty, got {_told(value)}", "stop")
    return tuple(texts)


def _tools(asked: dict[str, Any]) -> list[dict[str, Any]]:
    tools: list[dict[str, Any]] = _field(asked, "tools", list, [])
    choice = asked.get("tool_choice", "auto")
    if choice not in ("auto", "none"):
        raise Refused(f"tool_choice: expected 'auto' or 'none', got {_told(choice)}", "tool_choice")
    for i, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise Refused(
                f"tools[{i}]: expected {{'type': 'function', 'function': {{'name': ...}}}}, got {_told(tool)}", "tools"
            )
    return tools if choice == "auto" else []


def _messages(value: Any) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise Refused(f"messages: expected a list of one or more, got {_told(value)}", "messages")
    return [_message(message, f"messages[{i}]") for i, message in enumerate(value)]


def _message(message: Any, where: str) -> Message:
    """Return a message with text as content, and the arguments of its calls as chat templates want them: read."""
    role = message.get("role") if isinstance(message, dict) else None
    if role not in ROLES:
        raise Refused(
            f"{where}: expected an object with a role of {', '.join(ROLES)}, got {_told(message)}", "messages"
        )
    found: Message = {"role": "system" if role == "developer" else role, "content": _text(message, where)}
    found |= {
        key: message[key] for key in ("tool_call_id", "name", "reasoning_content") if message.get(key) is not None
    }
    if calls := message.get("tool_calls"):
        try:
            functions = [(call.get("id"), call["function"]["name"], call["function"]["arguments"]) for call in calls]
        except (TypeError, KeyError, AttributeError):
            raise Refused(f"{where}.tool_calls: expected a list of calls, got {_told(calls)}", "messages") from None
        found["tool_calls"] = [
            {"id": id_, "type": "function", "function": {"name": name, "arguments": _arguments(text)}}
            for id_, name, text in functions
        ]
    return found


def _text(message: dict[str, Any], where: str) -> str:
    content = message.get("content")
    if content is None and message["role"] == "assistant":
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise Refused(f"{where}.content: expected a text, got {_told(content)}", "messages")
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            raise Refused(f"{where}.content: this model reads text, got a part of type {kind!r}", "messages")
    return "".join(part["text"] for part in content)


def _arguments(text: Any) -> Any:
    try:
        value = json.loads(text)
    except (TypeError, ValueError):
        return text
    return value if isinstance(value, dict) else text


def _told(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
