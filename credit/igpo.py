"""Information gain: a turn earns by how much more the policy believes in the true answer after it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, Literal, get_args

import numpy as np

from milepost.credit.answers import PROBE, AnswerCredit, Probe, Scores, mean_logprob
from milepost.credit.core import Rewards, Scorer
from milepost.envs.core import Episode

Belief = Literal["log", "prob"]
TAGS = ("think", "tool_call", "code", "answer")
"""What must be closed as often as it is opened: thought, tool call, code, answer. The names are unverified."""


class IGPO(AnswerCredit):
    """``ig_t = b_{t+1} - b_t``; ``b_t`` is the belief in the answer ``a`` before turn t, and the last turn earns None.

    ``l_t = 1/L * sum_j log pi(a_j | context_t, probe, a_<j)``; ``belief="log"`` (the current paper): ``b_t = l_t``, in
    nats a token; ``"prob"`` (its first version): ``b_t = exp(l_t)``, in [0, 1]. Scored by the policy, teacher-forced,
    without gradient. A gain of 0 is a judgement and enters the pool.

    Args:
        legacy_drop_zero: Gains of exactly 0 become None and leave the pool, as in the released code, which finds gains
            by "reward != 0".
        scorer, probe, strict: See ``AnswerCredit``.

    Source: Wang et al. 2025, arXiv 2510.14967.
    Needs: ``info["answer"]`` from reset (aliases do not count), a scorer: the policy.
    Pair with: ``advantage.pooled(groups, "igpo", last="outcome")``; ``pools="joint"`` is the first version. The outcome
        is ``answer_reward``.
    Differs: where the released code credits outcome only, or appends a 0, if the number of gains is wrong, ``strict``
        raises. Gains are placed by turn, where the released code searches the turn's text.
    """

    name: ClassVar[str] = "igpo"
    paper: ClassVar[str] = "arXiv 2510.14967"

    def __init__(
        self,
        *,
        scorer: Scorer | None = None,
        belief: Belief = "log",
        probe: Probe = PROBE,
        strict: bool = True,
        legacy_drop_zero: bool = False,
    ) -> None:
        super().__init__(scorer=scorer, probe=probe, strict=strict)
        if belief not in get_args(Belief):
            raise ValueError(f"{self.name}: belief: expected one of {', '.join(get_args(Belief))}, got {belief!r}")
        self.belief: Belief = belief
        self.legacy_drop_zero = legacy_drop_zero

    def gains(self, scores: Scores) -> Sequence[float]:
        """[S - 1] the rise of the belief from state to state."""
        beliefs = self.beliefs(scores)
        return [after - before for before, after in pairwise(beliefs)]

    def beliefs(self, scores: Scores) -> list[float]:
        """[S] the belief in each state."""
        logs = [mean_logprob(texts[0]) for texts in scores]
        return logs if self.belief == "log" else [float(np.exp(x)) for x in logs]

    def rows(self, group: Sequence[Episode], gains: Sequence[Sequence[float] | None]) -> Rewards:
        """[G][T] the gains as credit; see ``legacy_drop_zero``."""
        rows = super().rows(group, gains)
        return [[v or None for v in row] for row in rows] if self.legacy_drop_zero else rows


def f1(prediction: str, golds: Sequence[str]) -> float:
    """Return in [0, 1] the best F1 of the sets of words of the prediction and of a true answer.

    Lower case; punctuation and symbols become spaces. No word in common is 0.
    """
    found = _words(prediction)
    best = 0.0
    for gold in map(_words, golds):
        if common := len(found & gold):
            best = max(best, 2 * common / (len(found) + len(gold)))
    return best


def answer_reward(text: str, golds: Sequence[str], format_penalty: float = -2.0, tags: Sequence[str] = TAGS) -> float:
    """Return the F1 of what stands in the last ``<answer>`` of the text, or the penalty where the format is broken.

    Broken: one of the tags is not closed as often as it is opened, or there is no answer in tags. The released code's
    penalty is -2; its variant without a format rule has 0.

    Source: Wang et al. 2025, arXiv 2510.14967 (released code).
    """
    if any(len(re.findall(f"<{tag}>", text)) != len(re.findall(f"</{tag}>", text)) for tag in tags):
        return format_penalty
    answer, closed, _ = text.rpartition("<answer>")[2].partition("</answer>")
    return f1(answer, golds) if closed and "<answer>" in text else format_penalty


def curriculum(progress: float) -> tuple[float, float]:
    """Return the weights of outcome (0.5 to 1) and gain (1 to 0.5) at a share of training in [0, 1]; off by default.

    They count before normalisation, where only their ratio matters and only in a joint pool:
    ``pooled(..., pools="joint", weight=gain / outcome)``. The shape between the ends, a line, is unverified.
    """
    p = min(max(progress, 0.0), 1.0)
    return 0.5 + 0.5 * p, 1.0 - 0.5 * p


def _words(text: str) -> set[str]:
    return set("".join(" " if unicodedata.category(c)[0] in "PS" else c for c in text.lower()).split())
