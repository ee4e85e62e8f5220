"""REINFORCE++: one baseline and one scale for the whole batch."""

from __future__ import annotations

from typing import Literal

import numpy as np

from milepost.credit import advantage, normalise
from milepost.credit.advantage import Numbers, Returns
from milepost.credit.cards import method


@method("reinforce_pp", "estimator", needs="outcome", paper="arXiv 2501.03262", batch=True)
def reinforce_pp(
    rewards: Numbers,
    gamma: float = 1.0,
    baseline: Literal["batch", "group"] = "batch",
    *,
    eps: float = 1e-8,
) -> Returns:
    """Return ``[N][G][T]`` returns-to-go, whitened over the batch: ``(G_t - mean) / (std + eps)``.

    ``baseline="group"`` takes the mean of the attempts of the group that are alive at the turn off first (the paper's
    second variant, for several attempts a task); the whole batch then gives the scale. A batch of one attempt, or one
    in which all fared alike, gives 0.

    Source: Hu 2025, arXiv 2501.03262.
    Differs: the released code whitens over tokens, so that long attempts make most of the mean. Each attempt counts
    once here, its turns 1 / T each.
    """
    if baseline not in ("batch", "group"):
        raise ValueError(f"reinforce_pp: baseline: expected 'batch' or 'group', got {baseline!r}")
    returns = advantage.returns(rewards, gamma)
    if baseline == "group":
        returns = [[[v or 0.0 for v in row] for row in group] for group in advantage.normalised(returns)]
    rows = [row for group in returns for row in group]
    if not rows:
        return returns
    values = np.concatenate([np.array(row) for row in rows])
    weights = np.concatenate([np.full(len(row), 1.0 / len(row) / len(rows)) for row in rows])
    mean = float(weights @ values)
    std = float(np.sqrt(weights @ np.square(values - mean)))
    if len(rows) < 2 or std < normalise.FLAT:
        return [[[0.0] * len(row) for row in group] for group in returns]
    return [[[(v - mean) / (std + eps) for v in row] for row in group] for group in returns]
