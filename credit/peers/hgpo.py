"""HGPO: turns are compared with those of the same state, and more so with those of the same way to it."""

from __future__ import annotations

from typing import Literal

from milepost.credit import advantage
from milepost.credit.advantage import Batch, Numbers, Returns
from milepost.credit.cards import method
from milepost.credit.peers.gigpo import among_equals, normaliser_of, state_keys
from milepost.credit.peers.given import same_shape

SILENT = 1e-9
"""An advantage of at most this says nothing."""


@method("hgpo", "estimator", needs="outcome state_key", channel="separate", paper="arXiv 2602.22817")
def hgpo(
    groups: Batch,
    rewards: Numbers,
    depth: int = 2,
    alpha: float = 1.0,
    gamma: float = 0.95,
    scale: Literal["group", "none"] = "group",
    *,
    whole: float = 0.0,
    eps: float = 1e-6,
) -> Returns:
    """Return ``[N][G][T]`` ``A = sum_k w_k A_k`` over levels ``k = 0..depth``, ``w_k`` proportional to ``(k+1)^alpha``.

    ``A_k``: a turn's return-to-go, normalised among the turns of the group whose last ``k + 1`` states are the same
    (an episode that is younger has fewer: all since reset). A level at which the turn's advantage is 0, because nobody
    shares its way or all who do fared alike, is skipped, and the weights of the others sum to 1.

    Args:
        groups: Episodes.
        rewards: With the outcome, as ``advantage.rewards`` gives them.
        depth: K, the deepest level; 2 is unverified.
        alpha: How much a longer common way counts; 0 weighs all levels alike.
        gamma: Discount a turn.
        scale: ``group`` divides by the pool's deviation, ``none`` only centres.
        whole: Weight of the attempt's own advantage (``grpo``), added as in GiGPO; that the paper does is unverified.
        eps: What is added to a deviation.

    Source: *HGPO* 2026, arXiv 2602.22817. Needs: ``info["state_key"]``, an outcome. Pair with: as ``gigpo``.
    """
    same_shape("hgpo", groups, rewards)
    if depth < 0:
        raise ValueError(f"hgpo: depth: expected 0 or more, got {depth}")
    normaliser = normaliser_of("hgpo", scale, eps)
    episodes = advantage.grpo(rewards, scale=scale, eps=eps)
    table: Returns = []
    for group, rows, base in zip(groups, advantage.returns(rewards, gamma), episodes, strict=True):
        states = state_keys("hgpo", group)
        levels = []
        for k in range(depth + 1):
            ways = [[tuple(row[max(0, t - k) : t + 1]) for t in range(len(row))] for row in states]
            levels.append(among_equals(ways, rows, normaliser))
        table.append(
            [
                [whole * base[g][t] + _mean([level[g][t] for level in levels], alpha) for t in range(len(row))]
                for g, row in enumerate(states)
            ]
        )
    return table


def _mean(levels: list[float], alpha: float) -> float:
    """Return the weighted mean of the levels that say something; 0 where none does.

    Nothing is also what rounding leaves of a deviation of 0, which depends on the order of the attempts.
    """
    pairs = [((k + 1) ** alpha, a) for k, a in enumerate(levels) if abs(a) > SILENT]
    return sum(w * a for w, a in pairs) / sum(w for w, _ in pairs) if pairs else 0.0
