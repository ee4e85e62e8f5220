"""Re-create a state that an episode went through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from milepost.envs.core import Episode
from milepost.envs.hooks import Hook, TurnHooks

_FIELDS = ("id", "env_id", "env_kwargs", "task", "split", "seed", "attempt", "group", "parent", "runtime")


def replay(env: gym.Env[Any, Any], episode: Episode, t: int, credits: Sequence[Hook] = ()) -> TurnHooks:
    """Return ``env``, hooked, in the state before turn ``t`` of a recorded episode (t = T: at its end).

    Raises:
        ValueError: The episode has no such turn, or the environment shows something else than it did.
    """
    n = len(episode.turns)
    if not 0 <= t <= n:
        raise ValueError(f"replay: episode {episode.id!r} has {n} turns: expected a turn of 0..{n}, got {t}")
    hooked = TurnHooks(env, credits)
    options: dict[str, Any] = {"episode": {name: getattr(episode, name) for name in _FIELDS}}
    if episode.task is not None:
        options["task"] = episode.task
    hooked.reset(seed=episode.seed, options=options)
    for i in range(t + 1):
        recorded = episode.turns[i].observation if i < n else episode.last
        if not same(hooked.episode.last, recorded):
            raise ValueError(
                f"replay: episode {episode.id!r} of {episode.env_id}, before turn {i}: "
                f"expected {_short(recorded)}, got {_short(hooked.episode.last)}"
            )
        if i < t:
            if hooked.episode.stop is not None:
                raise ValueError(
                    f"replay: episode {episode.id!r} of {episode.env_id} took turn {i}; now it ends before it"
                )
            hooked.step(episode.turns[i].action)
    return hooked


def same(a: Any, b: Any) -> bool:
    """Return whether two observations or infos are equal, arrays included."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and np.array_equal(a, b)
    return bool(a == b)


def _short(observation: Any) -> str:
    text = repr(observation)
    return text if len(text) <= 120 else f"{text[:60]} ... {text[-50:]}"
