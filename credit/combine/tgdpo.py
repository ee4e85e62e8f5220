"""Token-guided DPO: a preference loss in which good tokens of the winner and bad ones of the loser weigh more."""

from __future__ import annotations

from typing import Any

import numpy as np

from milepost.credit.cards import method
from milepost.credit.combine.arrays import alike, finite


@method("tgdpo", "loss", level="token", needs="token_model", channel="loss", paper="arXiv 2506.14574")
def tgdpo(
    win_logratios: Any,
    win_rewards: Any,
    lose_logratios: Any,
    lose_rewards: Any,
    *,
    beta: float = 0.1,
    alpha: float = 0.5,
) -> Any:
    """Return ``-log sigmoid(margin)`` of a pair; a number of arrays, a scalar with gradient of torch tensors.

    Take the sum over pairs and divide it by their number in the whole batch. ``alpha=0`` is DPO.

    Source: Zhu et al. 2025, arXiv 2506.14574.
    """
    m = margin(win_logratios, win_rewards, lose_logratios, lose_rewards, beta=beta, alpha=alpha)
    if hasattr(m, "detach"):
        import torch

        return torch.nn.functional.softplus(-m)
    return float(np.logaddexp(0.0, -m))


def margin(
    win_logratios: Any,
    win_rewards: Any,
    lose_logratios: Any,
    lose_rewards: Any,
    *,
    beta: float = 0.1,
    alpha: float = 0.5,
) -> Any:
    """Return ``sum_win beta (1 + alpha beta rhat) lr - sum_lose beta (1 - alpha beta rhat) lr``.

    Args:
        win_logratios: ``[A]`` nats, of the preferred answer's tokens under the policy over the reference.
        win_rewards: ``[A]`` what each token was worth to a DPO model that is not trained here (no gradient).
        lose_logratios: ``[B]`` the same of the other answer.
        lose_rewards: ``[B]`` the same of the other answer.
    """
    wins = _side("win", win_logratios, win_rewards, beta, alpha * beta)
    return wins - _side("lose", lose_logratios, lose_rewards, beta, -alpha * beta)


def _side(name: str, logratios: Any, rewards: Any, beta: float, slope: float) -> Any:
    if hasattr(logratios, "detach"):
        weights = rewards.detach() if hasattr(rewards, "detach") else logratios.new_tensor(np.asarray(rewards).tolist())
        if weights.shape != logratios.shape:
            raise ValueError(f"tgdpo: {name}: expected one shape, got {logratios.shape}, {weights.shape}")
    else:
        logratios = finite(f"tgdpo: {name}: log-ratios", logratios, 1)
        weights = finite(f"tgdpo: {name}: rewards", rewards, 1)
        alike(f"tgdpo: {name}", logratios, weights)
    return (beta * (1.0 + slope * weights) * logratios).sum()
