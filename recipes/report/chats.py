"""An episode as one chat: all that was said, and the same in the form that fine-tuning services take."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from milepost.envs.completions import wire_messages
from milepost.envs.core import Call, Episode, Message, Turn, action_message, observation_messages

ReadImage = Callable[[str], bytes]
"""Returns the PNG of a picture's name."""


def chat(episode: Episode) -> list[Message]:
    """Return the whole conversation, the system's text first and the last action last.

    It is all of it also where the agent was shown a part. The t-th message of the assistant is turn t. Every call but
    the last action's is answered at once, by an empty text where the environment did not.
    """
    text = "\n\n".join(text for text in (episode.instructions, _scaffold(episode)) if isinstance(text, str) and text)
    messages: list[Message] = [{"role": "system", "content": text}] if text else []
    calls: Sequence[Call] = ()
    for turn in episode.turns:
        messages += [*_seen(turn, calls), action_message(turn.action)]
        calls = turn.action.calls
    return messages


def fine_tuning_record(episode: Episode, image: ReadImage) -> dict[str, Any]:
    """Return ``{"messages": [...], "tools": [...]}`` as OpenAI's fine-tuning and its likes accept it.

    Messages are those of ``chat`` as an endpoint is sent them: pictures as data URLs, no reasoning. Tools that the
    scaffold described as text are not told again.
    """
    messages = [_with_urls(message, image) for message in chat(episode)]
    record: dict[str, Any] = {"messages": wire_messages(messages)}
    if episode.tools and (not _scaffold(episode) or any(turn.action.calls for turn in episode.turns)):
        record["tools"] = episode.tools
    cleaned: dict[str, Any] = valid(record)
    return cleaned


def valid(value: Any) -> Any:
    """Return plain JSON whose texts are valid Unicode: a lone surrogate becomes U+FFFD."""
    if isinstance(value, str):
        if value.isascii():
            return value
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, dict):
        return {valid(key): valid(item) for key, item in value.items()}
    return [valid(item) for item in value] if isinstance(value, list) else value


def _scaffold(episode: Episode) -> str:
    """Return what the agent's scaffold added to the system's text."""
    scaffold = episode.runtime.get("scaffold")
    return str(scaffold.get("text") or "") if isinstance(scaffold, dict) else ""


def _seen(turn: Turn, calls: Sequence[Call]) -> Iterator[Message]:
    """Yield the answers to ``calls`` in their order, then whatever else was seen as the user's messages."""
    messages = observation_messages(turn.observation)
    results = {message["tool_call_id"]: message for message in messages if message["role"] == "tool"}
    for call in calls:
        yield results.pop(call.id, {"role": "tool", "tool_call_id": call.id, "content": ""})
    for message in messages:
        if message["role"] != "tool":
            yield message
        elif message["tool_call_id"] in results:
            yield {"role": "user", "content": message["content"]}


def _with_urls(message: Message, image: ReadImage) -> Message:
    if isinstance(message["content"], str):
        return message
    parts = [_url(part, image) if part["type"] == "image" else part for part in message["content"]]
    return {**message, "content": parts}


def _url(part: dict[str, Any], image: ReadImage) -> dict[str, Any]:
    png = base64.b64encode(image(part["image"]["$image"])).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{png}"}}
