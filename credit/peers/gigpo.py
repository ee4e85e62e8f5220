"""GiGPO: turns taken in the same state are compared with each other, beside the comparison of whole attempts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from functools import partial
from typing import Literal

import numpy as np

from milepost.credit import advantage, normalise
from milepost.credit.advantage import Batch, Numbers, Returns
from milepost.credit.cards import method
from milepost.credit.normalise import Normaliser
from milepost.credit.peers.given import same_shape
from milepost.envs.core import ContractError, Episode


@method("gigpo", "estimator", needs="outcome state_key", channel="separate", paper="arXiv 2505.10978")
def gigpo(
    groups: Batch,
    rewards: Numbers,
    gamma: float = 0.95,
    omega: float = 1.0,
    scale: Literal["group", "none"] = "group",
    *,
    eps: float = 1e-6,
) -> Returns:
    """Return ``[N][G][T]`` ``A = A_episode + omega * A_step``.

    ``A_episode``: an attempt's total, normalised in its group. ``A_step``: a turn's return-to-go (discounted by
    ``gamma`` a turn), normalised among all turns of the group that were taken in the same state, several of one attempt
    included; a state seen once gives 0. ``scale="none"`` only centres, which the paper often found better. Where no
    state comes twice this is GRPO; ``singletons`` says how near a batch is to that.

    Source: Feng et al. 2025, arXiv 2505.10978. Needs: ``info["state_key"]`` at reset and every step, an outcome.
    Differs: a released port groups by the state alone over the whole batch; here a state belongs to its task's group.
    Pair with: ``validity`` (a penalty of 0.1), outcomes of 0 and 10, 8 attempts.
    """
    same_shape("gigpo", groups, rewards)
    normaliser = normaliser_of("gigpo", scale, eps)
    whole = advantage.grpo(rewards, scale=scale, eps=eps)
    steps = [
        among_equals(state_keys("gigpo", group), rows, normaliser)
        for group, rows in zip(groups, advantage.returns(rewards, gamma), strict=True)
    ]
    return [
        [[a + omega * s for a, s in zip(*pair, strict=True)] for pair in zip(*rows, strict=True)]
        for rows in zip(whole, steps, strict=True)
    ]


def singletons(groups: Batch) -> float:
    """Return the share, 0..1, of states that only one turn of their group was taken in; 0 where there is none."""
    sizes = [
        size for group in groups for size in Counter(key for row in state_keys("gigpo", group) for key in row).values()
    ]
    return sum(size == 1 for size in sizes) / len(sizes) if sizes else 0.0


def state_keys(name: str, group: Sequence[Episode]) -> list[list[str]]:
    """Return ``[G][T]`` the key of the state in which each turn was taken; ``name`` is the method that asks.

    Raises:
        ContractError: The environment gave none.
    """
    rows: list[list[str]] = []
    for episode in group:
        rows.append([])
        for t in range(len(episode.turns)):
            key = episode.info_before(t).get("state_key")
            if key is None:
                at = f"the step of turn {t - 1}" if t else "reset"
                raise ContractError(f"{name} needs info['state_key'] from {at}; {episode.env_id} gave none")
            rows[-1].append(key)
    return rows


def among_equals(
    keys: Sequence[Sequence[Hashable]], values: Sequence[Sequence[float]], normaliser: Normaliser
) -> list[list[float]]:
    """[G][T] each value normalised among those of the group whose key is equal; 0 for a key that comes once."""
    places: defaultdict[Hashable, list[tuple[int, int]]] = defaultdict(list)
    for g, row in enumerate(keys):
        for t, key in enumerate(row):
            places[key].append((g, t))
    result = [[0.0] * len(row) for row in keys]
    for pool in places.values():
        if len(pool) > 1:
            normal = normaliser(np.array([values[g][t] for g, t in pool]))
            for (g, t), value in zip(pool, normal.tolist(), strict=True):
                result[g][t] = value
    return result


def normaliser_of(name: str, scale: str, eps: float) -> Normaliser:
    """Return what a pool is normalised by: z-scores (``group``) or deviations (``none``)."""
    if scale not in ("group", "none"):
        raise ValueError(f"{name}: scale: expected 'group' or 'none', got {scale!r}")
    return partial(normalise.zscore, eps=eps) if scale == "group" else normalise.center
