"""Advantages scaled by difficulty: of the demonstration, and for the model as it is."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from milepost.credit import normalise
from milepost.credit.cards import method
from milepost.credit.combine.arrays import alike, finite, sigmoid
from milepost.credit.normalise import Floats


@method("dr_irl", "combiner", level="episode", channel="reward", paper="arXiv 2503.18991")
def dr_irl(rewards: ArrayLike, alpha: ArrayLike, *, ddof: int = 1, eps: float = 1e-6) -> Floats:
    """[G] ``A_i = alpha_i * (R_i - mean) / std`` of one group; ``alpha`` is of ``difficulty``, ``[G]`` or one number.

    Source: Cheng et al. 2025, arXiv 2503.18991 (GRPO-S).
    """
    r, a = finite("dr_irl: rewards", rewards, 1), finite("dr_irl: alpha", alpha)
    if a.ndim:
        alike("dr_irl: rewards and alpha", r, a)
    return np.asarray(a * normalise.zscore(r, ddof=ddof, eps=eps), dtype=np.float64)


def difficulty(dissimilarities: ArrayLike, gaps: ArrayLike, removed: ArrayLike | None = None) -> Floats:
    """[n] ``alpha_data * alpha_model``: the paper found the product better than the sum."""
    return alpha_data(dissimilarities) * alpha_model(gaps, removed)


def alpha_data(dissimilarities: ArrayLike) -> Floats:
    """[n] ``sigmoid(delta_i) / sigmoid(mean delta)`` over a pool: above 1 where what was written is unlike the example.

    Differs: sources disagree whether large means easy or hard; by the formula it means dissimilar.
    """
    delta = finite("dr_irl: dissimilarities", dissimilarities, 1)
    return sigmoid(delta) / sigmoid(delta.mean()) if len(delta) else delta


def alpha_model(gaps: ArrayLike, removed: ArrayLike | None = None) -> float:
    """Return ``sigmoid(mean gap without outliers) / sigmoid(mean gap)``.

    Args:
        gaps: ``[n]`` reward of the demonstration less that of what was generated.
        removed: ``[n]`` which are outliers (``outliers``). None or all of them: 1.
    """
    found = finite("dr_irl: gaps", gaps, 1)
    out = np.zeros(len(found), dtype=bool) if removed is None else np.asarray(removed, dtype=bool)
    if out.shape != found.shape:
        raise ValueError(f"dr_irl: expected {len(found)} marks of outliers, one a gap, got shape {out.shape}")
    if out.all():
        return 1.0
    return float(sigmoid(found[~out].mean()) / sigmoid(found.mean()))


def outliers(gaps: ArrayLike, threshold: float) -> list[bool]:
    """[n] whether a gap's squared deviation from the mean exceeds the threshold (the paper's value is unverified)."""
    found = finite("dr_irl: gaps", gaps, 1)
    return [bool(x) for x in (found - found.mean()) ** 2 > threshold] if len(found) else []


def dissimilarity(similarities: ArrayLike) -> float:
    """Return ``delta = 1 - mean over sentences of the best match`` of ``[S, D]`` cosines, written against example."""
    found = finite("dr_irl: similarities", similarities, 2)
    if not found.size:
        raise ValueError(f"dr_irl needs similarities of at least one pair of sentences, got shape {found.shape}")
    return 1.0 - float(found.max(1).mean())
