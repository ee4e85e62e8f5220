"""What the viewer keeps of an episode: a row of its list, and the record that is inflated when it is opened."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from milepost.envs import codec
from milepost.envs.core import Episode, Value
from milepost.recipes.report.show import summary

GAP = 0.5
"""Methods disagree at a turn where their credit, each as a share of its own largest, lies this far apart."""


class Gap(NamedTuple):
    """Where the methods of an episode disagree most."""

    turn: int
    size: float
    """0..2: the distance of two methods' credit, each divided by the method's largest absolute credit here."""
    high: str
    low: str
    """The labels of the two."""


def gap(episode: Episode) -> Gap | None:
    """Return the turn at which two methods are furthest apart, the first of equals; None where all are close.

    What a method never judged takes no part.
    """
    rows: dict[str, list[float | None]] = {}
    for label in dict.fromkeys(label for turn in episode.turns for label in turn.credit):
        values = [_sum(turn.credit.get(label)) for turn in episode.turns]
        scale = max((abs(v) for v in values if v is not None), default=0.0) or 1.0
        rows[label] = [None if v is None else v / scale for v in values]
    gaps = []
    for t in range(len(episode.turns)):
        judged = {label: v for label, values in rows.items() if (v := values[t]) is not None}
        if judged:
            high, low = max(judged, key=judged.__getitem__), min(judged, key=judged.__getitem__)
            gaps.append(Gap(t, judged[high] - judged[low], high, low))
    widest = max(gaps, key=lambda g: g.size, default=None)
    return widest if widest is not None and widest.size >= GAP else None


def listed(number: int, episode: Episode, entry: str) -> dict[str, Any]:
    """Return the episode's row of the list; ``entry`` is what it was played as: a panel's entry, or its environment."""
    used = [turn.action.usage for turn in episode.turns if turn.action.usage is not None]
    costs = [usage.cost for usage in used if usage.cost is not None]
    whole = episode.part(episode.agents[0]) if len(episode.agents) == 1 else episode
    row = summary(number, episode)
    row |= {
        "entry": entry,
        "group": episode.group,
        "attempt": episode.attempt,
        "success": whole.success if len(episode.agents) < 2 else None,
        "tokens": sum(usage.prompt + usage.completion for usage in used) or None,
        "cost": sum(costs) if costs else None,
        "seconds": sum(turn.seconds for turn in episode.turns) + sum(usage.seconds for usage in used),
        "reward": sum(turn.reward for turn in episode.turns),
        "gap": gap(episode),
        "credit": list(row["credit"].items()),
    }
    plain: dict[str, Any] = _plain(row)
    return plain


def record(episode: Episode, share: Callable[[Any], int]) -> dict[str, Any]:
    """Return what is shown of an episode, as plain JSON; ``share`` keeps what many episodes have in common, once."""
    whole = codec.to_json(episode, tokens=False)
    for turn, packed in zip(episode.turns, whole["turns"], strict=True):
        packed["credit"] = [[label, _value(value)] for label, value in turn.credit.items()]
        packed["advantage"] = _value(turn.advantage)
        packed["reward"] = _plain(turn.reward)
        packed["n_tokens"] = len(turn.action.tokens.ids) if turn.action.tokens is not None else None
    for key in ("instructions", "tools", "runtime", "env_kwargs"):
        if key in whole:
            whole[key] = share(whole[key])
    return whole


def pictures(episode: Episode) -> Iterator[str]:
    """Yield the names of the pictures that were seen."""
    for seen in (*(turn.observation for turn in episode.turns), episode.last):
        if isinstance(seen, dict):
            for image in (*seen.get("images", ()), *(result.get("image") for result in seen.get("results", ()))):
                if isinstance(image, codec.KeptImage):
                    yield image["$image"]


def _sum(value: Value) -> float | None:
    total = None if value is None else float(np.sum(value))
    return total if total is not None and math.isfinite(total) else None


def _value(value: Value) -> Any:
    """Return a number, its name where it is not finite, or the sum of a number per token with their count."""
    if isinstance(value, np.ndarray):
        return {"sum": _plain(float(np.sum(value))), "n": len(value)}
    return _plain(value)


def _plain(value: Any) -> Any:
    """Return plain JSON in which a number that is not finite is its name."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
