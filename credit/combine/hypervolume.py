"""Rewards grow while the policy finds new trade-offs: the volume that its best points dominate."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from milepost.credit.cards import method
from milepost.credit.combine.arrays import finite
from milepost.credit.normalise import Floats

PAPER = "arXiv 2509.11452"


@method("hypervolume", "schedule", level="episode", channel="reward", paper=PAPER)
def multiplier(gain: float) -> float:
    """Return what rewards are multiplied by until the next validation: ``0.5 + 1.5 * tanh(dHV)``, 0.5 to 2.

    ``gain`` is what ``Front.add`` returned for the last validation.

    Source: Lu et al. 2025, arXiv 2509.11452.
    """
    if not gain >= 0:
        raise ValueError(f"hypervolume: gain: expected at least 0, got {gain}")
    return 0.5 + 1.5 * math.tanh(gain)


class Front:
    """The points that no other dominates, seen from a reference point: the performance before training.

    ``points`` is all its state; more is better in every objective.
    """

    def __init__(self, reference: Sequence[float], points: Sequence[Sequence[float]] = ()) -> None:
        self.reference = finite("hypervolume: reference", reference, 1).tolist()
        self.points: list[list[float]] = []
        for point in points:
            self.add(point)

    def add(self, point: Sequence[float]) -> float:
        """Take a validation's performance per objective; return the volume it gained, 0 if dominated."""
        new = finite("hypervolume: point", point, 1)
        _width(new, self.reference)
        if any(np.all(np.asarray(old) >= new) for old in self.points):
            return 0.0
        before = self.volume
        self.points = [old for old in self.points if not np.all(new >= old)] + [new.tolist()]
        return max(0.0, self.volume - before)

    @property
    def volume(self) -> float:
        """What the points dominate above the reference, in the product of the objectives' units."""
        return hypervolume(self.points, self.reference)


def hypervolume(points: ArrayLike, reference: ArrayLike) -> float:
    """Return the exact volume of ``{x : reference <= x <= some point}``, any number of objectives.

    A point that is not above the reference in every objective adds nothing. The time grows with the number of points
    to the power of the objectives less 1: small fronts.
    """
    origin = finite("hypervolume: reference", reference, 1)
    found = finite("hypervolume: points", points)
    if not found.size:
        return 0.0
    if found.ndim != 2:
        raise ValueError(f"hypervolume: points: expected 2 dimensions, got shape {found.shape}")
    _width(found[0], origin)
    above = found - origin
    return _volume(above[(above > 0).all(1)])


def _volume(points: Floats) -> float:
    """Cut along the last objective into slabs; in each, the points that reach it dominate one objective less."""
    if not len(points):
        return 0.0
    if points.shape[1] == 1:
        return float(points.max())
    ordered = points[np.argsort(points[:, -1])[::-1]]
    heights = np.append(ordered[:, -1], 0.0)
    if points.shape[1] == 2:
        return float((np.maximum.accumulate(ordered[:, 0]) * -np.diff(heights)).sum())
    return float(
        sum(depth * _volume(ordered[: i + 1, :-1]) for i, depth in enumerate((-np.diff(heights)).tolist()) if depth > 0)
    )


def _width(point: ArrayLike, reference: ArrayLike) -> None:
    n, expected = len(np.atleast_1d(point)), len(np.atleast_1d(reference))
    if n != expected:
        raise ValueError(f"hypervolume: expected {expected} objectives, as the reference has, got {n}")
