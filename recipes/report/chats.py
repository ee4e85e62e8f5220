"""An episode as one chat: all that was said, and the same in the form that fine-tuning services take."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from milepost.envs.core import Action, Call, Episode, Message, Observation, action_message, observation_messages

ReadImage = Callable[[str], bytes]
"""Returns the PNG of a picture's name."""


def chat(episode: Episode) -> list[Message]:
    """Return the whole conversation, the system's text first and the last action last.

    It is all of it also where the agent was shown a part. The t-th message of the assistant is turn t.
    """
    messages = _system(episode)
    for turn in episode.turns:
        messages += [*observation_messages(turn.observation), action_message(turn.action)]
    return messages


def fine_tuning_record(episode: Episode, image: ReadImage) -> dict[str, Any]:
    """Return ``{"messages": [...], "tools": [...]}`` as OpenAI's fine-tuning and its likes accept it.

    Every call but the last action's is answered at once (by an empty text where the environment did not), pictures
    are data URLs in messages of the user, reasoning is left out, and all text is valid Unicode.
    """
    messages = _system(episode)
    calls: Sequence[Call] = ()
    for turn in episode.turns:
        messages += _seen(turn.observation, calls, image)
        calls = turn.action.calls
        messages.append(_done(turn.action))
    record: dict[str, Any] = {"messages": messages}
    if episode.tools:
        record["tools"] = episode.tools
    return valid(record)


def valid(value: Any) -> Any:
    """Return plain JSON whose texts are valid Unicode: a lone surrogate becomes U+FFFD."""
    if isinstance(value, str):
        if value.isascii():
            return value
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, dict):
        return {valid(key): valid(item) for key, item in value.items()}
    return [valid(item) for item in value] if isinstance(value, list) else value


def image_name(image: Any) -> str:
    """Return the name of a picture that was not loaded."""
    name: str = image["$image"]
    return name


def _system(episode: Episode) -> list[Message]:
    """Return the system's message: the environment's text, then the scaffold's."""
    scaffold = episode.runtime.get("scaffold") or {}
    texts = [episode.instructions if isinstance(episode.instructions, str) else "", scaffold.get("text") or ""]
    text = "\n\n".join(text for text in texts if text)
    return [{"role": "system", "content": text}] if text else []


def _seen(observation: Observation, calls: Sequence[Call], image: ReadImage) -> Iterator[Message]:
    """Yield the answers to ``calls`` in their order, then whatever else was seen as the user's message."""
    seen = {"text": observation} if isinstance(observation, str) else observation
    results = seen.get("results", ())
    texts = {result["id"]: result.get("text", "") for result in results}
    for call in calls:
        yield {"role": "tool", "tool_call_id": call.id, "content": texts.pop(call.id, "")}
    text = "\n".join([*texts.values(), *([seen["text"]] if "text" in seen else [])])
    pictures = [r["image"] for r in results if r.get("image") is not None] + list(seen.get("images", ()))
    if pictures:
        urls = [f"data:image/png;base64,{base64.b64encode(image(image_name(p))).decode()}" for p in pictures]
        parts: list[dict[str, Any]] = [{"type": "text", "text": text}] if text else []
        yield {"role": "user", "content": parts + [{"type": "image_url", "image_url": {"url": url}} for url in urls]}
    elif texts or "text" in seen:
        yield {"role": "user", "content": text}


def _done(action: Action) -> Message:
    message = action_message(action)
    message.pop("reasoning_content", None)
    if action.calls and not action.text:
        message["content"] = None
    return message
