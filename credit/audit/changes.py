"""What a method may look at, changed or taken away, to see whether its numbers follow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from milepost.envs.core import Episode

Change = Callable[[Episode], None]


def infos(episode: Episode) -> list[dict[str, Any]]:
    """Return the infos of reset and of every step."""
    return [episode.info, *(turn.info for turn in episode.turns)]


def renamed(episode: Episode, name: Callable[[str], str]) -> None:
    """Give every state another key."""
    for info in infos(episode):
        if "state_key" in info:
            info["state_key"] = name(info["state_key"])


def _every(key: str, change: Callable[[Any, int], Any]) -> Change:
    """Return what replaces a key of info wherever it stands, by its value and its place."""

    def apply(episode: Episode) -> None:
        for i, info in enumerate(infos(episode)):
            if key in info:
                info[key] = change(info[key], i)

    return apply


def _tokens(key: str, sign: float) -> Change:
    def apply(episode: Episode) -> None:
        for t, turn in enumerate(episode.turns):
            if turn.action.tokens is not None and getattr(turn.action.tokens, key) is not None:
                old = getattr(turn.action.tokens, key)
                setattr(turn.action.tokens, key, (old + sign * (t + 1)).astype(np.float32))

    return apply


def _outcome(episode: Episode) -> None:
    info = episode.turns[-1].info
    info["outcome"] = 0.75 - 0.5 * float(info["outcome"])
    info["success"] = not info.get("success", False)


def _without(key: str) -> Change:
    def apply(episode: Episode) -> None:
        for info in infos(episode):
            info.pop(key, None)
            if key == "answer":
                info.pop("aliases", None)

    return apply


def _no_tokens(key: str) -> Change:
    def apply(episode: Episode) -> None:
        for turn in episode.turns:
            if turn.action.tokens is not None and key == "entropies":
                turn.action.tokens.entropies = None

    return apply


CHANGES: dict[str, Change] = {
    "answer": _every("answer", lambda old, i: "marker of an answer"),
    "aliases": _every("aliases", lambda old, i: ["marker of an alias"]),
    "outcome": _outcome,
    "state_key": _every("state_key", lambda old, i: f"marker {i}"),
    "potential": _every("potential", lambda old, i: 0.3 * i * i - old),
    "valid": _every("valid", lambda old, i: not old),
    "caption": _every("caption", lambda old, i: f"marker of caption {i}"),
    "subgoals": _every("subgoals", lambda old, i: ["marker of a subgoal"]),
    "reward_components": _every(
        "reward_components", lambda old, i: type(old)({k: v + 0.1 * i for k, v in old.items()})
    ),
    "privileged": _every("privileged", lambda old, i: "marker of a secret"),
    "entropies": _tokens("entropies", 0.5),
    "logprobs": _tokens("logprobs", -0.5),
}
"""What ``needs`` may name -> how it is changed; what is not named must not matter."""

WITHOUT: dict[str, Change] = {
    **{
        key: _without(key)
        for key in ("answer", "state_key", "potential", "valid", "caption", "subgoals", "reward_components")
    },
    "privileged": _without("privileged"),
    "entropies": _no_tokens("entropies"),
}
"""What ``needs`` may name -> how it is taken away. An outcome is always there: ``groups_of`` sees to it."""
