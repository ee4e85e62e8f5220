"""What estimators per token have in common: rewards onto tokens, a critic's values by token, whitening."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from milepost.credit import normalise
from milepost.credit.normalise import Floats
from milepost.envs.core import ContractError, Episode, Stop

Bootstrap = Literal["zero", "last"]
"""What follows an episode that a limit cut: nothing (its score is its outcome), or as much as its last value says."""


def placed(
    turn_rewards: ArrayLike,
    turn_end: ArrayLike,
    action_mask: ArrayLike,
    log_ratio: ArrayLike | None = None,
    kl: float = 0.0,
) -> Floats:
    """[L] ``kl * (log p_ref - log p)`` on every token of the policy, and each turn's reward on its last.

    Args:
        turn_rewards: ``[T]``.
        turn_end: ``[T]`` where each turn's last token is (``returns.turn_ends``).
        action_mask: ``[L]`` the policy's tokens.
        log_ratio: ``[L]`` ``log p_ref - log p`` in nats, k1 of the KL divergence with the sign of a reward.
        kl: Its weight.

    Source: Wang et al. 2025, arXiv 2505.20732.
    """
    mask = np.asarray(action_mask, dtype=bool)
    rewards = np.zeros(len(mask))
    if log_ratio is not None:
        rewards = np.where(mask, kl * np.asarray(log_ratio, np.float64), 0.0)
    np.add.at(rewards, np.asarray(turn_end, dtype=np.intp), np.asarray(turn_rewards, np.float64))
    return rewards


def lengths(name: str, episode: Episode) -> list[int]:
    """[T] how many tokens each turn sampled.

    Raises:
        ContractError: A turn has none, so a reward has no place.
    """
    counts = [len(turn.action.tokens.ids) if turn.action.tokens else 0 for turn in episode.turns]
    if 0 in counts:
        at = counts.index(0)
        raise ContractError(f"{name} needs tokens: episode {episode.id!r}, turn {at} has none (a LocalPolicy's have)")
    return counts


def token_credit(name: str, episode: Episode, label: str, given_by: str) -> Floats:
    """[sum of A] the numbers per token of ``label``, turn after turn.

    Raises:
        ContractError: A turn has none of its own tokens' length.
    """
    rows = [turn.credit.get(label) for turn in episode.turns]
    for t, (row, n) in enumerate(zip(rows, lengths(name, episode), strict=True)):
        if not isinstance(row, np.ndarray) or row.shape != (n,):
            raise ContractError(
                f"{name} needs credit {label!r} per token ({given_by}): "
                f"episode {episode.id!r}, turn {t} has {_kind(row)}"
            )
    return np.concatenate([np.asarray(row, np.float64) for row in rows]) if rows else np.zeros(0)


def turn_credit(name: str, episode: Episode, label: str, given_by: str) -> list[float]:
    """[T] the numbers of ``label``, one a turn.

    Raises:
        ContractError: A turn has none.
    """
    rows = [turn.credit.get(label) for turn in episode.turns]
    for t, row in enumerate(rows):
        if row is None or isinstance(row, np.ndarray):
            raise ContractError(
                f"{name} needs credit {label!r} per turn ({given_by}): "
                f"episode {episode.id!r}, turn {t} has {_kind(row)}"
            )
    return [float(row) for row in rows if row is not None]


def following(episode: Episode, values: Floats | Sequence[float], bootstrap: Bootstrap) -> float:
    """Return the value of what follows the last turn: 0 after a terminal state; see ``Bootstrap``."""
    if bootstrap not in get_args(Bootstrap):
        raise ValueError(f"bootstrap: expected 'zero' or 'last', got {bootstrap!r}")
    cut = episode.stop not in (None, Stop.TERMINATED)
    return float(values[-1]) if cut and bootstrap == "last" and len(values) else 0.0


def whitened(table: Sequence[Sequence[Sequence[Any]]]) -> list[list[list[Any]]]:
    """Return the table with mean 0 and deviation 1 over all its numbers: ``(x - m) / sqrt(var + 1e-8)``.

    The pool is this rank's batch. Fewer than two numbers, or equal ones, give zeros.
    """
    parts = [np.atleast_1d(np.asarray(x, np.float64)) for group in table for row in group for x in row]
    pool = np.concatenate(parts) if parts else np.zeros(0)
    mean = pool.mean() if len(pool) else 0.0
    flat = normalise.spread(pool) < normalise.FLAT
    by = np.inf if flat else np.sqrt(pool.var(ddof=1) + 1e-8)
    return [
        [[(x - mean) / by if isinstance(x, np.ndarray) else float((x - mean) / by) for x in row] for row in group]
        for group in table
    ]


def outcome_of(name: str, episode: Episode) -> float:
    """Return the outcome.

    Raises:
        ContractError: There is none.
    """
    if (outcome := episode.outcome) is None:
        raise ContractError(f"{name} needs an outcome; episode {episode.id!r} has none (groups_of leaves it out)")
    return outcome


def same_shape(name: str, groups: Sequence[Sequence[Episode]], rewards: Sequence[Sequence[Sequence[Any]]]) -> None:
    """Check that there is a reward for every turn.

    Raises:
        ValueError: There is not.
    """
    ours = [[len(e.turns) for e in group] for group in groups]
    if (theirs := [[len(row) for row in rows] for rows in rewards]) != ours:
        raise ValueError(f"{name}: rewards: expected a number for every turn, {str(ours)[:60]}, got {str(theirs)[:60]}")


def _kind(value: Any) -> str:
    return "none" if value is None else f"shape {value.shape}" if isinstance(value, np.ndarray) else "a number"
