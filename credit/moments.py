"""Mean and variance of numbers that come in batches."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from milepost.credit.normalise import FLAT, Floats


class Moments:
    """Running moments, updated by a batch's mean and sample variance (Chan et al. 1979).

    They start at mean 0, variance 1 and the weight of 1e-4 numbers, and so forget their start with the first batch.
    A number that is not finite changes nothing; a batch of one has variance 0.
    """

    def __init__(self, mean: float = 0.0, var: float = 1.0, count: float = 1e-4) -> None:
        self.mean, self.var, self.count = mean, var, count

    def update(self, values: ArrayLike) -> None:
        """Take a batch in."""
        x = np.asarray(values, np.float64)
        x = x[np.isfinite(x)]
        n = len(x)
        if not n:
            return
        total, away = self.count + n, float(x.mean()) - self.mean
        squares = self.var * self.count + (float(x.var(ddof=1)) * n if n > 1 else 0.0)
        self.var = (squares + away**2 * self.count * n / total) / total
        self.mean += away * n / total
        self.count = total

    def normalised(self, values: ArrayLike) -> Floats:
        """[n] the values less the mean, in standard deviations; zeros where there is no spread."""
        x = np.asarray(values, np.float64)
        std = np.sqrt(self.var)
        return np.zeros_like(x) if std < FLAT else (x - self.mean) / std

    def state_dict(self) -> dict[str, float]:
        """Return mean, variance and weight."""
        return {"mean": self.mean, "var": self.var, "count": self.count}
