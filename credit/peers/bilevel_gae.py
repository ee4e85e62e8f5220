"""Bi-level GAE: advantages over turns first, then over the tokens of each turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from milepost.credit.advantage import Batch, Numbers
from milepost.credit.cards import method
from milepost.credit.core import Advantages
from milepost.credit.normalise import Floats
from milepost.credit.peers.ppo import token_rewards
from milepost.credit.returns import gae, token_gae
from milepost.credit.tokens import Bootstrap, following, same_shape, token_credit, whitened
from milepost.envs.core import Episode


@method("bilevel_gae", "estimator", level="token", needs="values", paper="arXiv 2510.16907", batch=True)
def bilevel_gae(
    groups: Batch,
    rewards: Numbers,
    values: str = "critic",
    *,
    gamma: float = 0.95,
    gamma_token: float = 1.0,
    lam: float = 1.0,
    whiten: bool = True,
    kl: float = 0.0,
    bootstrap: Bootstrap = "zero",
) -> Advantages:
    """Return ``[N][G][T][A]`` advantages: GAE over turn ends, then GAE inside each turn towards its turn's return.

    Args:
        groups: Episodes with tokens and the values of a critic.
        rewards: ``[N][G][T]``; None adds nothing.
        values: The critic's label.
        gamma: Discount per turn.
        gamma_token: Discount per token within a turn.
        lam: Of both traces.
        whiten: Mean 0, deviation 1 over the tokens of the batch.
        kl: Weight of token credit ``kl`` in the reward.
        bootstrap: What follows an episode that a limit cut; see ``ppo.Critic``.

    Source: Wang et al. 2025, arXiv 2510.16907 (VAGEN), arXiv 2504.20073 (RAGEN).
    Differs: turns end where the turn table says; the reference finds them by a reward that is not 0.
    """
    same_shape("bilevel_gae", groups, rewards)

    def row(episode: Episode, earned: Sequence[float | None]) -> list[Any]:
        if not episode.turns:
            return []
        r, ends = token_rewards("bilevel_gae", episode, earned, kl)
        v = token_credit("bilevel_gae", episode, values, "a Critic gives it, assign writes it")
        advantages, _ = bilevel(
            r, v, np.ones(len(r), bool), ends, gamma_turn=gamma, gamma_token=gamma_token, lam=lam,
            bootstrap=following(episode, v, bootstrap),
        )  # fmt: skip
        return np.split(advantages, ends[:-1] + 1)

    table = [[row(*pair) for pair in zip(g, rs, strict=True)] for g, rs in zip(groups, rewards, strict=True)]
    return whitened(table) if whiten else table


def bilevel(
    token_rewards: ArrayLike,
    values: ArrayLike,
    action_mask: ArrayLike,
    turn_end: Sequence[int],
    *,
    gamma_turn: float = 0.95,
    gamma_token: float = 1.0,
    lam: float = 1.0,
    bootstrap: float = 0.0,
) -> tuple[Floats, Floats]:
    """Return ``[L]`` advantages before whitening and ``[T]`` turn returns (advantage + value at the turn's end).

    1. GAE over turn ends. 2. The reward on each turn's end becomes its turn return. 3. GAE over the tokens of each turn
    alone. ``bootstrap`` is the value of what follows the last turn.
    """
    r, v = np.array(token_rewards, dtype=np.float64), np.asarray(values, dtype=np.float64)
    ends = np.asarray(turn_end, dtype=np.intp)
    turn_returns = gae(r[ends], v[ends], gamma=gamma_turn, lam=lam, bootstrap=bootstrap) + v[ends]
    r[ends] = turn_returns
    advantages, _ = token_gae(r, v, action_mask, gamma=gamma_token, lam=lam, ends=ends)
    return advantages, turn_returns
