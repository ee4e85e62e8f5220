"""EMPG: sure steps learn more, unsure ones less, and what leads to a clear state is liked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from milepost.credit import advantage, normalise
from milepost.credit.advantage import Batch, Numbers, Returns
from milepost.credit.cards import method
from milepost.credit.normalise import Floats
from milepost.credit.peers.given import same_shape
from milepost.envs.core import ContractError, Episode


class Entropies(NamedTuple):
    """How unsure the policy was in every turn."""

    table: Returns
    """``[N][G][T]`` in nats a token."""
    n_estimated: int
    """Turns without recorded entropies: minus the mean log-probability of what was sampled stands for theirs."""


class Modulation(NamedTuple):
    """What entropies do to advantages: ``scale * A + bonus``; flat, in the order of groups, attempts and turns."""

    scale: Floats
    bonus: Floats


@method("empg", "estimator", needs="entropies", paper="arXiv 2509.09265", batch=True)
def empg(
    groups: Batch,
    rewards: Numbers,
    base: Callable[[Numbers], Sequence[Sequence[Sequence[float]]]] = advantage.grpo,
    *,
    k: float = 1.0,
    k_next: float = 1.0,
    zeta: float = 0.05,
) -> Returns:
    """Return ``[N][G][T]`` ``A_t * exp(-k H_t) / mean(exp(-k H)) + zeta * exp(-k_next H_{t+1})``, less the mean of all.

    ``H`` is a turn's mean token entropy, brought to 0..1 by the least and the greatest of the batch; ``A`` is what
    ``base`` makes of the rewards. The second term is 0 on an episode's last turn. It does not depend on the rewards, so
    a group in which all fared alike gets advantages too. Where all entropies are equal H is 0.

    Source: *EMPG* 2025, arXiv 2509.09265 (``zeta`` 0.05 to 0.1).
    Needs: ``tokens.entropies`` (``LocalPolicy(entropies=True)``). A turn without them is estimated from its
    log-probabilities, whose mean is minus the entropy; ``step_entropies(groups).n_estimated`` counts these.
    """
    same_shape("empg", groups, rewards)
    entropies = step_entropies(groups).table
    lengths = [[len(row) for row in group] for group in entropies]
    if not any(map(sum, lengths)):
        return [[[] for _ in group] for group in groups]
    of_turn = np.array([h for group in entropies for row in group for h in row])
    last = np.array([t + 1 == n for group in lengths for n in group for t in range(n)])
    scale, bonus = modulation(least_to_greatest(of_turn), last, k, k_next, zeta)
    values = np.array([a for group in base(rewards) for row in group for a in row]) * scale + bonus
    left = iter(zero_meaned(values).tolist())
    return [[[next(left) for _ in range(n)] for n in group] for group in lengths]


def modulation(
    entropies: Floats, last: Sequence[bool] | np.ndarray, k: float = 1.0, k_next: float = 1.0, zeta: float = 0.05
) -> Modulation:
    """Return the factor and the bonus of each turn, of entropies 0..1; ``last`` marks where an episode ends."""
    own = np.exp(-k * entropies)
    following = zeta * np.exp(-k_next * np.roll(entropies, -1))
    return Modulation(own / own.mean(), np.where(last, 0.0, following))


def zero_meaned(values: Floats) -> Floats:
    """Return the values less their mean."""
    return values - float(values.mean())


def least_to_greatest(values: Floats) -> Floats:
    """Return the values with the least at 0 and the greatest at 1; zeros where they are equal."""
    least, width = values.min(), np.ptp(values)
    return (values - least) / width if width > normalise.FLAT else np.zeros_like(values)


def step_entropies(groups: Batch) -> Entropies:
    """Return the mean token entropy of every turn.

    Raises:
        ContractError: A turn has neither entropies nor log-probabilities.
    """
    n_estimated = 0
    table: Returns = []
    for group in groups:
        table.append([])
        for episode in group:
            table[-1].append([])
            for t in range(len(episode.turns)):
                value, estimated = _entropy(episode, t)
                n_estimated += estimated
                table[-1][-1].append(value)
    return Entropies(table, n_estimated)


def _entropy(episode: Episode, t: int) -> tuple[float, bool]:
    tokens = episode.turns[t].action.tokens
    if tokens is not None and len(tokens.ids):
        if tokens.entropies is not None and np.isfinite(tokens.entropies).all():
            return float(tokens.entropies.mean(dtype=np.float64)), False
        if np.isfinite(tokens.logprobs).all():
            return -float(tokens.logprobs.mean(dtype=np.float64)), True
    raise ContractError(
        f"empg needs tokens.entropies or tokens.logprobs; episode {episode.id!r}, turn {t} has none "
        "(a LocalPolicy records them)"
    )
