"""Arrays of signals: refused where they are not finite numbers, and the curve that bounds them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from milepost.credit.normalise import Floats


def finite(what: str, values: ArrayLike, ndim: int | None = None) -> Floats:
    """Return numbers as float64; ``what`` names method and argument in the message.

    Raises:
        ValueError: They are no array of numbers, have not ``ndim`` dimensions, or one is not finite.
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{what}: expected numbers in rows of one length, got {_short(values)}") from None
    if ndim is not None and array.ndim != ndim:
        raise ValueError(f"{what}: expected {ndim} dimension{'s' * (ndim != 1)}, got shape {array.shape}")
    if not np.isfinite(array).all():
        bad = array[~np.isfinite(array)].ravel()[0]
        raise ValueError(f"{what}: expected finite numbers, got {bad}")
    return array


def alike(what: str, *arrays: Floats) -> None:
    """Refuse arrays that are not of one shape."""
    if len({array.shape for array in arrays}) > 1:
        raise ValueError(f"{what}: expected one shape, got {', '.join(str(array.shape) for array in arrays)}")


def sigmoid(x: Floats) -> Floats:
    """Return ``1 / (1 + exp(-x))``, also where ``exp`` would overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)), dtype=np.float64)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
