"""Normalisers of one pool of numbers: ``[n]`` in, ``[n]`` out, float64, in the order given.

A pool that cannot tell its members apart (one member, or equal ones where a spread is divided by) gives zeros.
``singleton="raw"`` lets the value of a lone member pass, as much released code does. In a group's own pool that is a
baseline of 0; among the attempts alive at a turn it is what makes leave-one-out exactly unbiased
(``advantage.turn_rtg``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Normaliser = Callable[[Floats], Floats]
Singleton = Literal["zero", "raw"]
"""What a lone member gets: 0, or its own value."""
FLAT = 1e-8
"""A standard deviation below this is no spread at all."""


def center(values: ArrayLike, *, singleton: Singleton = "zero") -> Floats:
    """[n] each value minus the mean of all n: ``x - m``. Unit: the values'."""
    x = _pool(values)
    return _alone(x, singleton) if len(x) < 2 else _deviations(x)


def zscore(values: ArrayLike, *, ddof: int = 1, eps: float = 1e-6, singleton: Singleton = "zero") -> Floats:
    """[n] each value minus the mean, in standard deviations: ``(x - m) / (std_ddof + eps)``.

    It makes the size of the values disappear: in a group where all failed a process term of any coefficient becomes a
    gradient of full strength. ``center`` does not.
    """
    x = _pool(values)
    return _alone(x, singleton) if len(x) < 2 else _divided(_deviations(x), spread(x, ddof), eps)


def rloo(values: ArrayLike, *, singleton: Singleton = "zero") -> Floats:
    """[n] each value minus the mean of the other n - 1: ``n / (n - 1) * (x - m)``.

    Unit: the values'. There is no option to divide by a deviation of the others: where they are equal it is 0.

    Source: Ahmadian et al. 2024, arXiv 2402.14740.
    """
    x = _pool(values)
    return _alone(x, singleton) if len(x) < 2 else _deviations(x) * len(x) / (len(x) - 1)


def igpo_pop(values: ArrayLike, *, singleton: Singleton = "zero") -> Floats:
    """[n] ``(x - m) / (sqrt(var + 1e-8) + 1e-6)`` with the population's variance.

    Source: Wang et al. 2025, arXiv 2510.14967.
    """
    x = _pool(values)
    if len(x) < 2:
        return _alone(x, singleton)
    return _divided(_deviations(x), spread(x, 0), 1e-6, np.sqrt(x.var() + 1e-8))


def max_abs(values: ArrayLike, *, singleton: Singleton = "zero") -> Floats:
    """[n] ``x / (max |x| + 1e-6)``: a common scale for a batch that keeps every sign.

    Source: Liu et al. 2025, arXiv 2509.19199 (an option of the released code).
    """
    x = _pool(values)
    return _alone(x, singleton) if len(x) < 2 else x / (np.abs(x).max() + 1e-6)


def spread(values: ArrayLike, ddof: int = 1) -> float:
    """Return the standard deviation; 0 for fewer than two values."""
    x = _pool(values)
    return float(x.std(ddof=ddof)) if len(x) > 1 else 0.0


def _deviations(x: Floats) -> Floats:
    """Return ``x - m``, exactly 0 where all are equal: a mean of equal numbers need not be that number."""
    return np.zeros_like(x) if x.min() == x.max() else x - x.mean()


def _divided(deviations: Floats, std: float, eps: float, by: float | None = None) -> Floats:
    return np.zeros_like(deviations) if std < FLAT else deviations / ((std if by is None else by) + eps)


def _alone(x: Floats, singleton: Singleton) -> Floats:
    if singleton not in ("zero", "raw"):
        raise ValueError(f"singleton: expected 'zero' or 'raw', got {singleton!r}")
    return x.copy() if singleton == "raw" else np.zeros_like(x)


def _pool(values: ArrayLike | Sequence[float]) -> Floats:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1:
        raise ValueError(f"a pool: expected a flat list of numbers, got shape {x.shape}")
    if not np.isfinite(x).all():
        at = int(np.flatnonzero(~np.isfinite(x))[0])
        raise ValueError(f"a pool: expected finite numbers, got {x[at]} at {at}")
    return x
