"""SPO: values only where the policy hesitated, and only the hesitation is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from milepost.credit.advantage import Batch, Credits, Numbers
from milepost.credit.cards import method
from milepost.credit.core import Replay
from milepost.credit.peers.vineppo import VinePPO, monte_carlo
from milepost.envs.core import ContractError, Episode, FloatArray


class SPO(VinePPO):
    """``V(s_t)`` at the beginnings of segments, None elsewhere: a segment begins before each turn that holds a token
    of probability below ``threshold``, and before turn 0.

    ``monte_carlo(groups, rewards, values="spo")`` gives all turns of a segment its gain; ``unsure`` then keeps that for
    the improbable tokens alone. Fewer states than VinePPO's, hence fewer fresh attempts.

    Source: Guo et al. 2025, arXiv 2505.23564; the threshold 0.9 is unverified.
    Needs: a replay, an outcome, the sampler's log-probabilities. Pair with: ``spo_segments``.
    Differs: a segment begins at a turn, the only state that an environment can be brought back to.
    """

    name: ClassVar[str] = "spo"
    needs: ClassVar[frozenset[str]] = frozenset({"replay", "outcome", "logprobs"})
    paper: ClassVar[str] = "arXiv 2505.23564"
    pair: ClassVar[str] = "spo_segments"

    def __init__(
        self,
        *,
        replay: Replay | None = None,
        k: int = 9,
        gamma: float = 1.0,
        labels: Credits = (),
        reuse: bool = False,
        threshold: float = 0.9,
    ) -> None:
        super().__init__(replay=replay, k=k, gamma=gamma, labels=labels, reuse=reuse)
        self.threshold = threshold

    def cuts(self, episode: Episode) -> list[int]:
        """Return the turns before which a segment begins."""
        found = [t for t in range(1, len(episode.turns)) if (_probs(episode, t) < self.threshold).any()]
        return [0, *found] if episode.turns else []


@method("spo_segments", "estimator", level="token", needs="values outcome logprobs", paper="arXiv 2505.23564")
def spo_segments(
    groups: Batch, rewards: Numbers, values: str = "spo", gamma: float = 1.0, *, threshold: float = 0.9
) -> list[list[list[Any]]]:
    """Return ``[N][G][T]`` arrays ``[A]``: ``monte_carlo``'s gain of each segment on its improbable tokens, else 0."""
    return unsure(groups, monte_carlo(groups, rewards, values, gamma), threshold=threshold)


def unsure(
    groups: Batch, advantages: Sequence[Sequence[Sequence[float | None]]], *, threshold: float = 0.9
) -> list[list[list[Any]]]:
    """Return ``[N][G][T]`` arrays ``[A]``: a turn's advantage on its tokens of probability below ``threshold``, else 0.

    The other tokens get no gradient from the surrogate and count in the aggregation all the same. None stays None.
    """
    return [
        [
            [None if a is None else _masked(episode, t, a, threshold) for t, a in enumerate(row)]
            for episode, row in zip(group, rows, strict=True)
        ]
        for group, rows in zip(groups, advantages, strict=True)
    ]


def _masked(episode: Episode, t: int, value: float, threshold: float) -> FloatArray:
    return np.where(_probs(episode, t) < threshold, np.float32(value), np.float32(0))


def _probs(episode: Episode, t: int) -> FloatArray:
    tokens = episode.turns[t].action.tokens
    if tokens is None or not np.isfinite(tokens.logprobs).all():
        raise ContractError(
            f"spo needs tokens.logprobs; episode {episode.id!r}, turn {t} has none (a LocalPolicy records them)"
        )
    return np.exp(tokens.logprobs)
