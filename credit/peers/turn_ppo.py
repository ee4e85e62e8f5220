"""Turn-level PPO: a turn is one action of the decision process, with one value and one advantage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from milepost.credit import advantage
from milepost.credit.advantage import Batch, Numbers
from milepost.credit.cards import method
from milepost.credit.core import Advantages, Level, Rewards
from milepost.credit.peers.ppo import Critic
from milepost.credit.returns import gae
from milepost.credit.tokens import Bootstrap, following, same_shape, turn_credit, whitened
from milepost.envs.core import ContractError, Episode


class TurnCritic(Critic):
    """What was expected before each turn: a linear head on the state that predicts its first token.

    That state has read the observation and nothing of the turn, so the value is a baseline. ``fit`` regresses on
    advantage + value of the turn-level GAE under the values that were written; see ``Critic``. ``gamma`` is per turn.

    Source: *Turn-PPO* 2025, arXiv 2512.17008.
    Needs: a token model, tokens, what the rewards need.
    Pair with: ``peers.turn_ppo``; the loss takes one ratio a turn (``Objective(level="turn")``).
    """

    name: ClassVar[str] = "turn_critic"
    level: ClassVar[Level] = "turn"
    paper: ClassVar[str] = "arXiv 2512.17008"
    pair: ClassVar[str] = "turn_ppo"

    def on_group(self, group: Sequence[Episode]) -> Rewards:
        """[G][T] the values as they are now."""
        import torch

        with torch.no_grad():
            return [[float(x[0]) for x in row] for row in self._values(group)]

    def _values(self, episodes: Sequence[Episode]) -> list[list[Any]]:
        """[E][T] tensors ``[1]``, with gradient."""
        states = self.model.turn_states(episodes, before=True)
        return [list(self.head(x)) for x in states]

    def _targets(self, groups: Batch) -> tuple[list[float], list[float]]:
        if self.kl:
            raise ValueError(f"{self.name}: kl: expected 0, a turn has no place for a number per token")
        rewards = advantage.rewards(groups, self.rewards, self.outcome)
        table = turn_gae(groups, rewards, self.label, gamma=self.gamma, lam=self.lam, bootstrap=self.bootstrap)
        old = [float(np.sum(t.credit[self.label])) for g in groups for e in g for t in e.turns]  # type: ignore[arg-type]
        flat = [a for g in table for row in g for a in row]
        return [a + v for a, v in zip(flat, old, strict=True)], old


@method("turn_ppo", "estimator", needs="values", paper="arXiv 2512.17008", batch=True)
def turn_ppo(
    groups: Batch,
    rewards: Numbers,
    values: str = "turn_critic",
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
    whiten: bool = True,
    bootstrap: Bootstrap = "zero",
) -> Advantages:
    """Return ``[N][G][T]`` advantages by GAE over turns, whitened over the turns of the batch.

    ``A_t = delta_t + gamma * lam * A_{t+1}``, ``delta_t = r_t + gamma * V_{t+1} - V_t``. ``bootstrap="last"``: after an
    episode that a limit cut, as much is expected as before its last turn.

    Source: *Turn-PPO* 2025, arXiv 2512.17008. Whether its advantages are whitened is unverified; ``whiten`` says it.
    """
    table = turn_gae(groups, rewards, values, gamma=gamma, lam=lam, bootstrap=bootstrap)
    return whitened(table) if whiten else table


def turn_gae(
    groups: Batch, rewards: Numbers, values: str, *, gamma: float, lam: float, bootstrap: Bootstrap = "zero"
) -> Advantages:
    """Return ``[N][G][T]`` what ``turn_ppo`` does before whitening."""
    same_shape("turn_ppo", groups, rewards)

    def row(episode: Episode, earned: Sequence[float | None]) -> list[float]:
        numbers = [0.0 if r is None else r for r in earned]
        if not np.isfinite(numbers).all():
            raise ContractError(f"turn_ppo: episode {episode.id!r}: expected finite rewards, got {numbers}")
        v = turn_credit("turn_ppo", episode, values, "a TurnCritic gives it, assign writes it")
        after = following(episode, v, bootstrap)
        return [float(a) for a in gae(numbers, v, gamma=gamma, lam=lam, bootstrap=after)]

    return [[row(*pair) for pair in zip(g, rs, strict=True)] for g, rs in zip(groups, rewards, strict=True)]
