"""AgentPRM: what the group's attempts came to that took the same action in the same state."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, ClassVar

from milepost.credit import advantage
from milepost.credit.advantage import Numbers, Returns
from milepost.credit.cards import method
from milepost.credit.core import Credit, Rewards, TokenModel
from milepost.credit.heads import everyone, linear
from milepost.credit.peers.gigpo import state_keys
from milepost.credit.tokens import outcome_of
from milepost.envs.core import Episode


class AgentPRM(Credit):
    """A turn earns ``Q(s, a)``, the mean discounted outcome of the group's attempts that passed through (s, a).

    ``Q(s, a) = mean over occurrences t of (s, a) of gamma^(T - 1 - t) * R`` (turns from 0, T of that attempt). Without
    a token model that table is what turns earn; with one, a linear head on the state at the turn's last token learns it
    (``fit``: steps on the mean over turns of the squared error) and says it of new turns. Unit: the outcome's.

    Args:
        token_model: What learns the table; None: the table itself.
        gamma: Discount per turn.
        n_steps: Train steps on each batch.

    Source: Choudhury 2025, arXiv 2502.10325.
    Needs: ``info["state_key"]`` at reset and steps, outcomes; to learn, a token model.
    Pair with: ``q_rloo``: Q looks to the end already, so nothing is summed.
    Differs: squared error, so that outcomes may be graded; trained between updates instead of in rounds.
    """

    name: ClassVar[str] = "agentprm"
    needs: ClassVar[frozenset[str]] = frozenset({"state_key", "outcome"})
    includes_outcome: ClassVar[bool] = True
    paper: ClassVar[str] = "arXiv 2502.10325"
    trains: ClassVar[bool] = True
    pair: ClassVar[str] = "q_rloo"

    def __init__(self, *, token_model: TokenModel | None = None, gamma: float = 0.95, n_steps: int = 1) -> None:
        self.gamma, self.n_steps = gamma, n_steps
        self.model = token_model
        self.head = None if token_model is None else token_model.adopt(linear(token_model.size))

    def on_group(self, group: Sequence[Episode]) -> Rewards:
        """[G][T] the table's entries, or what the scorer says."""
        if self.model is None or self.head is None:
            return [list(row) for row in self.targets(group)]
        import torch

        with torch.no_grad():
            return [self.head(x)[:, 0].tolist() for x in self.model.turn_states(group)]

    def targets(self, group: Sequence[Episode]) -> list[list[float]]:
        """[G][T] the table's entries.

        Raises:
            ContractError: A state has no key, or an attempt no outcome.
        """
        states = state_keys(self.name, group)
        keys = [
            [(state, turn.action.move or "") for state, turn in zip(row, episode.turns, strict=True)]
            for row, episode in zip(states, group, strict=True)
        ]
        found: dict[tuple[str, str], list[float]] = defaultdict(list)
        for episode, row in zip(group, keys, strict=True):
            outcome = outcome_of(self.name, episode) if row else 0.0
            for t, key in enumerate(row):
                found[key].append(self.gamma ** (len(row) - 1 - t) * outcome)
        means = {key: sum(values) / len(values) for key, values in found.items()}
        return [[means[key] for key in row] for row in keys]

    def fit(self, groups: Sequence[Sequence[Episode]]) -> dict[str, float]:
        """Take steps towards the table of this batch; return the error before the first one."""
        if self.model is None or self.head is None:
            return {}
        import torch

        scored = [everyone([group]) for group in groups]
        flat = [q for group in scored for row in self.targets(group) for q in row]
        if not (total := self.model.total(len(flat))):
            return {}
        metrics: dict[str, float] = {}
        for step in range(self.n_steps):
            states = self.model.turn_states([e for group in scored for e in group])
            said = self.head(torch.cat(states))[:, 0] if states else torch.zeros(0)
            loss = (said - said.new_tensor(flat)).square().sum() / total
            metrics = metrics if step else {"mse": self.model.total(float(loss.detach()))}
            metrics |= self.model.step(loss)
        return {f"credit/{self.label}/{key}": value for key, value in metrics.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the scorer's weights and optimizer."""
        return {} if self.model is None else {"model": self.model.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state_dict`` returned."""
        if self.model is not None:
            self.model.load_state_dict(state["model"])


@method("q_rloo", "estimator", needs="process", paper="arXiv 2502.10325")
def q_rloo(rewards: Numbers) -> Returns:
    """Return ``[N][G][T]`` each turn's number less the mean of the other attempts' at that turn; nothing is summed.

    For numbers that look to the end already: ``advantage.turn_rtg`` with gamma 0.
    """
    return advantage.turn_rtg(rewards, 0.0)
