"""ArCHer: an utterance-level critic, twin Q and V, learned by temporal differences."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from milepost.credit import advantage
from milepost.credit.advantage import Batch, Numbers, Table
from milepost.credit.cards import method
from milepost.credit.core import Channel, Credit, Rewards, TokenModel
from milepost.credit.heads import everyone, linear, required
from milepost.credit.normalise import Floats
from milepost.credit.tokens import same_shape, turn_credit
from milepost.envs.core import Episode


class ArCHer(Credit):
    """A turn's number is how much better it was than expected: ``A = min(Q1, Q2)(s, a) - V(s)``.

    Q reads the state at the turn's last token, V the one that predicts its first; all are linear heads. ``fit`` takes
    steps on ``sum_k (Q_k - (r + gamma * (1 - done) * V_bar(s')))^2 + (V - min_k Q_bar_k(s, a))^2``, mean over turns,
    and moves the target heads V_bar, Q_bar by ``polyak`` towards the trained ones. Unit: the rewards'.

    Args:
        token_model: Its states are read.
        rewards: Labels or methods whose numbers are the reward, as ``advantage.rewards`` takes them.
        outcome: Weight of the outcome there.
        gamma: Discount per turn.
        polyak: Share of the trained head in its target after a step.
        n_steps: Train steps on each batch.
        seed: Where the twins' first weights come from.

    Source: Zhou et al. 2024, arXiv 2402.19446.
    Needs: a token model, tokens, what the rewards need.
    Pair with: ``archer.as_is``: the number is the advantage.
    Differs: learned from the present batch instead of a replay buffer, so the V target is Q of the action that was
    taken; targets are copies of the heads alone, on the states of the model in training. The last turn of an episode
    that a limit cut is done too: its score is its outcome.
    """

    name: ClassVar[str] = "archer"
    needs: ClassVar[frozenset[str]] = frozenset({"token_model", "outcome"})
    channel: ClassVar[Channel] = "value"
    paper: ClassVar[str] = "arXiv 2402.19446"
    trains: ClassVar[bool] = True
    pair: ClassVar[str] = "as_is"

    def __init__(
        self,
        *,
        token_model: TokenModel | None = None,
        rewards: Sequence[str | Credit] = (),
        outcome: float | None = None,
        gamma: float = 0.9,
        polyak: float = 0.1,
        n_steps: int = 1,
        seed: int = 0,
    ) -> None:
        self.model = required(self.name, token_model)
        self.rewards, self.outcome = rewards, outcome
        self.gamma, self.polyak, self.n_steps = gamma, polyak, n_steps
        size = self.model.size
        heads = {"q1": linear(size, seed=2 * seed + 1), "q2": linear(size, seed=2 * seed + 2), "v": linear(size)}
        self.heads = {key: self.model.adopt(head) for key, head in heads.items()}
        self.targets = {key: copy.deepcopy(head).requires_grad_(False) for key, head in self.heads.items()}

    def on_group(self, group: Sequence[Episode]) -> Rewards:
        """[G][T] advantages by the critic as it is now."""
        import torch

        with torch.no_grad():
            q1, q2, v = self._read(self.heads, *self._states(group))
            flat = iter(utterance_advantage(torch.stack([q1, q2]).cpu().numpy(), v.cpu().numpy()).tolist())
        return [[next(flat) for _ in episode.turns] for episode in group]

    def fit(self, groups: Sequence[Sequence[Episode]]) -> dict[str, float]:
        """Take steps on the turns of this batch; return the losses before the first one."""
        import torch

        groups = [scored for group in groups if (scored := everyone([group]))]
        episodes = [e for group in groups for e in group]
        n_turns = sum(len(e.turns) for e in episodes)
        if not (total := self.model.total(n_turns)):
            return {}
        table = advantage.rewards(groups, self.rewards, self.outcome)
        rewards = [r or 0.0 for rows in table for row in rows for r in row]
        done = [float(turn is e.turns[-1]) for e in episodes for turn in e.turns]
        metrics: dict[str, float] = {}
        for step in range(self.n_steps):
            before, after = self._states(episodes)
            q1, q2, v = self._read(self.heads, before, after)
            with torch.no_grad():
                old1, old2, old_v = self._read(self.targets, before, after)
                target = q_targets(v.new_tensor(rewards), old_v.roll(-1), v.new_tensor(done), self.gamma)
            loss_q = q_loss(torch.stack([q1, q2]), target).sum() / total
            loss_v = (v - torch.minimum(old1, old2)).square().sum() / total
            if not step:
                metrics = {
                    "loss_q": self.model.total(float(loss_q.detach())),
                    "loss_v": self.model.total(float(loss_v.detach())),
                }
            metrics |= self.model.step(loss_q + loss_v)
            for key, head in self.heads.items():
                follow(self.targets[key], head, self.polyak)
        return {f"credit/{self.label}/{key}": value for key, value in metrics.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the critic's weights, optimizer and target heads."""
        targets = {key: dict(head.state_dict()) for key, head in self.targets.items()}
        return {"model": self.model.state_dict(), "targets": copy.deepcopy(targets)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state_dict`` returned."""
        self.model.load_state_dict(state["model"])
        for key, head in self.targets.items():
            head.load_state_dict(state["targets"][key])

    def _states(self, episodes: Sequence[Episode]) -> tuple[Any, Any]:
        """Return ``[sum of T, D]`` the states before and after every turn."""
        import torch

        if not episodes:
            return torch.zeros(0, self.model.size), torch.zeros(0, self.model.size)
        before, after = (self.model.turn_states(episodes, before=b) for b in (True, False))
        return torch.cat(before), torch.cat(after)

    def _read(self, heads: dict[str, Any], before: Any, after: Any) -> tuple[Any, Any, Any]:
        if not len(before):
            empty = before.new_zeros(0)
            return empty, empty, empty
        return heads["q1"](after)[:, 0], heads["q2"](after)[:, 0], heads["v"](before)[:, 0]


def q_targets(rewards: Any, next_values: Any, done: Any, gamma: float = 0.9) -> Any:
    """``r + gamma * (1 - done) * V_bar(s')``, of numbers, arrays or tensors of one shape."""
    return rewards + gamma * (1 - done) * next_values


def q_loss(q: Any, target: Any) -> Any:
    """``sum over the twins of (Q_k - target)^2``; q is ``[2, ...]``."""
    return ((q - target) ** 2).sum(0)


def utterance_advantage(q: ArrayLike, value: ArrayLike) -> Floats:
    """[...] ``min_k Q_k(s, a) - V(s)``; q is ``[2, ...]``."""
    advantage: Floats = np.asarray(q, np.float64).min(0) - np.asarray(value, np.float64)
    return advantage


def follow(target: Any, head: Any, share: float) -> None:
    """Move a target's weights by ``share`` of the way to those of the trained head."""
    import torch

    with torch.no_grad():
        for old, new in zip(target.parameters(), head.parameters(), strict=True):
            old.lerp_(new, share)


@method("as_is", "estimator", needs="values", paper="arXiv 2402.19446")
def as_is(groups: Batch, rewards: Numbers, label: str = "archer") -> Table:
    """Return ``[N][G][T]`` the numbers of ``label``: of a method whose number is an advantage already.

    Of ``rewards`` only the shape counts.

    Source: Zhou et al. 2024, arXiv 2402.19446.
    """
    same_shape("as_is", groups, rewards)
    return [[[*turn_credit("as_is", e, label, "assign writes it")] for e in group] for group in groups]
