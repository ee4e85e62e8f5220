"""The statistics of a report: intervals of a share, and two policies compared on the same games."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Z95 = 1.959963984540054
"""The normal quantile of a two-sided interval of 95 %."""


def wilson(k: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Return the score interval of a share of ``k`` in ``n``; (0, 1) when nothing was counted.

    Source: Wilson 1927, J. Am. Stat. Assoc. 22.

    Raises:
        ValueError: ``k`` is not in 0..n.
    """
    if not 0 <= k <= n:
        raise ValueError(f"wilson: expected 0 <= k <= n, got k = {k}, n = {n}")
    if n == 0:
        return 0.0, 1.0
    center = (k + z * z / 2) / (n + z * z)
    half = z * math.sqrt(k * (n - k) / n + z * z / 4) / (n + z * z)
    return (0.0 if k == 0 else center - half), (1.0 if k == n else center + half)


def mcnemar(lost: int, won: int) -> float:
    """Return the exact two-sided p of McNemar's test from the two discordant counts; 1 when there are none.

    ``p = min(1, 2 P(X <= min(lost, won)))`` with X binomial(lost + won, 1/2).

    Source: McNemar 1947, Psychometrika 12, in its exact (binomial) form.
    """
    if min(lost, won) < 0:
        raise ValueError(f"mcnemar: expected counts, got {lost} and {won}")
    n = lost + won
    tail = sum(math.comb(n, i) for i in range(min(lost, won) + 1))
    return min(1.0, float(2 * tail / 2**n))


@dataclass(frozen=True)
class Paired:
    """What changed between two policies on the same games."""

    games: int
    won: int
    """Games that only the second solved."""
    lost: int
    """Games that only the first solved."""
    gain: float
    """Share solved by the second minus share solved by the first."""
    low: float
    high: float
    """The interval of the gain, 95 %."""
    p: float
    """Exact McNemar, two-sided."""

    def __str__(self) -> str:
        return (
            f"{100 * self.gain:+.1f} points [{100 * self.low:+.1f}, {100 * self.high:+.1f}], "
            f"won {self.won}, lost {self.lost}, p = {self.p:.2g}"
        )


def paired(before: Sequence[bool], after: Sequence[bool]) -> Paired:
    """Compare two policies on the same games, given in the same order.

    The interval is the adjusted Wald one: half a game is added to each of the four cells.

    Source: Agresti and Min 2005, Statistics in Medicine 24.

    Raises:
        ValueError: The two have different lengths, or none.
    """
    n = len(before)
    if n != len(after) or n == 0:
        raise ValueError(f"paired: expected the same games twice, got {n} and {len(after)}")
    won = sum(b and not a for a, b in zip(before, after, strict=True))
    lost = sum(a and not b for a, b in zip(before, after, strict=True))
    center = (won - lost) / (n + 2)
    half = Z95 * math.sqrt(won + lost + 1 - (won - lost) ** 2 / (n + 2)) / (n + 2)
    gain = (won - lost) / n
    return Paired(n, won, lost, gain, max(-1.0, center - half), min(1.0, center + half), mcnemar(lost, won))
