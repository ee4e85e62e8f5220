"""Preference as reward: a reward seen against those of reference answers, bounded; and what it was compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from milepost.credit.cards import method
from milepost.credit.combine.arrays import finite, sigmoid
from milepost.credit.normalise import FLAT, Floats


@method("par", "combiner", level="episode", channel="reward", paper="arXiv 2502.18770")
def par(rewards: ArrayLike, references: ArrayLike, *, k: float = 1.0) -> Floats:
    """[...] ``(1 / M) * sum_m sigmoid(k * (r - r_ref_m))``: how often the answer is preferred to a reference's.

    Between 0 and 1, 0.5 where the answer is as good as its only reference; it grows fast at first and converges.

    Args:
        rewards: ``[...]`` of a reward model, any shape.
        references: ``[M]`` rewards of M >= 1 other answers to the same prompt; ``[..., M]`` where prompts differ.
        k: Steepness, in 1 / unit of the reward.

    Source: Fu et al. 2025, arXiv 2502.18770.
    Pair with: ``advantage.grpo``.
    """
    return np.asarray(sigmoid(k * _against("par", rewards, references)).mean(-1), dtype=np.float64)


def tanh(rewards: ArrayLike, references: ArrayLike, *, k: float = 1.0) -> Floats:
    """[...] ``(1 / M) * sum_m tanh(k * (r - r_ref_m))``, between -1 and 1."""
    return np.asarray(np.tanh(k * _against("tanh", rewards, references)).mean(-1), dtype=np.float64)


def log_sigmoid(rewards: ArrayLike, references: ArrayLike, *, percentile: float = 85.0) -> Floats:
    """[...] ``log sigmoid(r - c)``, c the percentile of the reference rewards: no lower bound, 0 the upper one."""
    r, pool = finite("log_sigmoid: rewards", rewards), _pool("log_sigmoid", references)
    return np.asarray(-np.logaddexp(0.0, np.percentile(pool, percentile) - r), dtype=np.float64)


def mean_std(rewards: ArrayLike, references: ArrayLike, *, eps: float = 1e-6) -> Floats:
    """[...] ``(r - mean) / (std + eps)`` of the references (population); zeros where these do not differ."""
    r, pool = finite("mean_std: rewards", rewards), _pool("mean_std", references)
    return np.zeros_like(r) if pool.std() < FLAT else (r - pool.mean()) / (pool.std() + eps)


def clip(rewards: ArrayLike, references: ArrayLike) -> Floats:
    """[...] the reward, cut at ``mean - std`` and ``mean + std`` of the references (population)."""
    r, pool = finite("clip: rewards", rewards), _pool("clip", references)
    return np.clip(r, pool.mean() - pool.std(), pool.mean() + pool.std())


def min_max(rewards: ArrayLike, references: ArrayLike) -> Floats:
    """[...] ``(r - min) / (max - min)`` of the references, cut at 0 and 1; zeros where these do not differ."""
    r, pool = finite("min_max: rewards", rewards), _pool("min_max", references)
    width = pool.max() - pool.min()
    return np.zeros_like(r) if width < FLAT else np.clip((r - pool.min()) / width, 0.0, 1.0)


def ceiling(rewards: ArrayLike, references: ArrayLike = (), *, limit: float | None = None) -> Floats:
    """[...] ``min(r, limit)``; without a limit, the largest of the references."""
    r = finite("ceiling: rewards", rewards)
    return np.minimum(r, _pool("ceiling", references).max() if limit is None else limit)


SHAPES: Mapping[str, Callable[..., Floats]] = MappingProxyType(
    {f.__name__: f for f in (par, tanh, log_sigmoid, mean_std, clip, min_max, ceiling)}
)
"""The ways to bound a reward by those of references, by name. The paper's baselines keep statistics over the run;
which ones is unverified, so give as ``references`` the rewards that they should be taken from."""


def shaped(how: str, rewards: ArrayLike, references: ArrayLike = (), **options: Any) -> Floats:
    """[...] the rewards in the way that ``SHAPES`` names.

    Raises:
        ValueError: It names none.
    """
    if how not in SHAPES:
        raise ValueError(f"par: expected one of {', '.join(SHAPES)}, got {how!r}")
    return SHAPES[how](rewards, references, **options)


def _against(name: str, rewards: ArrayLike, references: ArrayLike) -> Floats:
    """[..., M] each reward less each reference's."""
    r, theirs = finite(f"{name}: rewards", rewards), finite(f"{name}: references", references)
    if theirs.ndim == 0 or theirs.shape[-1] == 0:
        raise ValueError(f"{name} needs references: rewards of at least one other answer to the prompt, got none")
    return r[..., None] - theirs


def _pool(name: str, references: ArrayLike) -> Floats:
    pool = finite(f"{name}: references", references).ravel()
    if not len(pool):
        raise ValueError(f"{name} needs references: rewards to compare with, got none")
    return pool
