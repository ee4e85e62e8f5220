"""PPO's critic and its advantages per token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from milepost.credit import advantage
from milepost.credit.advantage import Batch, Numbers
from milepost.credit.cards import method
from milepost.credit.core import Advantages, Channel, Credit, Level, Rewards, TokenModel
from milepost.credit.heads import Trained, everyone, linear, required
from milepost.credit.returns import token_gae
from milepost.credit.tokens import Bootstrap, following, lengths, placed, same_shape, token_credit, whitened
from milepost.envs.core import ContractError, Episode


class Critic(Trained):
    """What was expected before each sampled token: a linear head on the state that predicts it, so not having seen it.

    ``fit`` takes steps on ``mean over tokens of max((V - G)^2, (clip(V, V_old - c, V_old + c) - G)^2) / 2``, G being
    advantage + value of ``token_gae`` under the values that were written. Unit: the rewards'.

    Args:
        token_model: Its states are read.
        rewards: Labels or methods whose numbers are the reward, as ``advantage.rewards`` takes them.
        outcome: Weight of the outcome there.
        gamma: Discount per token.
        lam: Of the trace.
        kl: Weight of credit ``kl`` in the reward (``samples.kl_credit``).
        clip: c, how far a value may move in one update; None: as far as it likes.
        bootstrap: What follows an episode that a limit cut: 0, its score being its outcome, or (``"last"``) as much as
            the value before its last token.
        n_steps: Train steps on each batch.

    Source: Schulman et al. 2017, arXiv 1707.06347; the settings of arXiv 2510.01132.
    Needs: a token model, tokens, what the rewards need.
    Pair with: ``peers.ppo``.
    """

    name: ClassVar[str] = "critic"
    needs: ClassVar[frozenset[str]] = frozenset({"token_model", "outcome"})
    channel: ClassVar[Channel] = "value"
    level: ClassVar[Level] = "token"
    paper: ClassVar[str] = "arXiv 1707.06347"
    pair: ClassVar[str] = "ppo"

    def __init__(
        self,
        *,
        token_model: TokenModel | None = None,
        rewards: Sequence[str | Credit] = (),
        outcome: float | None = None,
        gamma: float = 1.0,
        lam: float = 0.95,
        kl: float = 0.0,
        clip: float | None = None,
        bootstrap: Bootstrap = "zero",
        n_steps: int = 1,
    ) -> None:
        self.model = required(self.name, token_model)
        self.head = self.model.adopt(linear(self.model.size))
        self.rewards, self.outcome = rewards, outcome
        self.gamma, self.lam, self.kl = gamma, lam, kl
        self.bootstrap: Bootstrap = bootstrap
        self.clip, self.n_steps = clip, n_steps

    def on_group(self, group: Sequence[Episode]) -> Rewards:
        """[G][T][A] the values as they are now."""
        import torch

        with torch.no_grad():
            return [[x.float().cpu().numpy() for x in row] for row in self._values(group)]

    def fit(self, groups: Sequence[Sequence[Episode]]) -> dict[str, float]:
        """Train towards the returns of this batch; return the loss before the first step and the explained share."""
        import torch

        groups = [scored for group in groups if (scored := everyone([group]))]
        targets, old = self._targets(groups)
        if not (total := self.model.total(len(targets))):
            return {}
        metrics: dict[str, float] = {}
        for step in range(self.n_steps):
            parts = [x for row in self._values([e for g in groups for e in g]) for x in row]
            values = torch.cat(parts) if parts else torch.zeros(0)
            loss = value_losses(values, values.new_tensor(targets), values.new_tensor(old), self.clip).sum() / total
            if not step:
                metrics = {
                    "loss": self.model.total(float(loss.detach())),
                    "explained": self._explained(targets, old, total),
                }
            metrics |= self.model.step(loss)
        return {f"credit/{self.label}/{key}": value for key, value in metrics.items()}

    def _values(self, episodes: Sequence[Episode]) -> list[list[Any]]:
        """[E][T] tensors ``[A]``, with gradient."""
        states = self.model.token_states(episodes, before=True)
        return [[self.head(x)[:, 0] for x in row] for row in states]

    def _targets(self, groups: Batch) -> tuple[list[float], list[float]]:
        """Return returns and written values, flat in the order of ``_values``."""
        rewards = advantage.rewards(groups, self.rewards, self.outcome)
        advantages = gae_table(
            groups,
            rewards,
            self.label,
            gamma=self.gamma,
            lam=self.lam,
            kl=self.kl,
            bootstrap=self.bootstrap,
            name=self.name,
        )
        parts = [(a, t.credit[self.label]) for g, gs in zip(groups, advantages, strict=True)
                 for e, row in zip(g, gs, strict=True) for t, a in zip(e.turns, row, strict=True)]  # fmt: skip
        old = np.concatenate([np.asarray(v, np.float64) for _, v in parts]) if parts else np.zeros(0)
        return (np.concatenate([a for a, _ in parts]) + old if parts else old).tolist(), old.tolist()

    def _explained(self, targets: Sequence[float], old: Sequence[float], total: float) -> float:
        """Return 1 - the squared errors' share of the returns' squared deviations, over all ranks."""
        mean = self.model.total(sum(targets)) / total
        spread = self.model.total(sum((x - mean) ** 2 for x in targets))
        missed = self.model.total(sum((x - y) ** 2 for x, y in zip(targets, old, strict=True)))
        return 1.0 - missed / spread if spread > 1e-12 else 0.0


def value_losses(values: Any, returns: Any, old: Any, clip: float | None = None) -> Any:
    """[N] the tensor ``max((V - G)^2, (clip(V, old - c, old + c) - G)^2) / 2``."""
    import torch

    losses = (values - returns).square()
    if clip is not None:
        near = old + (values - old).clamp(-clip, clip)
        losses = torch.maximum(losses, (near - returns).square())
    return losses / 2


@method("ppo", "estimator", level="token", needs="values", paper="arXiv 1707.06347", batch=True)
def ppo(
    groups: Batch,
    rewards: Numbers,
    values: str = "critic",
    *,
    gamma_token: float = 1.0,
    lam: float = 0.95,
    whiten: bool = True,
    kl: float = 0.0,
    bootstrap: Bootstrap = "zero",
) -> Advantages:
    """Return ``[N][G][T][A]`` advantages of every sampled token by GAE over the policy's tokens.

    ``A_i = delta_i + gamma_token * lam * A_{i+1}``, ``delta_i = r_i + gamma_token * V_{i+1} - V_i``; a turn's reward
    lies on its last token, what the environment wrote is skipped, whitened over the batch afterwards.

    Args:
        groups: Episodes with tokens and the values of a critic.
        rewards: ``[N][G][T]``; None adds nothing.
        values: The critic's label.
        gamma_token: Discount per token.
        lam: Of the trace.
        whiten: Mean 0, deviation 1 over the tokens of the batch.
        kl: Weight of token credit ``kl`` (``log p_ref - log p``) in the reward.
        bootstrap: What follows an episode that a limit cut; see ``Critic``.

    Source: Schulman et al. 2016, arXiv 1506.02438.
    """
    table = gae_table(groups, rewards, values, gamma=gamma_token, lam=lam, kl=kl, bootstrap=bootstrap)
    return whitened(table) if whiten else table


def gae_table(
    groups: Batch,
    rewards: Numbers,
    values: str,
    *,
    gamma: float,
    lam: float,
    kl: float = 0.0,
    bootstrap: Bootstrap = "zero",
    name: str = "ppo",
) -> Advantages:
    """Return ``[N][G][T][A]`` what ``ppo`` does before whitening."""
    same_shape(name, groups, rewards)

    def row(episode: Episode, earned: Sequence[float | None]) -> list[Any]:
        if not episode.turns:
            return []
        r, ends = token_rewards(name, episode, earned, kl)
        v = token_credit(name, episode, values, "a Critic gives it, assign writes it")
        after = following(episode, v, bootstrap)
        advantages, _ = token_gae(r, v, np.ones(len(r), bool), gamma=gamma, lam=lam, bootstrap=after)
        return np.split(advantages, ends[:-1] + 1)

    return [[row(*pair) for pair in zip(g, rs, strict=True)] for g, rs in zip(groups, rewards, strict=True)]


def token_rewards(name: str, episode: Episode, earned: Sequence[float | None], kl: float = 0.0) -> tuple[Any, Any]:
    """Return ``[sum of A]`` the reward of every sampled token, and ``[T]`` where turns end.

    Raises:
        ContractError: A reward is not finite, or what is needed per token is missing.
    """
    numbers = [0.0 if r is None else r for r in earned]
    if not np.isfinite(numbers).all():
        raise ContractError(f"{name}: episode {episode.id!r}: expected finite rewards, got {numbers}")
    ends = np.cumsum(lengths(name, episode)) - 1
    ratio = token_credit(name, episode, "kl", "samples.kl_credit writes it") if kl else None
    n = int(ends[-1]) + 1
    return placed(numbers, ends, np.ones(n, bool), ratio, kl), ends
