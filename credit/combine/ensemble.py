"""Several reward models of one thing: their mean, their worst, and their mean less their disagreement."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from milepost.credit.cards import method
from milepost.credit.combine.arrays import finite
from milepost.credit.normalise import Floats

Variance = Literal["population", "sample"]
"""Divided by M, or by M - 1."""
PAPER = "arXiv 2310.02743"


def mean(members: ArrayLike) -> Floats:
    """[...] ``mean_j r_j`` of ``[M, ...]`` rewards, the members first."""
    return np.asarray(_members("mean", members).mean(0), dtype=np.float64)


@method("wco", "combiner", level="episode", channel="reward", paper=PAPER)
def wco(members: ArrayLike) -> Floats:
    """[...] worst case: ``min_j r_j`` of ``[M, ...]`` rewards, the members first.

    Source: Coste et al. 2023, arXiv 2310.02743 (five members that differ in seed; with a small KL term).
    """
    return np.asarray(_members("wco", members).min(0), dtype=np.float64)


@method("uwo", "combiner", level="episode", channel="reward", paper=PAPER)
def uwo(members: ArrayLike, *, lam: float = 0.5, variance: Variance = "population") -> Floats:
    """[...] uncertainty-weighted: ``mean_j r_j - lam * var_j r_j`` of ``[M, ...]`` rewards, the members first.

    The paper: 0.5 and the population's variance to choose the best of n, 0.1 and the sample's in PPO. A lone member
    disagrees with nobody: variance 0.

    Source: Coste et al. 2023, arXiv 2310.02743.
    """
    if variance not in ("population", "sample"):
        raise ValueError(f"uwo: variance: expected 'population' or 'sample', got {variance!r}")
    if not lam >= 0:
        raise ValueError(f"uwo: lam: expected at least 0, got {lam}")
    r = _members("uwo", members)
    ddof = 1 if variance == "sample" and len(r) > 1 else 0
    return np.asarray(r.mean(0) - lam * r.var(0, ddof=ddof), dtype=np.float64)


def _members(name: str, members: ArrayLike) -> Floats:
    r = finite(f"{name}: members", members)
    if r.ndim == 0 or len(r) == 0:
        raise ValueError(f"{name} needs members: rewards of at least one model, got none")
    return r
