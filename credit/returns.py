"""Returns of one episode, backwards from its end: over turns, and over tokens that are not all the policy's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from milepost.credit.normalise import Floats


def return_to_go(rewards: ArrayLike, gamma: float = 1.0) -> Floats:
    """[T] ``G_t = r_t + gamma * G_{t+1}`` with ``G_T = 0`` (turns count from 0)."""
    returns = np.array(rewards, dtype=np.float64)
    if gamma == 1.0:
        return returns[::-1].cumsum()[::-1].copy()
    return _accumulated(returns, np.full(len(returns), gamma))


def gae(
    rewards: ArrayLike, values: ArrayLike, *, gamma: float = 1.0, lam: float = 0.95, bootstrap: float = 0.0
) -> Floats:
    """[T] ``A_t = delta_t + gamma * lam * A_{t+1}`` with ``delta_t = r_t + gamma * V_{t+1} - V_t``.

    ``V_T`` is ``bootstrap``: 0 after a terminal state, else the value of the state in which the episode was cut.

    Source: Schulman et al. 2016, arXiv 1506.02438.
    """
    mask = np.ones(len(np.asarray(rewards)), dtype=bool)
    return token_gae(rewards, values, mask, gamma=gamma, lam=lam, bootstrap=bootstrap)[0]


def token_gae(
    rewards: ArrayLike,
    values: ArrayLike,
    action_mask: ArrayLike,
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
    bootstrap: float = 0.0,
    ends: Sequence[int] | NDArray[np.intp] = (),
) -> tuple[Floats, Floats]:
    """Return ``[L]`` advantages and ``[L]`` returns (advantage + value) of a row of tokens, 0 off the policy's own.

    A token of the environment changes neither the next value nor the trace, so the value after the last token of a turn
    is that of the first token of the next. ``ends`` are tokens of the policy after which nothing follows: neither value
    nor trace passes from what comes after them.

    Raises:
        ValueError: The three differ in length, or a reward lies on a token that the policy did not write.
    """
    r, v = np.asarray(rewards, dtype=np.float64), np.asarray(values, dtype=np.float64)
    mask = np.asarray(action_mask, dtype=bool)
    if not r.shape == v.shape == mask.shape or r.ndim != 1:
        raise ValueError(
            f"gae: expected rewards, values and mask of one length, got {r.shape}, {v.shape}, {mask.shape}"
        )
    if (r[~mask] != 0).any():
        at = int(np.flatnonzero((r != 0) & ~mask)[0])
        raise ValueError(f"gae: expected rewards on the policy's tokens, got {r[at]} on token {at} of the environment")
    own = v[mask]
    goes_on = np.ones(len(r))
    goes_on[np.asarray(ends, np.intp)] = 0.0
    goes_on = goes_on[mask]
    deltas = r[mask] + gamma * goes_on * np.append(own[1:], bootstrap) - own if len(own) else own
    advantages = np.zeros_like(r)
    advantages[mask] = _accumulated(deltas, gamma * lam * goes_on)
    return advantages, np.where(mask, advantages + v, 0.0)


def _accumulated(values: Floats, decay: Floats) -> Floats:
    """[L] ``A_i = x_i + decay_i * A_{i+1}``, by doubling: after k passes each place has the sum of the next 2^k."""
    sums, decay, step = values.copy(), decay.copy(), 1
    while step < len(sums):
        sums[:-step] += decay[:-step] * sums[step:]
        decay[:-step] *= decay[step:]
        decay[-step:] = 0.0
        step *= 2
    return sums


def broadcast(turn_advantages: ArrayLike, turn_id: ArrayLike, action_mask: ArrayLike) -> Floats:
    """[L] the advantage of each token's turn, 0 off the policy's tokens (``turn_id`` is -1 there)."""
    advantages, turns = np.asarray(turn_advantages, dtype=np.float64), np.asarray(turn_id)
    return np.where(np.asarray(action_mask, dtype=bool), advantages[turns], 0.0)


def turn_ends(turn_id: ArrayLike, action_mask: ArrayLike, n_turns: int) -> list[int]:
    """[T] the position of each turn's last token of the policy, -1 for a turn without one.

    From the turn table, never from where a reward is not 0: a turn that earned exactly 0 is still a turn.
    """
    turns = np.where(np.asarray(action_mask, dtype=bool), np.asarray(turn_id), -1)
    return [int(at[-1]) if len(at := np.flatnonzero(turns == t)) else -1 for t in range(n_turns)]
