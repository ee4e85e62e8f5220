"""Observations and actions as OpenAI chat messages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

Message = dict[str, Any]
"""An OpenAI chat message; an image part holds the array itself."""
Observation = str | dict[str, Any]
"""Text, or a dict with any of ``text`` (str), ``images`` (list of uint8 ``[H, W, 3]``) and ``results`` (list of
``{"id", "text", "image"}``, the answers to the tool calls of the turn before)."""


class Called(Protocol):
    """What of a ``Call`` is read here; the types themselves stand in ``envs/core.py``, which imports this module."""

    @property
    def id(self) -> str: ...  # noqa: D102
    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def arguments(self) -> str: ...  # noqa: D102


class Acted(Protocol):
    """What of an ``Action`` is read here."""

    @property
    def text(self) -> str: ...  # noqa: D102
    @property
    def reasoning(self) -> str | None: ...  # noqa: D102
    @property
    def calls(self) -> Sequence[Called]: ...  # noqa: D102


def observation_messages(observation: Observation) -> list[Message]:
    """Return an observation as chat messages: one per tool result, then one of the user."""
    if isinstance(observation, str):
        return [{"role": "user", "content": observation}]
    messages: list[Message] = []
    for result in observation.get("results", ()):
        parts = _content(result.get("text", ""), [result["image"]] if result.get("image") is not None else [])
        messages.append({"role": "tool", "tool_call_id": result["id"], "content": parts})
    if "text" in observation or observation.get("images"):
        content = _content(observation.get("text", ""), observation.get("images", []))
        messages.append({"role": "user", "content": content})
    return messages


def tied(observation: Observation, calls: Sequence[Called]) -> Observation:
    """Return an observation with a result for each of ``calls`` and for no other: servers refuse any other chat.

    Results that answer none of them are plain text, for an agent that only writes what looks like native calls made
    none. Where an environment answers calls by a text alone, that is the first one's result.
    """
    if isinstance(observation, str):
        if not calls:
            return observation
        first, *others = calls
        return {"results": [{"id": first.id, "text": observation}, *map(_no_result, others)]}
    ids = {call.id for call in calls}
    given = [result for result in observation.get("results", ()) if result["id"] in ids]
    loose = [result for result in observation.get("results", ()) if result["id"] not in ids]
    missing = [call for call in calls if call.id not in {result["id"] for result in given}]
    if not loose and not missing:
        return observation
    texts = [result.get("text", "") for result in loose] + ([observation["text"]] if "text" in observation else [])
    images = [r["image"] for r in loose if r.get("image") is not None] + list(observation.get("images", ()))
    parts: dict[str, Any] = {"results": [*given, *map(_no_result, missing)], "images": images}
    return {key: part for key, part in parts.items() if part} | ({"text": "\n".join(texts)} if texts else {})


def _no_result(call: Called) -> dict[str, Any]:
    return {"id": call.id, "text": "(no result)"}


def action_message(action: Acted) -> Message:
    """Return an action as the assistant's message."""
    message: Message = {"role": "assistant", "content": action.text}
    if action.reasoning is not None:
        message["reasoning_content"] = action.reasoning
    if action.calls:
        functions = [(c.id, {"name": c.name, "arguments": c.arguments}) for c in action.calls]
        message["tool_calls"] = [{"id": id_, "type": "function", "function": function} for id_, function in functions]
    return message


def _content(text: str, images: Sequence[Any]) -> str | list[dict[str, Any]]:
    if not images:
        return text
    return ([{"type": "text", "text": text}] if text else []) + [{"type": "image", "image": image} for image in images]


def calls_move(calls: Sequence[Called]) -> str:
    """Return the move of a turn with tool calls: the JSON list of ``{"id", "name", "arguments"}``, as written."""
    return json.dumps([{"id": call.id, "name": call.name, "arguments": call.arguments} for call in calls])


def view_messages(
    turns: Sequence[tuple[Sequence[Message], Message]], newest: Sequence[Message], view: Mapping[str, Any] | None
) -> list[Message]:
    """Return what a view shows of an agent's past ``turns`` (observation, action), then its newest observation.

    The summary stands where turns are missing first. Calls and their results stay together: before results stands the
    action that called for them, though its turn be missing; an action whose results are missing is left out.
    """
    view, n = view or {}, len(turns)
    summary = [{"role": "user", "content": view["summary"]}] if view.get("summary") else []
    messages: list[Message] = []
    at = 0
    for start, end in [*view.get("turns", [[0, n]]), [n, n]]:
        if start > at:
            if messages and messages[-1].get("tool_calls"):
                messages.pop()
            messages += summary
            summary = []
            seen = turns[start][0] if start < n else newest
            if seen and seen[0]["role"] == "tool":
                messages.append(turns[start - 1][1])
        for observation, action in turns[start:end]:
            messages += [*observation, action]
        at = end
    return [*summary, *messages, *newest]
