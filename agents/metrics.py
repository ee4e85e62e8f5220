"""Numbers of one update, collected over micro-batches and ranks into one flat dict."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

from milepost.agents import distributed


class Tally:
    """Sums, means and maxima under their names."""

    def __init__(self) -> None:
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._means: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._maxima: defaultdict[str, float] = defaultdict(lambda: -torch.inf)

    def add(self, name: str, value: float) -> None:
        """Add to a sum."""
        self._sums[name] += value

    def mean(self, name: str, values_N: Tensor) -> None:
        """Count ``values_N`` into a mean over all tokens of the batch; nan is not known and not counted."""
        known = values_N.detach().float()
        known = known[~known.isnan()]
        pair = self._means[name]
        pair[0] += float(known.sum())
        pair[1] += len(known)

    def most(self, name: str, values_N: Tensor) -> None:
        """Count ``values_N`` into a maximum."""
        self._maxima[name] = max(self._maxima[name], float(values_N.detach().max()) if len(values_N) else -torch.inf)

    def result(self) -> dict[str, float]:
        """Return all numbers over all ranks; a mean or maximum over nothing is absent."""
        ranks = distributed.gather((dict(self._sums), dict(self._means), dict(self._maxima)))
        sums: defaultdict[str, float] = defaultdict(float)
        means: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        maxima: dict[str, float] = {}
        for some_sums, some_means, some_maxima in ranks:
            for name, value in some_sums.items():
                sums[name] += value
            for name, (total, n) in some_means.items():
                means[name][0] += total
                means[name][1] += n
            for name, value in some_maxima.items():
                maxima[name] = max(value, maxima.get(name, -torch.inf))
        averages = {name: total / n for name, (total, n) in means.items() if n}
        return {**sums, **averages, **{name: value for name, value in maxima.items() if value > -torch.inf}}
