"""What makes one signal of several, and schedules: PAR, GDPO, ensembles, occupancies, RTO, TGDPO, weights, and more."""

from __future__ import annotations

from typing import Any

import numpy as np

from milepost.credit import advantage
from milepost.credit.combine import ads as schedule
from milepost.credit.combine import amft as balance
from milepost.credit.combine import dr_irl as difficulty
from milepost.credit.combine import ensemble, gradient_weights, hypervolume, occupancy
from milepost.credit.combine import gdpo as decouple
from milepost.credit.combine import krc as geometric
from milepost.credit.combine import par as preference
from milepost.credit.combine import rto as from_dpo
from milepost.credit.combine import tgdpo as guided
from milepost.credit.combine.effective_rank import erank as rank_of
from milepost.credit.combine.urpo import kendall
from milepost.credit.made import episode
from milepost.recipes.vectors.common import column
from milepost.recipes.vectors.family import Family

par, gdpo, ens, chi, rto, tgd, drw = (Family() for _ in range(7))
krc, ads, urpo, drirl, amft, erank = (Family() for _ in range(6))
Rows = list[list[float]]


@par.computes("par", "par_single_ref", "upper_bound")
def bounded(reward: float, reference_rewards: list[float], k: float) -> dict[str, Any]:
    return {
        "par": preference.par(reward, reference_rewards, k=k).item(),
        "par_single_ref": preference.par(reward, reference_rewards[:1], k=k).item(),
        "upper_bound": preference.par(1e6, reference_rewards, k=k).item(),
    }


@gdpo.computes("per_reward_zscore", "sum", "batch_whitened", "grpo_on_sum")
def one_group(rewards: Rows, weights: list[float]) -> dict[str, Any]:
    n = len(weights)
    return {
        "per_reward_zscore": [decouple.decoupled(rewards, np.eye(n)[k]) for k in range(n)],
        "sum": decouple.decoupled(rewards, weights),
        "batch_whitened": _whitened(rewards, weights),
        "grpo_on_sum": _on_sum(rewards),
    }


@gdpo.computes("grpo_on_sum_a", "grpo_on_sum_b", "decoupled_a", "decoupled_b")
def two_groups(group_a: Rows, group_b: Rows) -> dict[str, Any]:
    return {
        "grpo_on_sum_a": _on_sum(group_a),
        "grpo_on_sum_b": _on_sum(group_b),
        "decoupled_a": decouple.decoupled(group_a),
        "decoupled_b": decouple.decoupled(group_b),
    }


@ens.computes("mean", "wco", "uwo_population_var", "uwo_sample_var")
def members(member_rewards: list[float], lam: float) -> dict[str, Any]:
    return {
        "mean": ensemble.mean(member_rewards).item(),
        "wco": ensemble.wco(member_rewards).item(),
        "uwo_population_var": ensemble.uwo(member_rewards, lam=lam).item(),
        "uwo_sample_var": ensemble.uwo(member_rewards, lam=lam, variance="sample").item(),
    }


@chi.computes("chi2", "sqrt_chi2", "kl", "objective")
def strayed(policy_occupancy: Any, base_occupancy: Any, proxy: Any, lam: float) -> dict[str, Any]:
    return {
        "chi2": occupancy.chi2(policy_occupancy, base_occupancy),
        "sqrt_chi2": occupancy.sqrt_chi2(policy_occupancy, base_occupancy),
        "kl": occupancy.kl(policy_occupancy, base_occupancy),
        "objective": occupancy.objective(proxy, policy_occupancy, base_occupancy, lam=lam),
    }


@rto.computes("token_reward")
def token_rewards(
    dpo_minus_ref_logratio: list[float],
    policy_minus_ref_logratio: list[float],
    beta1: float,
    clip: float,
    beta2: float,
    final_reward: float,
    beta3: float,
) -> dict[str, Any]:
    how = {"beta1": beta1, "clip": clip, "beta2": beta2, "beta3": beta3}
    return {"token_reward": from_dpo.rto(dpo_minus_ref_logratio, policy_minus_ref_logratio, final_reward, **how)}


@tgd.computes("margin", "loss")
def pair(beta: float, alpha: float, win: Any, lose: Any) -> dict[str, Any]:
    sides = (win["logratio"], win["token_reward"], lose["logratio"], lose["token_reward"])
    return {
        "margin": float(guided.margin(*sides, beta=beta, alpha=alpha)),
        "loss": guided.tgdpo(*sides, beta=beta, alpha=alpha),
    }


@drw.computes("hv_before", "hv_after", "contribution", "multiplier", "multiplier_when_no_gain")
def front(reference: list[float], pareto: Rows, candidate: list[float], objectives: int) -> dict[str, Any]:
    assert objectives == len(reference)
    points = hypervolume.Front(reference, pareto)
    before = points.volume
    gain = points.add(candidate)
    return {
        "hv_before": before,
        "hv_after": points.volume,
        "contribution": gain,
        "multiplier": hypervolume.multiplier(gain),
        "multiplier_when_no_gain": hypervolume.multiplier(points.add(candidate)),
    }


@drw.computes("influence", "new_weights")
def by_gradient(objective_gradients: Rows, weights: list[float], eta: float, mu: float) -> dict[str, Any]:
    found = gradient_weights.influences(objective_gradients)
    return {
        "influence": found,
        "new_weights": gradient_weights.gradient_weights(weights, found, eta=eta, mu=mu),
    }


@krc.computes("krc", "mean")
def all_conditions(components: Rows) -> dict[str, Any]:
    return {"krc": geometric.krc(components), "mean": ensemble.mean(np.transpose(components))}


@ads.computes("gamma", "initial_progress", "lis_of_positions")
def discounts(alpha: float, horizon: int, progress: list[int], matched_positions: list[int]) -> dict[str, Any]:
    return {
        "gamma": [schedule.discount(k, alpha=alpha) for k in progress],
        "initial_progress": schedule.Progress(horizon, [range(horizon)]).k,
        "lis_of_positions": schedule.lis(matched_positions),
    }


@urpo.computes("kendall_tau")
def agreement(referee_scores: list[float], true_order_scores: list[float]) -> dict[str, Any]:
    return {"kendall_tau": kendall(referee_scores, true_order_scores)}


@drirl.computes("alpha_data", "alpha_model", "alpha")
def scales(dissimilarity: list[float], reward_gap: list[float], outlier_removed: list[bool]) -> dict[str, Any]:
    return {
        "alpha_data": difficulty.alpha_data(dissimilarity),
        "alpha_model": difficulty.alpha_model(reward_gap, outlier_removed),
        "alpha": difficulty.difficulty(dissimilarity, reward_gap, outlier_removed),
    }


@amft.computes("dLval_dmu", "mu_new")
def controller(
    mu: float,
    eta_meta: float,
    eta_entropy: float,
    policy_lr: float,
    dot_val_grad_with_sft_minus_rl: float,
    target_entropy: float,
    entropy: float,
    clip: list[float],
) -> dict[str, Any]:
    slope = balance.val_slope(dot_val_grad_with_sft_minus_rl, lr=policy_lr)
    etas = {"eta_meta": eta_meta, "eta_entropy": eta_entropy, "low": clip[0], "high": clip[1]}
    return {"dLval_dmu": slope, "mu_new": balance.amft(mu, slope, entropy, target_entropy, **etas)}


@erank.computes("erank")
def directions(singular_values: list[float]) -> dict[str, Any]:
    return {"erank": rank_of(singular_values)}


def _on_sum(rewards: Rows) -> list[float]:
    return column(advantage.grpo([[[sum(row)] for row in rewards]]))


def _whitened(rewards: Rows, weights: list[float]) -> list[float]:
    """[G] from episodes of one turn each: the last reward is the outcome, the others are credit."""
    labels = [f"reward{k}" for k in range(len(weights) - 1)]
    group = [episode(row[-1], credit={k: [v] for k, v in zip(labels, row, strict=False)}) for row in rewards]
    by = dict(zip([*labels, decouple.OUTCOME], weights, strict=True))
    return column(decouple.gdpo([group], advantage.rewards([group], labels), labels=labels, weights=by))
