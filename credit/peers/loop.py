"""LOOP: a leave-one-out advantage under a clipped surrogate."""

from __future__ import annotations

from milepost.credit import advantage
from milepost.credit.advantage import Numbers, Returns
from milepost.credit.cards import method
from milepost.credit.normalise import Singleton


@method("loop", "estimator", level="episode", needs="outcome", paper="arXiv 2502.01600")
def loop(rewards: Numbers, *, singleton: Singleton = "zero") -> Returns:
    """Return ``[N][G][T]`` each attempt's total less the mean of the others in its group: ``advantage.rloo``.

    What makes it LOOP is the loss: several steps over the same samples, against the policy that played, with the ratio
    clipped a token, a turn or a whole attempt at a time. In ``agents.objective``:

        Objective(level="token", n_epochs=2)                          # LOOP-token; also level="turn", "sequence"
        Objective(level="turn", clip_low=0.2, clip_high=0.2)

    A clip is about a ratio's own size: one of a turn or sequence is that of the geometric mean of its tokens, so what
    is clipped is comparable between levels. With one epoch every ratio is 1, nothing is clipped, and this is RLOO.

    Source: Chen et al. 2025, arXiv 2502.01600. Needs: an outcome.
    """
    return advantage.rloo(rewards, singleton=singleton)
