"""Decoupled normalisation: every reward against its own kind before they are added; and rewards on condition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from milepost.credit import advantage, normalise
from milepost.credit.advantage import Batch, Numbers, Returns
from milepost.credit.cards import method
from milepost.credit.combine.arrays import finite
from milepost.credit.normalise import Floats, Singleton
from milepost.envs.core import ContractError

OUTCOME = "outcome"
"""The outcome's name among the weights."""
PAPER = "arXiv 2601.05242"


@method("gdpo", "estimator", level="episode", needs="outcome process", channel="separate", paper=PAPER, batch=True)
def gdpo(
    groups: Batch,
    rewards: Numbers,
    *,
    labels: Sequence[str] = (),
    weights: Mapping[str, float] | None = None,
    whiten: bool = True,
    ddof: int = 1,
    eps: float = 1e-6,
    singleton: Singleton = "zero",
) -> Returns:
    """Return ``[N][G][T]`` ``A = (S - mean_batch S) / (std_batch S + eps)``, ``S = sum_k w_k z_k``; all turns alike.

    ``z_k`` is the group's z-score of reward k: each attempt's total of one label, and the outcome. Weights come after,
    since a z-score undoes any that comes before. An attempt in which a label judged nothing is not in its pool.

    A batch of one group of two cannot tell a big difference from a small one; exactly opposite rewards cancel. Sum a
    label over turns only if repeating an action cannot raise it.

    Args:
        groups: The episodes, with the credit of all labels written.
        rewards: ``[N][G][T]`` as of ``advantage.rewards``; read only where no label is named, as the only reward.
        labels: Which credit counts; the outcome does too.
        weights: Of labels and of ``"outcome"``, 1 where nothing is said; 0 leaves it out.
        whiten: Whether to take the batch step; without it, S.
        ddof: What the deviations' divisors are less than n.
        eps: Added to the batch's deviation.
        singleton: What the attempt of a group of one gets in each z-score.

    Source: Liu et al. 2026, arXiv 2601.05242.
    Differs: the dimensions' deviations get no eps, so that rewards that cancel leave exactly nothing.
    """
    given = {**dict.fromkeys([*labels, OUTCOME], 1.0), **(weights or {})}
    if unknown := set(given) - {*labels, OUTCOME}:
        raise ValueError(f"gdpo: weights: {', '.join(sorted(unknown))} is among no labels; there is {', '.join(given)}")
    if empty := next((e for group in groups for e in group if not e.turns), None):
        raise ContractError(f"gdpo: episode {empty.id!r}: expected at least one turn, got none")
    if not labels and [len(group) for group in rewards] != [len(group) for group in groups]:
        raise ContractError("gdpo: expected rewards of the groups' attempts, [N][G][T] as advantage.rewards gives them")
    zscore = partial(normalise.zscore, ddof=ddof, singleton=singleton)
    terms = {k: w for k, w in given.items() if w} if labels else {"": given[OUTCOME]}
    tables = [(w, _columns(groups, rewards, label)) for label, w in terms.items()]
    # Without eps: rewards that cancel must leave nothing that the whitening could make loud.
    scored = [(w, advantage.normalised(table, partial(zscore, eps=0.0))) for w, table in tables]
    sums = [
        [_sum([(w, table[n][g][0]) for w, table in scored]) for g in range(len(group))]
        for n, group in enumerate(groups)
    ]
    if whiten:
        flat = iter(advantage.normalised([[[s] for row in sums for s in row]], partial(zscore, eps=eps))[0])
        sums = [[next(flat)[0] for _ in row] for row in sums]
    return [
        [[0.0 if s is None else s] * len(e.turns) for s, e in zip(row, group, strict=True)]
        for row, group in zip(sums, groups, strict=True)
    ]


def decoupled(rewards: ArrayLike, weights: ArrayLike | None = None, *, ddof: int = 1) -> Floats:
    """[G] ``S = sum_k w_k z_k`` of one group's ``[G, K]`` rewards: what ``gdpo`` whitens over the batch."""
    columns = finite("gdpo: rewards", rewards, 2).T
    w = np.ones(len(columns)) if weights is None else finite("gdpo: weights", weights, 1)
    if len(w) != len(columns):
        raise ValueError(f"gdpo: expected {len(columns)} weights, one a reward, got {len(w)}")
    z = [normalise.zscore(column, ddof=ddof, eps=0.0) for column in columns]
    return np.asarray(sum((a * b for a, b in zip(w, z, strict=True)), np.zeros(columns.shape[1])), dtype=np.float64)


@method("conditional", "combiner", channel="gate", paper=PAPER)
def conditional(easy: ArrayLike, hard: ArrayLike, *, at_least: float = 1.0) -> Floats:
    """[...] ``R_easy * 1[R_hard >= c]``: an easy reward counts only where the hard one was earned; equality passes.

    Source: Liu et al. 2026, arXiv 2601.05242.
    """
    return np.where(finite("conditional: hard", hard) >= at_least, finite("conditional: easy", easy), 0.0)


def _columns(groups: Batch, rewards: Numbers, label: str) -> list[list[list[float | None]]]:
    """[N][G][1] what each attempt got by one label, None where nothing was judged."""
    if label == OUTCOME:
        return [[row[-1:] for row in group] for group in advantage.rewards(groups)]
    table = advantage.rewards(groups, label, outcome=0.0) if label else rewards
    return [[[_sum([(1.0, value) for value in row])] for row in group] for group in table]


def _sum(terms: Sequence[tuple[float, float | None]]) -> float | None:
    found = [w * value for w, value in terms if value is not None]
    return sum(found) if found else None
