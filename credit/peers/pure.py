"""PURE: a way is worth as much as its worst step, so that many good steps cannot pay for a bad one."""

from __future__ import annotations

from collections.abc import Sequence

from milepost.credit import advantage, normalise
from milepost.credit.advantage import Batch, Numbers, Returns
from milepost.credit.cards import method
from milepost.credit.peers.given import outcomes, process, same_shape


@method("pure", "estimator", needs="outcome process", channel="separate", paper="arXiv 2504.08662")
def pure(
    groups: Batch, rewards: Numbers, *, weight: float = 1.0, outcome: float = 1.0, labels: Sequence[str] = ()
) -> Returns:
    """Return ``[N][G][T]`` ``A_t = weight * A_process,t + outcome * A_outcome``, both leave-one-out.

    The return of a turn is the minimum of the process rewards from it on, ``m_t = min(r_t, ..., r_T)``; its baseline is
    the mean of the others alive at t. The outcome stays out of the minimum: what an attempt ended with is compared with
    the others' ends. A turn that was not judged enters no minimum; after the last judged one there is no process term.

    Args:
        groups: Episodes.
        rewards: With the outcome (weight 1), as ``advantage.rewards`` gives them; it is taken off again here.
        weight: Of the process.
        outcome: Of the outcome; 0 leaves the process alone, which the paper warns of.
        labels: The process credits, which are then read instead of ``rewards``, of any weight of the outcome.

    Source: *PURE* 2025, arXiv 2504.08662. Needs: process rewards, an outcome.
    Differs: the paper reaches the minimum with a softened one in the rewards; here it is exact, in the returns.
    """
    same_shape("pure", groups, rewards)
    worst = [[minimum_to_go(row) for row in group] for group in process("pure", groups, rewards, labels)]
    steps = advantage.normalised(worst, normalise.rloo)
    table: Returns = []
    for rows, ends in zip(steps, outcomes("pure", groups), strict=True):
        a_outcome = normalise.rloo(ends).tolist()
        table.append([[weight * (a or 0.0) + outcome * o for a in row] for row, o in zip(rows, a_outcome, strict=True)])
    return table


def minimum_to_go(rewards: Sequence[float | None]) -> list[float | None]:
    """[T] the minimum of the rewards from each turn on; None where none of them was judged."""
    result: list[float | None] = []
    least: float | None = None
    for reward in reversed(rewards):
        least = reward if least is None else least if reward is None else min(least, reward)
        result.append(least)
    return result[::-1]
