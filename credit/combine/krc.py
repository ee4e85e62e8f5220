"""Sign-aware geometric mean: a score is high only where every part is."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from milepost.credit.cards import method
from milepost.credit.combine.arrays import finite
from milepost.credit.normalise import Floats


@method("krc", "combiner", channel="reward", paper="arXiv 2305.15801")
def krc(components: ArrayLike) -> Floats:
    """[...] ``s * (prod_k |R_k|)^(1/n)`` of ``[..., n]`` parts, ``s = +1`` where none is negative, else -1.

    One part of 0 makes it 0, so whether 0 counts as positive (ports differ) changes nothing. For conditions that must
    all hold, scored in [-1, 1].

    Source: Moschopoulos et al. 2023, arXiv 2305.15801 (Lucy-SKG).
    """
    parts = finite("krc: components", components)
    if parts.ndim == 0 or parts.shape[-1] == 0:
        raise ValueError("krc needs components: at least one part, got none")
    with np.errstate(divide="ignore"):
        size = np.exp(np.log(np.abs(parts)).mean(-1))
    return np.asarray(np.where((parts < 0).any(-1) & (size > 0), -size, size), dtype=np.float64)
