"""StarPO-S: train on the tasks about which the policy is most undecided."""

from __future__ import annotations

import math

from milepost.credit import advantage, normalise
from milepost.credit.advantage import Numbers
from milepost.credit.cards import method


@method("starpo_s", "sampler", level="episode", needs="outcome", paper="arXiv 2504.20073")
def starpo_s(rewards: Numbers, share: float = 0.25) -> list[int]:
    """Return the indices, in order, of the groups whose attempts' totals have the largest standard deviation.

    ``share`` of all groups is kept, rounded down, at least one of any; of equal deviations the earlier group's counts
    as larger. ``kept = starpo_s(rewards)``, then ``[groups[n] for n in kept]`` and ``[rewards[n] for n in kept]``.

    Source: Wang et al. 2025, arXiv 2504.20073 (RAGEN), against the collapse into one repeated answer. Beside it there:
    ``Objective(clip_low=0.2, clip_high=0.28, kl=0.0)`` and ``validity`` (a penalty of 0.1).
    Needs: an outcome.
    """
    if not 0 < share <= 1:
        raise ValueError(f"starpo_s: share: expected more than 0, at most 1, got {share}")
    spreads = [normalise.spread(totals) for totals in advantage.totals(rewards)]
    n_kept = max(1, math.floor(share * len(spreads) + 1e-9))
    return sorted(sorted(range(len(spreads)), key=lambda n: (-spreads[n], n))[:n_kept])
