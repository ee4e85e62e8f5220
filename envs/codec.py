"""Episodes as JSON and back, without loss; what has its default value is left out.

Beyond JSON there are a few one-key objects: ``{"$float": "nan"}``, ``{"$array": [dtype, shape, base64]}``,
``{"$image": name}`` (a picture kept elsewhere) and ``{"$dict": ...}`` around a dict that has such a key of its own.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np

from milepost.envs.core import Action, Call, ContractError, Episode, Finish, Stop, Tokens, Turn, Usage
from milepost.envs.messages import calls_move

SCHEMA = 1
"""The newest form of records that this version writes and reads."""
SaveImage = Callable[[Any], str]
"""Keeps a uint8 ``[H, W, 3]`` array somewhere and returns its name."""
LoadImage = Callable[[str], Any]


class KeptImage(dict[str, str]):
    """``{"$image": name}``: a picture that was not loaded; written again as it is."""


_LONE = re.compile("(?<![\ud800-\udbff])[\udc00-\udfff]|[\ud800-\udbff](?![\udc00-\udfff])")
_ARRAYS = (("context", "<i4"), ("ids", "<i4"), ("logprobs", "<f4"), ("entropies", "<f4"))
_PLAIN_TURN = ("seconds", "agent", "view")
_PLAIN_EPISODE = (
    *("env_id", "env_kwargs", "task", "split", "seed", "attempt", "group", "instructions", "tools", "info", "last"),
    *("failure", "parent", "runtime"),
)
_NEW_EPISODE, _NEW_TURN = Episode(), Turn("", Action(""))


def to_json(episode: Episode, images: SaveImage | None = None, tokens: bool = True) -> dict[str, Any]:
    """Return the episode as plain JSON values.

    Args:
        episode: What to record. ``whole`` is not.
        images: Called with every picture of an observation; without it pictures are kept in the record.
        tokens: Whether to keep token ids and log-probabilities; without them ``action.tokens`` is read as None.

    Raises:
        ContractError: A value is not plain JSON.
    """
    record: dict[str, Any] = {"schema": SCHEMA, "id": episode.id}
    try:
        for key in _PLAIN_EPISODE:
            value = getattr(episode, key)
            if value != getattr(_NEW_EPISODE, key):
                record[key] = pack(value, images)
        if episode.stop is not None:
            record["stop"] = str(episode.stop)
    except ContractError as error:
        raise ContractError(f"episode {episode.id!r} of {episode.env_id}: {error}") from None
    record["turns"] = turns = []
    for t, turn in enumerate(episode.turns):
        try:
            turns.append(_pack_turn(turn, images, tokens))
        except ContractError as error:
            raise ContractError(f"episode {episode.id!r} of {episode.env_id}, turn {t}: {error}") from None
    return record


def from_json(record: Mapping[str, Any], images: LoadImage | None = None) -> Episode:
    """Return the episode of a record. Without ``images`` a picture kept elsewhere is read as ``KeptImage``.

    Raises:
        ValueError: The record has a newer schema.
    """
    check_schema(record, f"episode {record.get('id')!r}")
    episode = Episode(id=record["id"])
    for key in _PLAIN_EPISODE:
        if key in record:
            setattr(episode, key, unpack(record[key], images))
    episode.stop = Stop(record["stop"]) if "stop" in record else None
    episode.turns = [_unpack_turn(turn, images) for turn in record["turns"]]
    return episode


def check_schema(record: Mapping[str, Any], what: str) -> None:
    """Refuse what a newer version wrote.

    Raises:
        ValueError: The schema is unknown.
    """
    schema = record.get("schema")
    if not isinstance(schema, int) or schema < 1:
        raise ValueError(f"{what}: expected a record with a schema number, got {schema!r}")
    if schema > SCHEMA:
        raise ValueError(f"{what} has schema {schema}, this version reads up to {SCHEMA}: install a newer milepost")


def dumps(value: Any) -> bytes:
    """Return packed JSON as one line of UTF-8 without its end; lone surrogates are escaped."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError:
        escaped = _LONE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
        return escaped.encode("utf-8", "surrogatepass")  # two surrogates that are no character cannot be escaped apart


def loads(line: bytes) -> Any:
    """Return the packed JSON of one line."""
    return json.loads(line.decode("utf-8", "surrogatepass"))


def pack(value: Any, images: SaveImage | None = None) -> Any:
    """Return ``value`` as plain JSON; tuples become lists.

    Raises:
        ContractError: It is not plain JSON, an array or a number of numpy.
    """
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$float": repr(float(value))}
    if isinstance(value, KeptImage):
        return dict(value)
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise ContractError(f"expected plain JSON with text as keys, got the key {key!r}")
        packed = {key: pack(item, images) for key, item in value.items()}
        return {"$dict": packed} if any(key.startswith("$") for key in value) else packed
    if isinstance(value, (list, tuple)):
        return [pack(item, images) for item in value]
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        if images is not None and value.dtype == np.uint8 and value.ndim == 3 and value.shape[2] == 3 and value.size:
            return {"$image": images(value)}
        return {"$array": [value.dtype.str, list(value.shape), _base64(value)]}
    if isinstance(value, np.generic):
        return pack(value.item(), images)
    raise ContractError(f"expected plain JSON, got {type(value).__name__} {str(value)[:80]!r}")


def unpack(value: Any, images: LoadImage | None = None) -> Any:
    """Return what ``pack`` was given."""
    if isinstance(value, list):
        return [unpack(item, images) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((key, content),) = value.items()
        if key == "$float":
            return float(content)
        if key == "$array":
            dtype, shape, data = content
            return _array(data, dtype).reshape(shape)
        if key == "$image":
            return images(content) if images else KeptImage(value)
        if key == "$dict":
            value = content
    return {key: unpack(item, images) for key, item in value.items()}


def _pack_turn(turn: Turn, images: SaveImage | None, tokens: bool) -> dict[str, Any]:
    record: dict[str, Any] = {"observation": pack(turn.observation, images), "action": turn.action.text}
    action = _pack_action(turn.action, tokens)
    if action:
        record["act"] = action
    if turn.reward != 0:
        record["reward"] = pack(turn.reward)
    for key in _PLAIN_TURN:
        value = getattr(turn, key)
        if value != getattr(_NEW_TURN, key):
            record[key] = pack(value)
    for key in ("info", "credit"):
        if content := getattr(turn, key):
            record[key] = pack(content)
    if turn.advantage is not None:
        record["advantage"] = pack(turn.advantage)
    return record


def _unpack_turn(record: Mapping[str, Any], images: LoadImage | None) -> Turn:
    turn = Turn(unpack(record["observation"], images), _unpack_action(record["action"], record.get("act", {})))
    for key in ("reward", *_PLAIN_TURN, "info", "credit", "advantage"):
        if key in record:
            setattr(turn, key, unpack(record[key]))
    return turn


def _pack_action(action: Action, tokens: bool) -> dict[str, Any]:
    """Return what an action has beside its text."""
    record: dict[str, Any] = {}
    if action.move != (calls_move(action.calls) if action.calls else action.text):
        record["move"] = action.move
    if action.calls:
        record["calls"] = [list(call) for call in action.calls]
    if action.reasoning is not None:
        record["reasoning"] = action.reasoning
    if action.finish != "stop":
        record["finish"] = action.finish
    if action.usage is not None:
        record["usage"] = pack(list(action.usage))
    if tokens and (kept := action.tokens) is not None:
        record["tokens"] = {"keep": kept.keep, "version": kept.version} | {
            name: _base64(np.asarray(array, dtype))
            for name, dtype in _ARRAYS
            if (array := getattr(kept, name)) is not None
        }
    return record


def _unpack_action(text: str, record: Mapping[str, Any]) -> Action:
    tokens = record.get("tokens")
    return Action(
        text=text,
        move=record.get("move"),
        calls=tuple(Call(*call) for call in record.get("calls", ())),
        reasoning=record.get("reasoning"),
        finish=cast(Finish, record.get("finish", "stop")),
        usage=Usage(*unpack(record["usage"])) if "usage" in record else None,
        tokens=None
        if tokens is None
        else Tokens(
            keep=tokens["keep"],
            version=tokens["version"],
            **{name: _array(tokens[name], dtype) for name, dtype in _ARRAYS if name in tokens},
        ),
    )


def _base64(array: Any) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def _array(data: str, dtype: str) -> Any:
    return np.frombuffer(base64.b64decode(data), dtype).astype(np.dtype(dtype).newbyteorder("="))
