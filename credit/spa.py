"""Stepwise progress attribution: an estimator shares the outcome out among the turns, which earn its shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from milepost.credit.core import Rewards, TokenModel
from milepost.credit.heads import Trained, everyone, linear, required
from milepost.credit.normalise import Floats
from milepost.envs.core import ContractError, Episode

Residual = Literal["none", "spread"]
"""What becomes of ``R - R_hat``: nothing, or every turn gets an equal part of it."""


class SPA(Trained):
    """A turn earns its estimated share of the outcome, and a bonus where the move was executed.

    ``r_t = alpha * c_t + beta * g_t``: ``c_t`` is a linear head on the state at the turn's last token, ``g_t`` is 1
    where ``info["valid"]`` and for the last turn. ``fit`` takes steps on the mean over episodes of
    ``(sum_t c_t - R)^2`` with R the outcome; what a turn earned was said before. Unit: the outcome's.

    Args:
        token_model: Begins as the policy does (the paper: the SFT agent).
        alpha: Weight of the share.
        beta: Weight of the bonus; 0 needs no ``info["valid"]``.
        residual: ``"spread"`` adds ``(R - sum_t c_t) / T`` to every share, so that they sum to R.
        clip: Shares are cut to ``[-clip, clip]`` before the residual; None does not.
        logits: The head reads the vocabulary's logits, as the released code does, instead of hidden states.
        n_steps: Train steps on each batch.

    Source: Wang et al. 2025, arXiv 2505.20732.
    Needs: a token model, ``info["valid"]`` at steps, an outcome.
    Pair with: ``peers.ppo`` and its critic.
    Differs: a hidden-state head; the estimator is trained on the policy's own episodes instead of beforehand; the
    released step trainer's weight ``n_turns - k - 1``, which is 0 for the last turn, is not copied.
    """

    name: ClassVar[str] = "spa"
    needs: ClassVar[frozenset[str]] = frozenset({"token_model", "valid", "outcome"})
    includes_outcome: ClassVar[bool] = True
    paper: ClassVar[str] = "arXiv 2505.20732"
    pair: ClassVar[str] = "ppo"

    def __init__(
        self,
        *,
        token_model: TokenModel | None = None,
        alpha: float = 1.0,
        beta: float = 0.5,
        residual: Residual = "none",
        clip: float | None = None,
        logits: bool = False,
        n_steps: int = 1,
    ) -> None:
        if residual not in get_args(Residual):
            raise ValueError(f"{self.name}: residual: expected 'none' or 'spread', got {residual!r}")
        self.model = required(self.name, token_model)
        self.head = self.model.adopt(linear(self.model.vocab if logits else self.model.size))
        self.alpha, self.beta = alpha, beta
        self.residual, self.clip = residual, clip
        self.logits, self.n_steps = logits, n_steps

    def on_group(self, group: Sequence[Episode]) -> Rewards:
        """[G][T] share and bonus of every turn, by the estimator as it is now."""
        return [
            fused(self._finished(shares, episode), self._grounded(episode), self.alpha, self.beta).tolist()
            for shares, episode in zip(self.contributions(group), group, strict=True)
        ]

    def contributions(self, episodes: Sequence[Episode]) -> list[Floats]:
        """[E][T] what the head says of every turn."""
        import torch

        with torch.no_grad():
            shares = self._shares(episodes).double().cpu().numpy()
        ends = np.cumsum([len(e.turns) for e in episodes])
        return [shares[end - len(e.turns) : end] for end, e in zip(ends, episodes, strict=True)]

    def fit(self, groups: Sequence[Sequence[Episode]]) -> dict[str, float]:
        """Train the estimator; return mse, mae and the share of errors of at most 0.1, before the first step."""
        import torch

        episodes = everyone(groups)
        if not (total := self.model.total(len(episodes))):
            return {}
        rows = [i for i, e in enumerate(episodes) for _ in e.turns]
        metrics: dict[str, float] = {}
        for step in range(self.n_steps):
            shares = self._shares(episodes)
            outcomes = shares.new_tensor([float(e.outcome or 0.0) for e in episodes])
            sums = torch.zeros_like(outcomes).index_add(
                0, torch.tensor(rows, device=shares.device, dtype=torch.long), shares
            )
            errors = sums - outcomes
            if not step:
                off = errors.detach().abs()
                seen = {"mse": off.square().sum(), "mae": off.sum(), "within_0.1": (off <= 0.1).sum()}
                metrics = {k: self.model.total(float(v)) / total for k, v in seen.items()}
            metrics |= self.model.step(errors.square().sum() / total)
        return {f"credit/{self.label}/{key}": value for key, value in metrics.items()}

    def _shares(self, episodes: Sequence[Episode]) -> Any:
        """[sum of T] of all turns in order, with gradient."""
        import torch

        states = self.model.turn_states(episodes, logits=self.logits)
        return self.head(torch.cat(states))[:, 0] if len(states) else torch.zeros(0)

    def _finished(self, shares: Floats, episode: Episode) -> Floats:
        if self.clip is not None:
            shares = shares.clip(-self.clip, self.clip)
        if self.residual == "none":
            return shares
        if episode.outcome is None:
            raise ContractError(f"{self.name}: residual='spread' needs an outcome; episode {episode.id!r} has none")
        return spread(shares, episode.outcome)

    def _grounded(self, episode: Episode) -> list[float]:
        if not self.beta or not episode.turns:
            return [0.0] * len(episode.turns)
        for t, turn in enumerate(episode.turns[:-1]):
            if "valid" not in turn.info:
                raise ContractError(f"{self.name} needs info['valid'] at steps; {episode.env_id} gave none in turn {t}")
        return [float(bool(turn.info["valid"])) for turn in episode.turns[:-1]] + [1.0]


def spread(contributions: ArrayLike, outcome: float) -> Floats:
    """[T] the shares, each with an equal part of what they miss of the outcome: they sum to it."""
    shares = np.asarray(contributions, dtype=np.float64)
    return shares + (outcome - shares.sum()) / len(shares) if len(shares) else shares


def fused(contributions: ArrayLike, grounded: ArrayLike, alpha: float = 1.0, beta: float = 0.5) -> Floats:
    """[T] ``alpha * c_t + beta * g_t``."""
    fused: Floats = alpha * np.asarray(contributions, np.float64) + beta * np.asarray(grounded, np.float64)
    return fused
