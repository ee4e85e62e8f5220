"""A reward model of screens that says ``<+>`` or ``<->``: its score, what it is trained on, and search by it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from numpy.typing import ArrayLike

from milepost.credit.combine.arrays import alike, finite, sigmoid
from milepost.credit.normalise import Floats
from milepost.credit.visual.boxes import box_of, number

PLUS, MINUS = "<+>", "<->"
"""The two score tokens."""
T = TypeVar("T")


def score(plus: ArrayLike, minus: ArrayLike) -> Floats:
    """[...] ``sigmoid(z_plus - z_minus)`` of the two tokens' logits, or log-probabilities: 0 to 1.

    Source: Xiao et al. 2025, arXiv 2505.21496 (second hand).
    """
    a, b = finite("ui_genie: plus", plus), finite("ui_genie: minus", minus)
    alike("ui_genie: plus and minus", a, b)
    return sigmoid(a - b)


def score_of_probs(plus: float, minus: float) -> float:
    """Return ``p_plus / (p_plus + p_minus)``; 0 where the model gave neither token any chance."""
    if not (plus >= 0 and minus >= 0):
        raise ValueError(f"ui_genie: expected probabilities of at least 0, got {plus}, {minus}")
    return plus / (plus + minus) if plus + minus > 0 else 0.0


def verified(
    action: Mapping[str, Any], truth: Mapping[str, Any], same_text: Callable[[str, str], bool] | None = None
) -> bool:
    """Return whether an action is right: equal ``type``, ``point`` inside ``box``, ``text`` of equal meaning.

    Only what ``truth`` names is asked for; ``same_text`` decides on meaning, without it case and spaces do not count.
    """
    same = same_text or (lambda a, b: " ".join(a.lower().split()) == " ".join(b.lower().split()))
    if action.get("type") != truth["type"]:
        return False
    if "box" in truth and not _inside(action.get("point"), truth["box"]):
        return False
    return "text" not in truth or (isinstance(action.get("text"), str) and same(action["text"], truth["text"]))


def truncated(steps: Sequence[T], n: int) -> list[T]:
    """Return a successful episode that stops early, after n steps: a negative example."""
    if not 0 <= n < len(steps):
        raise ValueError(f"ui_genie: expected fewer than {len(steps)} steps to keep, got {n}")
    return list(steps[:n])


def substituted(steps: Sequence[T], at: int, other: T) -> list[T]:
    """Return a successful episode in which one step is of another task: a negative example."""
    if not 0 <= at < len(steps):
        raise ValueError(f"ui_genie: expected a step from 0 to {len(steps) - 1}, got {at}")
    return [*steps[:at], other, *steps[at + 1 :]]


def continued(steps: Sequence[T], more: Sequence[T]) -> list[T]:
    """Return a successful episode that goes on after its end: a negative example."""
    if not more:
        raise ValueError("ui_genie: expected at least one step more, got none")
    return [*steps, *more]


class Branch(NamedTuple):
    """A kept way on: of which prefix, by which of its steps, and the sum of scores so far."""

    prefix: int
    step: int
    score: float


def beam(prefixes: Sequence[float], steps: Sequence[Sequence[float]], width: int) -> list[Branch]:
    """Return the ``width`` best of all ways on, by score of the prefix plus that of the step; ties to lower indices.

    The search is this library's reading of the paper's reward-guided beam search.

    Args:
        prefixes: ``[B]`` scores.
        steps: ``[B][C]`` scores of each prefix's candidates.
        width: How many are kept.
    """
    if len(prefixes) != len(steps) or width < 1:
        raise ValueError(
            f"ui_genie: expected candidates for each of {len(prefixes)} prefixes and a width of at least 1, "
            f"got {len(steps)}, {width}"
        )
    ways = [Branch(b, c, prefixes[b] + s) for b, row in enumerate(steps) for c, s in enumerate(row)]
    if any(not math.isfinite(way.score) for way in ways):
        raise ValueError("ui_genie: expected finite scores")
    return sorted(ways, key=lambda way: -way.score)[:width]


def _inside(point: Any, box: Any) -> bool:
    target = box_of(box)
    if target is None:
        raise ValueError(f"ui_genie: the target: expected a box [x1, y1, x2, y2], got {box}")
    if not isinstance(point, Sequence) or isinstance(point, str) or len(point) != 2:
        return False
    x, y = (number(x) for x in point)
    if x is None or y is None:
        return False
    return target[0] <= x <= target[2] and target[1] <= y <= target[3]
