"""TIPS: a turn earns the rise of a teacher's belief in the answer, a small one that is added to the reward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from milepost.credit.answers import PROBE, AnswerCredit, Probe, Scores, mean_logprob
from milepost.credit.core import Channel, Scorer
from milepost.credit.peers.mig import watermark
from milepost.envs.core import Episode


class TIPS(AnswerCredit):
    """``r_t = scale * (Phi_{t+1} - Phi_t)``, ``Phi = log sum_k exp(l_k)`` over the answer and its aliases, in nats.

    ``l_k`` is the teacher's length-normalised log-likelihood of text k, in every state alike: a released variant mixes
    normalised and summed ones. ``monotone=True`` takes the highest Phi so far instead, which is no shaping potential.

    Args:
        scale: What a rise of 1 nat is worth; ``rescale`` finds one for a batch.
        monotone: Whether only what lies above the highest so far is earned.
        scorer: The teacher, frozen or lagging behind the policy.
        probe, strict, last: See ``AnswerCredit``.

    Source: arXiv 2603.22293. Needs: ``info["answer"]`` (and ``info["aliases"]`` if any) from reset, a scorer.
    Pair with: ``ppo``; the number stands on a turn's last token.
    """

    name: ClassVar[str] = "tips"
    channel: ClassVar[Channel] = "reward"
    paper: ClassVar[str] = "arXiv 2603.22293"
    frozen: ClassVar[bool] = True
    pair: ClassVar[str] = "ppo"

    def __init__(
        self,
        *,
        scorer: Scorer | None = None,
        scale: float = 0.02,
        monotone: bool = False,
        probe: Probe = PROBE,
        strict: bool = True,
        last: bool = False,
    ) -> None:
        super().__init__(scorer=scorer, probe=probe, strict=strict, last=last)
        self.scale = scale
        self.monotone = monotone

    def texts(self, episode: Episode) -> list[str]:
        """[K] the answer and its other texts, each once; none without an answer."""
        answer = super().texts(episode)
        return list(dict.fromkeys((*answer, *episode.info.get("aliases", ())))) if answer else []

    def gains(self, scores: Scores) -> Sequence[float]:
        """[S - 1] scaled rises of the potential."""
        phi = np.array(self.potentials(scores))
        return [float(x) for x in self.scale * np.diff(watermark(phi) if self.monotone else phi)]

    def potentials(self, scores: Scores) -> list[float]:
        """[S] the potential in each state."""
        return [float(np.logaddexp.reduce([mean_logprob(text) for text in texts])) for texts in scores]


def rescale(
    groups: Sequence[Sequence[Episode]],
    label: str = "tips",
    *,
    target: float = 0.11,
    band: tuple[float, float] | None = None,
) -> float:
    """Return the weight that brings the mean of ``|credit|`` over a batch to ``target``; 1 where all is 0 or unjudged.

    With a ``band`` a mean that lies inside it already (the paper's: 0.02 to 0.2) is left as it is. To be used as
    ``advantage.rewards(groups, {"tips": rescale(groups)})``: the outcome is not rescaled.

    Source: arXiv 2603.22293.
    """
    values = [v for g in groups for e in g for t in e.turns if (v := t.credit.get(label)) is not None]
    mean = float(np.mean([abs(float(np.sum(v))) for v in values])) if values else 0.0
    if mean == 0.0 or (band is not None and band[0] <= mean <= band[1]):
        return 1.0
    return target / mean
