"""One model is player and referee: as referee it earns by agreeing with a known order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from milepost.credit.cards import method
from milepost.credit.combine.arrays import alike, finite

Ties = Literal["a", "b"]
"""Kendall's tau-a, where a tie earns nothing, or tau-b, where pairs that are tied are left out of the count."""


@method("kendall", "combiner", level="episode", channel="reward", paper="arXiv 2507.17515")
def kendall(scores: ArrayLike, truth: ArrayLike, *, ties: Ties = "a") -> float:
    """Return Kendall's tau of two ``[n]`` lists: ``(agreeing pairs - disagreeing pairs) / pairs``, -1 to 1.

    0 for fewer than two, and where one list is all equal: a referee that never decides earns nothing.

    Source: Lu et al. 2025, arXiv 2507.17515 (URPO).
    """
    if ties not in ("a", "b"):
        raise ValueError(f"kendall: ties: expected 'a' or 'b', got {ties!r}")
    x, y = finite("kendall: scores", scores, 1), finite("kendall: truth", truth, 1)
    alike("kendall: scores and truth", x, y)
    upper = np.triu_indices(len(x), 1)
    ours, theirs = (np.sign(v[:, None] - v[None, :])[upper] for v in (x, y))
    untied = float(np.sqrt(np.abs(ours).sum() * np.abs(theirs).sum()))
    pairs = float(len(ours)) if ties == "a" else untied
    return float(ours @ theirs) / pairs if pairs else 0.0


def referee_reward(
    scores: Sequence[float] | None, truth: ArrayLike, *, unreadable: float = -1.0, ties: Ties = "a"
) -> float:
    """Return what judging ``[n]`` candidates earned: tau with the known order.

    ``unreadable`` is for an answer without a score for every candidate (None, or another number of them). The value is
    this library's: the worst tau, so that an unreadable answer is no way out of a wrong one.
    """
    if scores is None or len(scores) != len(np.atleast_1d(np.asarray(truth))):
        return unreadable
    return kendall(scores, truth, ties=ties)


def player_reward(verified: float | None, refereed: float | None = None) -> float | None:
    """Return what an answer earned: the verifiable reward where there is one, else the model's own score of it.

    None where there is neither: never judged.
    """
    return refereed if verified is None else verified
