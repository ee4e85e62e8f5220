"""SPA, OPRL, PRIME, ArCHer and bi-level GAE: methods with a model of their own, given what the model says."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from milepost.credit import advantage, normalise
from milepost.credit.advantage import rewards
from milepost.credit.core import assign
from milepost.credit.made import episode
from milepost.credit.oprl import OPRL, Score, istar, pairs, penalised, preference_losses, rescaled
from milepost.credit.peers import bilevel_gae
from milepost.credit.peers.archer import q_loss, q_targets, utterance_advantage
from milepost.credit.peers.prime import PRIME, centred_tokens, cross_entropies
from milepost.credit.returns import return_to_go, token_gae
from milepost.credit.spa import SPA, spread
from milepost.credit.tokens import placed
from milepost.envs.core import Episode
from milepost.recipes.vectors.common import Rows, column
from milepost.recipes.vectors.family import Family

spa, oprl, prime, arch, bilevel = Family(), Family(), Family(), Family(), Family()
Ragged = list[list[list[float]]]


class Given:
    """A token model that says what it is given: the numbers of episode i as its log-probabilities or states."""

    size = vocab = 1

    def __init__(self, numbers: Sequence[Any]) -> None:
        import torch

        self.numbers = [[torch.tensor(np.atleast_1d(x), dtype=torch.float64) for x in row] for row in numbers]
        for row in self.numbers:
            for x in row:
                x.requires_grad_(True)

    def token_logprobs(self, episodes: Sequence[Episode]) -> list[list[Any]]:
        """Return ``[E][T][A]`` the numbers."""
        return [self.numbers[int(e.id)] for e in episodes]

    def token_states(self, episodes: Sequence[Episode], *, logits: bool = False, before: bool = False) -> Any:
        """Return ``[E][T][A, 1]`` the numbers."""
        return [[x[:, None] for x in self.numbers[int(e.id)]] for e in episodes]

    def turn_states(self, episodes: Sequence[Episode], *, logits: bool = False, before: bool = False) -> Any:
        """Return ``[E][T, 1]`` each turn's last number."""
        import torch

        return [torch.stack([x[-1:] for x in self.numbers[int(e.id)]]) for e in episodes]

    def adopt(self, head: Any) -> Any:
        """Let the head pass what it reads."""
        import torch

        torch.nn.init.ones_(head.weight)
        return head.double()

    def total(self, number: float) -> float:
        """Return the number: there is one rank."""
        return number

    def step(self, loss: Any) -> dict[str, float]:
        """Leave the gradient at the numbers."""
        loss.backward()
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: nothing is trained."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take nothing back."""


@spa.computes("predicted_return", "mse", "grad_wrt_each_contribution", "fused", "residual_spread_option")
def progress(
    contributions: list[float], final_reward: float, grounded: list[int], alpha: float, beta: float
) -> dict[str, Any]:
    model = Given([contributions])
    method = SPA(token_model=model, alpha=alpha, beta=beta)
    group = [episode(final_reward, valid=[bool(g) for g in grounded], id="0")]
    (shares,) = method.contributions(group)
    mse = method.fit([group])["credit/spa/mse"]
    return {
        "predicted_return": float(shares.sum()),
        "mse": mse,
        "grad_wrt_each_contribution": [float(x.grad) for x in model.numbers[0] if x.grad is not None],
        "fused": method.on_group(group)[0],
        "residual_spread_option": spread(shares, final_reward),
    }


@spa.computes("token_reward", "advantage", "returns")
def step_rewards_on_tokens(
    fused: list[float],
    action_mask: list[int],
    turn_end: list[int],
    values: list[float],
    logprob: list[float],
    ref_logprob: list[float],
    kl_coef: float,
    gamma: float,
    lam: float,
) -> dict[str, Any]:
    log_ratio = np.array(ref_logprob) - np.array(logprob)
    reward = placed(fused, turn_end, action_mask, log_ratio, kl_coef)
    advantages, returns = token_gae(reward, values, action_mask, gamma=gamma, lam=lam)
    return {"token_reward": reward, "advantage": advantages, "returns": returns}


def _played(outcome: list[float], token_logratio: Ragged, **options: Any) -> list[Episode]:
    """[G] attempts whose sampler gave every token log-probability 0, so that the model's own are the log-ratios."""
    return [
        episode(o, logprobs=[[0.0] * len(x) for x in row], id=str(i), **{k: v[i] for k, v in options.items()})
        for i, (o, row) in enumerate(zip(outcome, token_logratio, strict=True))
    ]


@oprl.computes(
    "step_rewards", "traj_score_sum", "traj_score_mean", "pairs", "pair_losses_sum", "loss_sum", "pair_losses_mean",
    "loss_mean", "episode_adv_zscore", "step_adv_zscore", "combined_zscore", "episode_adv_rloo", "step_adv_rloo",
    "combined_rloo",
)  # fmt: skip
def process_rewards(
    success: list[int], outcome: list[float], token_logratio: Ragged, beta: float, alpha: float
) -> dict[str, Any]:
    group = _played(outcome, token_logratio)
    found = pairs([float(s) for s in success])
    result: dict[str, Any] = {"pairs": [[*p] for p in found]}
    hows: tuple[Score, ...] = ("sum", "mean")
    for how in hows:
        method = OPRL(token_model=Given(token_logratio), beta=beta, traj_score=how)
        scores = method.scores(group).detach()
        result |= {
            f"traj_score_{how}": scores.tolist(),
            f"pair_losses_{how}": preference_losses(scores, found).tolist(),
            f"loss_{how}": method.fit([group])["credit/oprl/loss"],
        }
    method = OPRL(token_model=Given(token_logratio), beta=beta)
    assign([method], [group])
    table = rewards([group])
    process = rewards([group], "oprl", outcome=0.0)
    for name, normaliser in (("zscore", normalise.zscore), ("rloo", normalise.rloo)):
        combined = istar([group], table, alpha=alpha, normaliser=normaliser)
        result |= {
            f"episode_adv_{name}": column(istar([group], table, alpha=0.0, normaliser=normaliser)),
            f"step_adv_{name}": advantage.normalised(process, normaliser, over="group")[0],
            f"combined_{name}": combined[0],
        }
    return {**result, "step_rewards": method.on_group(group)}


@oprl.computes("step_rewards_max_abs", "outcome_after_penalty_per_turn")
def options(
    outcome: list[float], token_logratio: Ragged, beta: float, invalid_action: list[list[int]], penalty: float
) -> dict[str, Any]:
    group = _played(outcome, token_logratio, valid=[[not x for x in row] for row in invalid_action])
    rows: Any = OPRL(token_model=Given(token_logratio), beta=beta).on_group(group)
    return {
        "step_rewards_max_abs": rescaled([rows])[0],
        "outcome_after_penalty_per_turn": penalised([group], penalty)[0],
    }


@prime.computes(
    "token_reward", "traj_mean", "prob", "ce_loss", "process_centred", "process_return_gamma1", "outcome_rloo"
)
def implicit_rewards(token_logratio: Rows, outcome: list[float], beta: float) -> dict[str, Any]:
    import torch

    one_turn = [[row] for row in token_logratio]
    group = _played([float(o) for o in outcome], one_turn)
    method = PRIME(token_model=Given(one_turn), beta=beta)
    token_rewards = [np.asarray(row[0], np.float64) for row in method.on_group(group)]
    logits = torch.tensor([float(row.sum()) for row in token_rewards])
    loss = method.fit([group])["credit/prime/loss"]
    assert abs(loss - float(cross_entropies(logits, torch.tensor([float(o) for o in outcome])).mean())) < 1e-6
    centred = centred_tokens(token_rewards)
    return {
        "token_reward": [row.tolist() for row in token_rewards],
        "traj_mean": [float(row.mean()) for row in token_rewards],
        "prob": torch.sigmoid(logits).tolist(),
        "ce_loss": loss,
        "process_centred": [row.tolist() for row in centred],
        "process_return_gamma1": [return_to_go(row).tolist() for row in centred],
        "outcome_rloo": normalise.rloo(outcome),
    }


@arch.computes("q_target", "q_loss", "advantage")
def temporal_differences(
    r: float, next_value: float, done: int, gamma: float, q: list[float], v: float
) -> dict[str, Any]:
    target = q_targets(r, next_value, done, gamma)
    twins = np.array(q)
    return {
        "q_target": target,
        "q_loss": float(q_loss(twins, target)),
        "advantage": float(utterance_advantage(twins, v)),
    }


@bilevel.computes("turn_return", "advantage_unwhitened")
def two_levels(
    token_reward: list[float],
    values: list[float],
    action_mask: list[int],
    turn_end: list[int],
    gamma_turn: float,
    gamma_token: float,
    lam: float,
) -> dict[str, Any]:
    levels = partial(bilevel_gae.bilevel, gamma_turn=gamma_turn, gamma_token=gamma_token, lam=lam)
    advantages, turn_returns = levels(token_reward, values, action_mask, turn_end)
    return {"turn_return": turn_returns, "advantage_unwhitened": advantages}
