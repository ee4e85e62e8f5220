"""SWEET: a critic that sees what the agent could not says which turns were good."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from milepost.credit.core import Channel, Rewards, TokenModel
from milepost.credit.heads import Trained, required
from milepost.credit.oprl import log_ratios, pairs, preference_losses
from milepost.envs.core import ContractError, Episode

Privileged = Callable[[Episode], Sequence[int]]
"""The tokens that the critic reads before an episode and the agent did not: a solution, a hidden answer."""


class SWEET(Trained):
    """A turn's number is the mean over its tokens of ``log p_phi(token | also the hidden text) - log p_old(token)``.

    ``fit`` takes one step on ``-log sigmoid(beta * sum_t A_t of the winner - the same of the loser)``, averaged over
    all pairs of a success and a failure of one group, and none where there is no pair. Unit: nats per token.

    Args:
        token_model: Begins as the policy does.
        privileged: What the critic reads before an episode, as token ids; it is put before the first row.
        beta: Scale of the scores in the loss. The paper's value is unverified.
        threshold: An outcome above it is a success.

    Source: Zhou et al. 2025, arXiv 2503.15478.
    Needs: a token model, the privileged text, tokens with the sampler's log-probabilities, outcomes.
    Pair with: ``archer.as_is(label="sweet")``: the number is an advantage.
    Differs: used online as the advantage; the paper ranks turns by it and trains the policy with DPO.
    """

    name: ClassVar[str] = "sweet"
    needs: ClassVar[frozenset[str]] = frozenset({"token_model", "privileged", "logprobs", "outcome"})
    channel: ClassVar[Channel] = "separate"
    paper: ClassVar[str] = "arXiv 2503.15478"
    pair: ClassVar[str] = "as_is"

    def __init__(
        self,
        *,
        token_model: TokenModel | None = None,
        privileged: Privileged | None = None,
        beta: float = 0.1,
        threshold: float = 0.0,
    ) -> None:
        self.model = required(self.name, token_model)
        if privileged is None:
            raise ContractError(
                f"{self.name} needs privileged: the recipe gives it (episode -> ids of the hidden text)"
            )
        self.privileged, self.beta, self.threshold = privileged, beta, threshold

    def on_group(self, group: Sequence[Episode]) -> Rewards:
        """[G][T] advantages by the critic as it is now."""
        import torch

        with torch.no_grad():
            return [[float(x) for x in row] for row in self._advantages(group)]

    def fit(self, groups: Sequence[Sequence[Episode]]) -> dict[str, float]:
        """Take one step on all pairs of all ranks; return loss and number of pairs."""
        import torch

        found = [(group, pairs([e.outcome for e in group], self.threshold)) for group in groups]
        n_pairs = self.model.total(sum(len(p) for _, p in found))
        metrics = {"pairs": n_pairs}
        if n_pairs:
            losses = []
            for group, p in found:
                if p:
                    rows = self._advantages(group)
                    zero = torch.zeros((), device=next(x.device for row in rows for x in row))
                    scores = torch.stack([self.beta * sum(row, zero) for row in rows])
                    losses.append(preference_losses(scores, p).sum())
            loss = sum(losses, 0.0) / n_pairs
            metrics["loss"] = self.model.total(float(sum(x.detach() for x in losses)) / n_pairs)
            metrics |= self.model.step(loss)
        return {f"credit/{self.label}/{key}": value for key, value in metrics.items()}

    def _advantages(self, group: Sequence[Episode]) -> list[list[Any]]:
        """[G][T] tensors, with gradient."""
        seen = [prefixed(e, self.privileged(e)) for e in group]
        return [[x.sum() / max(1, len(x)) for x in row] for row in log_ratios(self.name, self.model, seen)]


def prefixed(episode: Episode, ids: Sequence[int]) -> Episode:
    """Return the episode as one sees it who read ``ids`` before every agent's first row; the given one is unchanged."""
    hidden, agents, turns = np.asarray(ids, np.int32), set(), []
    for turn in episode.turns:
        tokens = turn.action.tokens
        if tokens is not None:
            first = turn.agent not in agents
            context = np.concatenate([hidden, tokens.context]) if first else tokens.context
            tokens = replace(tokens, keep=0 if first else tokens.keep + len(hidden), context=context)
        agents.add(turn.agent)
        turns.append(replace(turn, action=replace(turn.action, tokens=tokens)))
    return replace(episode, turns=turns)
