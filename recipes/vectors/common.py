"""COM: primitives that all methods share. MTG: the Practitioner's Guide."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from milepost.credit import advantage, normalise
from milepost.credit.dense import Dense, dense
from milepost.credit.made import episode
from milepost.credit.returns import broadcast, token_gae, turn_ends
from milepost.recipes.vectors.family import Family

com, mtg = Family(), Family()
Rows = list[list[float]]


def column(advantages: advantage.Returns) -> list[float]:
    """[G] the one number that all turns of each attempt of the only group have."""
    assert all(len(set(row)) == 1 for group in advantages for row in group)
    return [row[0] for row in advantages[0]]


@com.computes("center", "zscore_sample_eps1e6", "zscore_population_eps1e6", "rloo")
def normalisers(group_rewards: list[float]) -> dict[str, Any]:
    return {
        "center": normalise.center(group_rewards),
        "zscore_sample_eps1e6": normalise.zscore(group_rewards),
        "zscore_population_eps1e6": normalise.zscore(group_rewards, ddof=0),
        "rloo": normalise.rloo(group_rewards),
    }


@com.computes("loo_baseline", "loo_std_of_others", "naive_division_for_item_0_with_eps1e6", "required")
def leave_one_out(group_rewards: list[float]) -> dict[str, Any]:
    x = np.array(group_rewards)
    spreads = [normalise.spread(np.delete(x, i)) for i in range(len(x))]
    return {
        "loo_baseline": x - normalise.rloo(x),
        "loo_std_of_others": spreads,
        "naive_division_for_item_0_with_eps1e6": normalise.rloo(x)[0] / (spreads[0] + 1e-6),
        "required": column(advantage.rloo([[[r] for r in group_rewards]])),
    }


@com.computes("zscore_adv_c1", "zscore_adv_c001", "centered_adv_c1", "centered_adv_c001")
def dark_room(outcomes: list[float], process_sums: list[float], coefficients: list[float]) -> dict[str, Any]:
    def totals(c: float) -> list[Rows]:
        return [[[o + c * p] for o, p in zip(outcomes, process_sums, strict=True)]]

    largest, smallest = max(coefficients), min(coefficients)
    z, c = partial(advantage.grpo, eps=0.0), partial(advantage.grpo, scale="none")
    return {
        "zscore_adv_c1": column(z(totals(largest))),
        "zscore_adv_c001": column(z(totals(smallest))),
        "centered_adv_c1": column(c(totals(largest))),
        "centered_adv_c001": column(c(totals(smallest))),
    }


@com.computes(
    "per_turn_mean",
    "center_then_accumulate",
    "return_to_go",
    "mean_return_to_go",
    "accumulate_then_center",
    "accumulate_then_leave_one_out_singleton_raw",
)
def ragged(turn_rewards: Rows, gamma: float) -> dict[str, Any]:
    rtg = advantage.turn_rtg
    to_go = advantage.returns([turn_rewards], gamma)
    return {
        "per_turn_mean": _means(turn_rewards),
        "center_then_accumulate": rtg([turn_rewards], gamma, leave_one_out=False, order="normalise_then_accumulate")[0],
        "return_to_go": to_go[0],
        "mean_return_to_go": _means(to_go[0]),
        "accumulate_then_center": rtg([turn_rewards], gamma, leave_one_out=False)[0],
        "accumulate_then_leave_one_out_singleton_raw": rtg([turn_rewards], gamma, singleton="raw")[0],
    }


@com.computes("pool_mean", "pooled_then_accumulate", "first_turn_gap")
def pool(turn_rewards: Rows, gamma: float) -> dict[str, Any]:
    centred = advantage.normalised([turn_rewards], over="group")
    accumulated = advantage.returns(centred, gamma)[0]
    return {
        "pool_mean": turn_rewards[0][0] - (centred[0][0][0] or 0.0),
        "pooled_then_accumulate": accumulated,
        "first_turn_gap": accumulated[0][0] - accumulated[1][0],
    }


@com.computes("token_advantage", "turn_end")
def placement(action_mask: list[int], turn_id: list[int], turn_advantage: list[float]) -> dict[str, Any]:
    return {
        "token_advantage": broadcast(turn_advantage, turn_id, action_mask),
        "turn_end": turn_ends(turn_id, action_mask, len(turn_advantage)),
    }


@com.computes("token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "seq_mean_token_sum_norm_const_64")
def aggregations(token_loss: Rows, mask: list[list[int]]) -> dict[str, Any]:
    import torch

    from milepost.agents.loss import aggregate

    loss, where = torch.tensor(token_loss), torch.tensor(mask)
    return {
        "token_mean": aggregate(loss, where, "token_mean").item(),
        "seq_mean_token_mean": aggregate(loss, where, "seq_mean_token_mean").item(),
        "seq_mean_token_sum": aggregate(loss, where, "seq_mean_token_sum").item(),
        "seq_mean_token_sum_norm_const_64": aggregate(loss, where, "seq_mean_token_sum_norm", 64.0).item(),
    }


@mtg.computes("win_turn_rewards", "lose_turn_rewards", "sparse_win")
def dense_rewards(win: dict[str, Any], lose: dict[str, Any]) -> dict[str, Any]:
    (sparse,) = Dense(sparse=True).on_group([episode(win["final"], score=win["interm"])])
    return {
        "win_turn_rewards": dense(win["interm"], win["final"]),
        "lose_turn_rewards": dense(lose["interm"], lose["final"], lose["max_total"]),
        "sparse_win": sparse,
    }


@mtg.computes("advantage_unwhitened", "returns")
def tokens(token_reward: Any, values: Any, action_mask: Any, gamma: float, lam: float) -> dict[str, Any]:
    advantages, returns = token_gae(token_reward, values, action_mask, gamma=gamma, lam=lam)
    return {"advantage_unwhitened": advantages, "returns": returns}


@mtg.computes("trajectory_sum", "rloo", "grpo_sample_std")
def totals(turn_rewards: Rows) -> dict[str, Any]:
    return {
        "trajectory_sum": advantage.totals([turn_rewards])[0],
        "rloo": column(advantage.rloo([turn_rewards])),
        "grpo_sample_std": column(advantage.grpo([turn_rewards])),
    }


def _means(rows: Rows) -> list[float]:
    """[T] the baseline of each turn: what centring took off the longest attempt."""
    longest = max(rows, key=len)
    centred = advantage.normalised([rows])[0][rows.index(longest)]
    return [value - (less or 0.0) for value, less in zip(longest, centred, strict=True)]
