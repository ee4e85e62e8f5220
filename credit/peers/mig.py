"""Monotone information gain: a turn earns only what lifts the answer's likelihood above its highest so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from milepost.credit.answers import AnswerCredit, Scores, mean_logprob
from milepost.credit.normalise import Floats


class MIG(AnswerCredit):
    """``gain_t = max(0, l_{t+1} - h_t)`` with the watermark ``h_t = max(h_{t-1}, l_t)``, in nats a token.

    ``l`` is the length-normalised log-likelihood of the answer in the state before a turn. To dip and recover earns
    nothing, so going back and forth cannot be farmed: all gains together are the highest likelihood less the first.

    Source: arXiv 2602.01034. Needs: ``info["answer"]`` from reset, a scorer: the policy.
    Pair with: ``advantage.pooled(groups, "mig", last="outcome")``; the paper's own combination (a loss of the outcome
        on all tokens, one of the gain on reasoning tokens) is unverified.
    Differs: ``max(0, .)`` is no potential-based shaping; neither is the original. A state that could not be scored
        leaves the watermark where it was.
    """

    name: ClassVar[str] = "mig"
    paper: ClassVar[str] = "arXiv 2602.01034"

    def gains(self, scores: Scores) -> Sequence[float]:
        """[S - 1] rises above the watermark."""
        return [float(x) for x in rises([mean_logprob(texts[0]) for texts in scores])]


def watermark(values: ArrayLike) -> Floats:
    """[S] the highest value so far; nan does not count."""
    return np.fmax.accumulate(np.asarray(values, dtype=np.float64))


def rises(values: ArrayLike) -> Floats:
    """[S - 1] by how much each value but the first lies above the watermark before it; 0 where it does not."""
    x = np.asarray(values, dtype=np.float64)
    return np.maximum(0.0, x[1:] - watermark(x)[:-1])
