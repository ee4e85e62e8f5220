"""TRACE: a turn earns by how much of the gap to the answer it and the next turns closed, and by its outcome."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from milepost.credit import normalise
from milepost.credit.advantage import Numbers, Returns
from milepost.credit.answers import PROBE, AnswerCredit, Probe, Scores, mean_logprob
from milepost.credit.cards import method
from milepost.credit.core import Rewards, Scorer
from milepost.credit.normalise import Floats
from milepost.envs.core import Episode


class TRACE(AnswerCredit):
    """``c_t = sum_{j<K} gamma^j delta_{t+j} / sum_{j<K} gamma^j``, plus ``2 gamma^(T-t) A_out`` where t + K >= T.

    ``delta_t = V_{t+1} - V_t`` with ``V_t = log(d_0 / d_t)`` and the gap ``d_t = 0.1 - l_t``; ``l_t`` is a frozen
    reference's length-normalised log-likelihood of the answer in the state before turn t, also after the last one
    (``last``). A delta behind the end is 0 and still counts in the divisor. ``A_out`` is the outcome's z-score in its
    group, population's deviation; as all attempts are at hand here, the terminal part is added here, and
    ``trace_sum`` adds the outcome's own share.

    Args:
        window: K, in turns.
        gamma: Discount within the window and to the end.
        gap_offset: What keeps the gap of a certain answer above 0, in nats.
        terminal_scale: Weight of the terminal part; 0 leaves the local one alone.
        scorer: The reference: the policy before training.
        probe, strict, last: See ``AnswerCredit``; the last turn is judged unless told otherwise.

    Source: arXiv 2607.13988; the numbers are second hand. The divisor of a window that is cut off is unverified.
    Needs: ``info["answer"]`` from reset, a scorer, an outcome. Pair with: ``trace_sum``.
    """

    name: ClassVar[str] = "trace"
    needs: ClassVar[frozenset[str]] = frozenset({"answer", "scorer", "outcome"})
    includes_outcome: ClassVar[bool] = True
    paper: ClassVar[str] = "arXiv 2607.13988"
    frozen: ClassVar[bool] = True
    pair: ClassVar[str] = "trace_sum"

    def __init__(
        self,
        *,
        scorer: Scorer | None = None,
        window: int = 3,
        gamma: float = 0.8,
        gap_offset: float = 0.1,
        terminal_scale: float = 2.0,
        probe: Probe = PROBE,
        strict: bool = True,
        last: bool = True,
    ) -> None:
        super().__init__(scorer=scorer, probe=probe, strict=strict, last=last)
        if window < 1 or gap_offset <= 0:
            raise ValueError(f"{self.name}: expected window >= 1 and gap_offset > 0, got {window} and {gap_offset}")
        self.window = window
        self.gamma = gamma
        self.gap_offset = gap_offset
        self.terminal_scale = terminal_scale

    def gains(self, scores: Scores) -> Sequence[float]:
        """[S - 1] the local part."""
        value = values([mean_logprob(texts[0]) for texts in scores], self.gap_offset)
        return [float(x) for x in local(np.diff(value), self.window, self.gamma)]

    def on_group(self, group: Sequence[Episode]) -> Rewards:
        """[G][T] the local part, and in the last ``window`` turns that were judged the terminal one as well."""
        ends = [terminal(len(e.turns), self.window, self.gamma) for e in group]
        outcomes = [self.terminal_scale * a for a in outcome_advantages(group)]
        return [
            [None if v is None else float(v) + a * float(end[t]) for t, v in enumerate(row)]
            for row, end, a in zip(super().on_group(group), ends, outcomes, strict=True)
        ]


@method("trace_sum", "estimator", needs="outcome process", channel="separate", paper="arXiv 2607.13988")
def trace_sum(
    groups: Sequence[Sequence[Episode]], rewards: Numbers, *, outcome_weight: float = 1.0, turn_weight: float = 0.2
) -> Returns:
    """Return ``[N][G][T]`` ``outcome_weight * A_out + turn_weight * reward``, the reward as it is, not normalised.

    ``A_out`` is the outcome's z-score in its group with the population's deviation. The rewards are
    ``advantage.rewards(groups, trace)``: the method, not its label, says that the outcome must not be added again.

    Source: arXiv 2607.13988 (second hand).
    """
    return [
        [[outcome_weight * a + turn_weight * (r or 0.0) for r in row] for a, row in zip(outcomes, rows, strict=True)]
        for outcomes, rows in zip(map(outcome_advantages, groups), rewards, strict=True)
    ]


def outcome_advantages(group: Sequence[Episode]) -> list[float]:
    """[G] z-scores of the outcomes; an attempt that was not scored is in no pool and gets 0."""
    outcomes = [e.outcome for e in group]
    scored = iter(normalise.zscore([o for o in outcomes if o is not None], ddof=0).tolist())
    return [0.0 if o is None else next(scored) for o in outcomes]


def values(mean_logprobs: ArrayLike, gap_offset: float = 0.1) -> Floats:
    """[S] ``log(d_0 / d_t)``: how much smaller than at first the gap to a certain answer is, in nats."""
    gaps = gap_offset - np.asarray(mean_logprobs, dtype=np.float64)
    result: Floats = np.log(gaps[0] / gaps)
    return result


def local(deltas: ArrayLike, window: int = 3, gamma: float = 0.8) -> Floats:
    """[T] the discounted mean of each turn's delta and the next ones of its window; behind the end they are 0."""
    discounts = gamma ** np.arange(window)
    padded = np.concatenate([np.asarray(deltas, dtype=np.float64), np.zeros(window - 1)])
    result: Floats = np.correlate(padded, discounts) / discounts.sum()
    return result


def terminal(n_turns: int, window: int = 3, gamma: float = 0.8) -> Floats:
    """[T] what the outcome counts in each turn: ``gamma^(T - t)`` where the window reaches the end, else 0."""
    left = n_turns - np.arange(n_turns)
    return np.where(left <= window, gamma**left, 0.0)
