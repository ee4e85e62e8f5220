"""An episode as a row of typed columns."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from milepost.envs import codec
from milepost.envs.core import Episode, Message, Observation, Turn, Usage, Value
from milepost.recipes.report.chats import ReadImage, chat, valid


def columns(pa: Any) -> Any:
    """Return the schema of ``row``; ``pa`` is pyarrow."""
    text, number, whole, yes = pa.string(), pa.float64(), pa.int64(), pa.bool_()
    function = pa.struct({"name": text, "arguments": text})
    message = {"role": text, "content": text, "reasoning_content": text, "tool_call_id": text} | {
        "tool_calls": pa.list_(pa.struct({"id": text, "type": text, "function": function})),
        "images": pa.list_(pa.binary()),
    }
    usage = {"prompt_tokens": whole, "cached_tokens": whole, "completion_tokens": whole, "cost": number}
    turn = {"observation": text, "action": text, "move": text, "reasoning": text, "finish": text, "valid": yes} | {
        "reward": number,
        "components": pa.list_(pa.struct({"name": text, "value": number})),
        "credit": pa.list_(pa.struct({"label": text, "value": number, "tokens": pa.list_(pa.float32())})),
        "advantage": number,
        "token_advantages": pa.list_(pa.float32()),
        "seconds": number,
        "view": text,
    }
    own = {"id": text, "env_id": text, "env_kwargs": text, "task": text, "split": text, "seed": whole}
    own |= {"group": text, "attempt": whole, "policy": text, "agent": text, "stop": text, "failure": text}
    own |= {"outcome": number, "success": yes, "n_turns": whole, **usage, "seconds": number, "tools": text}
    lists = {"messages": pa.list_(pa.struct(message)), "turns": pa.list_(pa.struct(turn | usage))}
    return pa.schema(own | lists)


def row(episode: Episode, image: ReadImage) -> dict[str, Any]:
    """Return one agent's episode as a row; objects whose keys differ between environments are JSON texts."""
    whole = episode.whole or episode
    turns = [_turn(turn) for turn in episode.turns]
    policy = episode.runtime.get("policy")
    record: dict[str, Any] = {
        "id": episode.id,
        "env_id": episode.env_id,
        "env_kwargs": _json(episode.env_kwargs),
        "task": episode.task,
        "split": episode.split,
        "seed": episode.seed,
        "group": episode.group,
        "attempt": episode.attempt,
        "policy": None if policy is None else str(policy),
        "agent": episode.turns[0].agent if episode.turns else None,
        "stop": None if whole.stop is None else str(whole.stop),
        "failure": episode.failure,
        "outcome": episode.outcome,
        "success": episode.success,
        "n_turns": len(turns),
        "seconds": _sum(turn["seconds"] for turn in turns),
        "tools": _json(episode.tools),
        "messages": [_message(message, image) for message in chat(episode)],
        "turns": turns,
    }
    for key in ("prompt_tokens", "cached_tokens", "completion_tokens", "cost"):
        record[key] = _sum(turn[key] for turn in turns)
    cleaned: dict[str, Any] = valid(record)
    return cleaned


def _turn(turn: Turn) -> dict[str, Any]:
    action, usage = turn.action, turn.action.usage
    advantage, token_advantages = _split(turn.advantage)
    credit = [(label, *_split(value)) for label, value in turn.credit.items()]
    components = turn.info.get("reward_components", {})
    return {
        "observation": _text(turn.observation),
        "action": action.text,
        "move": action.move,
        "reasoning": action.reasoning,
        "finish": action.finish,
        "valid": turn.info.get("valid"),
        "reward": turn.reward,
        "components": [{"name": k, "value": None if v is None else float(v)} for k, v in components.items()],
        "credit": [{"label": label, "value": value, "tokens": tokens} for label, value, tokens in credit],
        "advantage": advantage,
        "token_advantages": token_advantages,
        "seconds": turn.seconds + (usage.seconds if usage else 0.0),
        "view": None if turn.view is None else _json(turn.view),
        **_usage(usage),
    }


def _usage(usage: Usage | None) -> dict[str, Any]:
    tokens = usage[:3] if usage and usage.has_tokens else (None,) * 3
    counts = (*tokens, usage.cost if usage else None)
    return dict(zip(("prompt_tokens", "cached_tokens", "completion_tokens", "cost"), counts, strict=True))


def _message(message: Message, image: ReadImage) -> dict[str, Any]:
    content = message["content"]
    if isinstance(content, str):
        return message
    texts = [part["text"] for part in content if part["type"] == "text"]
    pictures = [image(part["image"]["$image"]) for part in content if part["type"] == "image"]
    return {**message, "content": "\n".join(texts), "images": pictures}


def _text(observation: Observation) -> str:
    """Return the text of an observation: results first, a line each."""
    if isinstance(observation, str):
        return observation
    results = [str(result.get("text", "")) for result in observation.get("results", ())]
    return "\n".join([*results, *([observation["text"]] if "text" in observation else [])])


def _split(value: Value) -> tuple[float | None, list[float] | None]:
    """Return a value of a turn, or its values by token; the other is None."""
    if isinstance(value, np.ndarray):
        return None, value.tolist()
    return (None if value is None else float(value)), None


def _sum(values: Any) -> Any:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _json(value: Mapping[str, Any] | list[Any]) -> str:
    return json.dumps(codec.pack(value))
