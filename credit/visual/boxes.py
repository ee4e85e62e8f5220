"""Boxes ``[x1, y1, x2, y2]`` and how to read them in what a model wrote."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

Box = tuple[float, float, float, float]
"""Left, top, right, bottom; pixels."""
T = TypeVar("T")
LONGEST = 20_000
"""Characters of an answer that are read at most: an answer cannot make the parser work without end."""


class Scored(NamedTuple):
    """Rewards of a batch of answers, and how many could not be read."""

    rewards: list[float]
    n_unread: int


def scored(texts: Sequence[str], truths: Sequence[T], reward: Callable[[str, T], float | None]) -> Scored:
    """Return every answer's reward, 0 and counted where ``reward`` says None: it could not be read."""
    if len(texts) != len(truths):
        raise ValueError(f"visual: expected a truth for each of {len(texts)} answers, got {len(truths)}")
    found = [reward(text, truth) for text, truth in zip(texts, truths, strict=True)]
    return Scored([r or 0.0 for r in found], sum(r is None for r in found))


def box_of(value: Any) -> Box | None:
    """Return four finite numbers as a box, None for anything else and for edges that are in the wrong order."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 4:
        return None
    edges = [number(x) for x in value]
    if any(x is None for x in edges):
        return None
    x1, y1, x2, y2 = (x or 0.0 for x in edges)
    return (x1, y1, x2, y2) if x1 <= x2 and y1 <= y2 else None


def number(value: Any) -> float | None:
    """Return a finite number, None for anything else: text, a truth value, NaN, an integer beyond all floats."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def truth_of(what: str, value: Any) -> Box:
    """Return a box that the caller gave.

    Raises:
        ValueError: It is none.
    """
    if (box := box_of(value)) is None:
        raise ValueError(f"{what}: expected a box [x1, y1, x2, y2] with x1 <= x2 and y1 <= y2, got {value}")
    return box


def iou(a: Box, b: Box) -> float:
    """Return intersection over union of areas; 0 where both are empty."""
    common = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common
    return common / union if union > 0 else 0.0


def first_box(text: str) -> Box | None:
    """Return the first four numbers in square brackets, None without."""
    number = r"\s*(-?\d+(?:\.\d+)?)\s*"
    found = re.search(rf"\[{number},{number},{number},{number}\]", text[:LONGEST])
    return box_of([float(x) for x in found.groups()]) if found else None


def objects(text: str) -> list[dict[str, Any]] | None:
    """Return the objects of the list in a text, JSON or a Python literal; None where there is no such list."""
    opening, closing = text.find("["), text.rfind("]")
    if opening < 0 or closing < opening or len(text) > LONGEST:
        return None
    inner = text[opening : closing + 1]
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(inner)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
        if isinstance(found, list) and all(isinstance(x, dict) for x in found):
            return found
    return None


def value_of(item: dict[str, Any], *names: str) -> Any:
    """Return the value under the first of some names, whatever their case; None without."""
    lower = {str(k).lower(): v for k, v in item.items()}
    return next((lower[name] for name in names if name in lower), None)


def answer_of(text: str) -> str:
    """Return what stands in the last ``<answer>`` tags, or the whole text without them."""
    _, opening, rest = text.rpartition("<answer>")
    return rest.partition("</answer>")[0] if opening else text


def distinct(items: Iterable[T], key: Callable[[T], Any]) -> list[T]:
    """Return the items without those whose key came before."""
    seen: dict[Any, T] = {}
    for item in items:
        seen.setdefault(key(item), item)
    return list(seen.values())
