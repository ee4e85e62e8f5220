"""Automatic discount scheduling: look no further ahead than the agent has learnt to follow the expert."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from milepost.credit.cards import method
from milepost.credit.combine.arrays import finite

PAPER = "arXiv 2310.07433"
Positions = Sequence[int]
"""``[T]`` for each turn of an attempt, the turn of a demonstration whose state is nearest (``nearest``)."""


@method("ads", "schedule", level="episode", paper=PAPER)
def discount(progress: int, *, alpha: float = 0.2) -> float:
    """Return ``gamma = alpha^(1 / k)`` per turn: a reward k turns ahead weighs alpha.

    Source: Liu et al. 2023, arXiv 2310.07433.
    """
    if progress < 1:
        raise ValueError(f"ads: progress: expected at least 1 turn, got {progress}")
    if not 0 < alpha < 1:
        raise ValueError(f"ads: alpha: expected a number between 0 and 1, got {alpha}")
    return float(alpha ** (1.0 / progress))


class Progress:
    """How many turns the agent follows the expert, and the discount that goes with it; it counts updates only.

    k starts at ``int(0.2 * horizon)`` and goes up by 1, at most 5 times an update and never beyond the horizon, while
    the score of recent attempts over their first k turns reaches ``int(0.9 * reference)``. An attempt's score is the
    longest strictly increasing run of its positions (gaps allowed); the agent's the 90th percentile of them, the
    reference the median over the demonstrations.

    Args:
        horizon: The most turns of an episode.
        references: ``[P][T]`` positions of pairs of demonstrations, one matched to the other; a lone demonstration
            matched to itself is ``range(T)``.
        alpha: What a reward k turns ahead weighs.
        start: The share of the horizon that k begins with.
        share: Of the reference that must be reached.
        percentile: Of the attempts' scores that is the agent's.
        most: Steps of k in one update.

    Source: Liu et al. 2023, arXiv 2310.07433.
    Differs: both scores are taken anew after every step of k; the released loop goes on with the last one's metric.
    """

    def __init__(
        self,
        horizon: int,
        references: Sequence[Positions],
        *,
        alpha: float = 0.2,
        start: float = 0.2,
        share: float = 0.9,
        percentile: float = 90.0,
        most: int = 5,
    ) -> None:
        if horizon < 1:
            raise ValueError(f"ads: horizon: expected at least 1 turn, got {horizon}")
        if not references:
            raise ValueError("ads needs references: positions of at least one demonstration, got none")
        self.horizon, self.references = horizon, [list(row) for row in references]
        self.alpha, self.share, self.percentile, self.most = alpha, share, percentile, most
        self.k = min(horizon, max(1, int(start * horizon)))

    @property
    def gamma(self) -> float:
        """The discount per turn of now."""
        return discount(self.k, alpha=self.alpha)

    def update(self, attempts: Sequence[Positions]) -> float:
        """Advance by what recent attempts ``[N][T]`` show; return the discount. No attempts: no step."""
        for _ in range(self.most if attempts else 0):
            needed = int(self.share * float(np.median([lis(row[: self.k]) for row in self.references])))
            score = float(np.percentile([lis(row[: self.k]) for row in attempts], self.percentile))
            if self.k >= self.horizon or score < needed:
                break
            self.k += 1
        return self.gamma

    def state_dict(self) -> dict[str, Any]:
        """Return k."""
        return {"k": self.k}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state_dict`` returned."""
        self.k = int(state["k"])


def lis(positions: Positions) -> int:
    """Return the length of the longest strictly increasing subsequence."""
    tails: list[int] = []
    for position in positions:
        at = bisect_left(tails, position)
        tails[at : at + 1] = [position]
    return len(tails)


def nearest(distances: ArrayLike) -> list[int]:
    """[T] the demonstration's turn nearest to each of the attempt's, of ``[T, D]`` distances; ties to the earlier."""
    found = finite("ads: distances", distances, 2)
    if not found.shape[1]:
        raise ValueError("ads needs distances to a demonstration of at least one turn, got none")
    return [int(i) for i in found.argmin(1)]
