"""ARPO: branch off where a tool's answer made the policy unsure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from milepost.credit.advantage import Batch
from milepost.credit.cards import method
from milepost.envs.core import ContractError, Episode


@method("arpo", "sampler", needs="entropies", paper="arXiv 2507.19849")
def arpo(delta_entropy: ArrayLike, draws: ArrayLike, *, weight: float = 0.2, base: float = 0.5) -> list[bool]:
    """[S] whether to branch off in each state: ``draw - weight * delta_entropy <= base``.

    Args:
        delta_entropy: ``[S]`` how much less sure the policy is than at first (``entropy_change``).
        draws: ``[S]`` uniform in 0..1.
        weight: How much it counts.
        base: The chance where nothing changed.

    Source: *ARPO* 2025, arXiv 2507.19849; there 8 of 16 attempts are played from the start, and 2 a branch.
    Needs: ``tokens.entropies`` (``LocalPolicy(entropies=True)``), and a replay to play from ``branch_points``.
    Pair with: ``shared_prefix`` after any estimator.
    """
    change, draw = np.asarray(delta_entropy, dtype=np.float64), np.asarray(draws, dtype=np.float64)
    if change.shape != draw.shape or change.ndim != 1:
        raise ValueError(f"arpo: expected as many draws as changes, got {draw.shape} and {change.shape}")
    if not (np.isfinite(change).all() and np.isfinite(draw).all()):
        raise ValueError("arpo: expected finite changes and draws")
    branch: list[bool] = (draw - weight * change <= base).tolist()
    return branch


def branch_points(
    episodes: Sequence[Episode],
    draws: Sequence[Sequence[float]],
    *,
    vocab: int,
    n_tokens: int = 20,
    weight: float = 0.2,
    base: float = 0.5,
) -> list[tuple[Episode, int]]:
    """Return the (episode, turn) to branch off before, of all turns that follow an answer; ``draws [E][T]``."""
    states = [(e, t, row[t]) for e, row in zip(episodes, draws, strict=True) for t in range(1, len(e.turns))]
    changes = [entropy_change(e, t, vocab=vocab, n_tokens=n_tokens) for e, t, _ in states]
    chosen = arpo(changes, [draw for *_, draw in states], weight=weight, base=base)
    return [(e, t) for (e, t, _), branch in zip(states, chosen, strict=True) if branch]


def entropy_change(episode: Episode, t: int, *, vocab: int, n_tokens: int = 20) -> float:
    """Return the rise of the entropy from turn 0 to turn ``t``, over their first tokens, in units of ``log(vocab)``.

    Differs: the released code sums the ten likeliest tokens; recorded entropies are of the whole distribution.

    Raises:
        ContractError: One of the turns has no entropies.
    """
    means = []
    for i in (0, t):
        tokens = episode.turns[i].action.tokens
        if tokens is None or tokens.entropies is None or not len(tokens.entropies):
            raise ContractError(
                f"arpo needs tokens.entropies; episode {episode.id!r}, turn {i} has none (LocalPolicy(entropies=True))"
            )
        means.append(float(tokens.entropies[:n_tokens].mean(dtype=np.float64)))
    return (means[1] - means[0]) / float(np.log(vocab))


def shared_prefix(
    groups: Batch, advantages: Sequence[Sequence[Sequence[Any]]], *, once: bool = False
) -> list[list[list[Any]]]:
    """Return ``[N][G][T]`` the advantages, where a turn that several branches share has the mean of theirs.

    A branch's episode begins with the turns that it took over (``episode.parent``), and so do its branches' episodes.
    With ``once`` only the first copy is trained on, the others get None.
    """
    table: list[list[list[Any]]] = []
    for group, rows in zip(groups, advantages, strict=True):
        parents = {e.id: e.parent for e in group if e.parent is not None}
        copies: dict[tuple[str, int], list[tuple[int, int]]] = {}
        for g, episode in enumerate(group):
            for t in range(len(episode.turns)):
                copies.setdefault((_taker(episode.id, t, parents), t), []).append((g, t))
        result: list[list[Any]] = [list(row) for row in rows]
        for places in copies.values():
            known = [rows[g][t] for g, t in places if rows[g][t] is not None]
            if len(places) > 1:
                mean = sum(known) / len(known) if known else None
                for i, (g, t) in enumerate(places):
                    result[g][t] = None if once and i else mean
        table.append(result)
    return table


def _taker(id: str, t: int, parents: dict[str, dict[str, Any]]) -> str:
    """Return the id of the episode in which turn ``t`` was first taken."""
    for _ in range(len(parents) + 1):
        if id not in parents or t >= parents[id]["turn"]:
            return id
        id = str(parents[id]["episode"])
    raise ContractError(f"arpo: the parents of episode {id!r} lead back to itself")
