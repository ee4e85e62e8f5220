"""GIGPO, MTGRPO, VINE, ARPO, EMPG: the peers that are estimators and samplers."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import numpy as np

from milepost.credit import advantage
from milepost.credit.made import episode
from milepost.credit.peers import arpo as branching
from milepost.credit.peers import empg as entropies
from milepost.credit.peers.gigpo import gigpo as anchored
from milepost.credit.peers.mt_grpo import mt_grpo
from milepost.credit.peers.vineppo import monte_carlo
from milepost.envs.core import Stop
from milepost.recipes.vectors.common import column
from milepost.recipes.vectors.family import Family

gigpo, mtgrpo, vine, arpo, empg = Family(), Family(), Family(), Family(), Family()
Rows = list[list[float]]


@gigpo.computes(
    "returns",
    "episode_adv_std",
    "step_adv_std",
    "combined_std",
    "episode_adv_center",
    "step_adv_center",
    "combined_center",
)
def anchors(states: list[list[str]], turn_rewards: Rows, gamma: float, omega: float) -> dict[str, Any]:
    group = [episode(state_key=keys, n_turns=len(keys)) for keys in states]
    found: dict[str, Any] = {"returns": advantage.returns([turn_rewards], gamma)[0]}
    scales: dict[str, Literal["group", "none"]] = {"std": "group", "center": "none"}
    for word, scale in scales.items():
        method = partial(anchored, [group], [turn_rewards], gamma, scale=scale)
        whole, combined, doubled = (method(omega=w) for w in (0.0, omega, 2 * omega))
        found[f"episode_adv_{word}"] = column(whole)
        found[f"step_adv_{word}"] = [
            [(b - a) / omega for a, b in zip(*rows, strict=True)] for rows in zip(combined[0], doubled[0], strict=True)
        ]
        found[f"combined_{word}"] = combined[0]
    return found


@mtgrpo.computes("turn_adv", "outcome_adv", "first_turn_tokens", "later_tokens")
def two_segments(turn_reward: list[float], outcome: list[float], lam: float) -> dict[str, Any]:
    group = [episode(o, n_turns=2) for o in outcome]
    rewards = [[[r, o] for r, o in zip(turn_reward, outcome, strict=True)]]
    method = partial(mt_grpo, [group], rewards, eps=1e-6)  # the example's; the released code, and so the default, 1e-4
    both, alone = np.array(method(lam)[0]), np.array(method(0.0)[0])
    return {
        "turn_adv": (both - alone)[:, 0] / lam,
        "outcome_adv": alone[:, 0],
        "first_turn_tokens": both[:, 0],
        "later_tokens": both[:, 1],
    }


@vine.computes("advantage")
def steps(mc_value: list[float], step_reward: list[float], gamma: float, last_state_terminal: bool) -> dict[str, Any]:
    stop = Stop.TERMINATED if last_state_terminal else Stop.MAX_TURNS
    played = episode(credit={"vineppo": mc_value[: len(step_reward)]}, stop=stop)
    return {"advantage": monte_carlo([[played]], [[step_reward]], gamma=gamma)[0][0]}


@arpo.computes("branch")
def branch(delta_entropy: list[float], threshold_draws: list[float], weight: float, base: float) -> dict[str, Any]:
    return {"branch": branching.arpo(delta_entropy, threshold_draws, weight=weight, base=base)}


@empg.computes("self_scale", "future_bonus", "modulated", "zero_meaned")
def modulated(
    normalised_entropy: list[float], advantage: float, k: float, k_next: float, zeta: float
) -> dict[str, Any]:
    h = np.array(normalised_entropy)
    last = [False] * (len(h) - 1) + [True]
    scale, bonus = entropies.modulation(h, last, k, k_next, zeta)
    values = scale * advantage + bonus
    return {
        "self_scale": scale,
        "future_bonus": bonus,
        "modulated": values,
        "zero_meaned": entropies.zero_meaned(values),
    }
