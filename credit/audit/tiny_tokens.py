"""A token model of a few hundred weights, to ask methods that train one; the only module here that needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from milepost.envs.core import Episode


class TinyTokens:
    """A ``TokenModel``: the state at a token is an embedding of it and of the tokens before it in its turn."""

    size = 8
    vocab = 32

    def __init__(self, seed: int = 0) -> None:
        maker = torch.Generator().manual_seed(seed)
        self.embed = nn.Parameter(torch.randn(self.vocab, self.size, generator=maker) * 0.5)
        self.head = nn.Parameter(torch.randn(self.size, self.vocab, generator=maker) * 0.5)
        self.heads: list[nn.Module] = []

    def token_logprobs(self, episodes: Sequence[Episode]) -> list[list[Any]]:
        """Return ``[E][T][A]`` log-probabilities in nats of the sampled tokens."""
        return [
            [
                torch.log_softmax(self._states(ids) @ self.head, -1)[torch.arange(len(ids)), ids]
                for ids in self._ids(episode)
            ]
            for episode in episodes
        ]

    def token_states(
        self, episodes: Sequence[Episode], *, logits: bool = False, before: bool = False
    ) -> list[list[Any]]:
        """Return ``[E][T][A, D]`` hidden states, or ``[E][T][A, V]`` logits."""
        return [[self._out(ids, logits, before) for ids in self._ids(episode)] for episode in episodes]

    def turn_states(self, episodes: Sequence[Episode], *, logits: bool = False, before: bool = False) -> list[Any]:
        """Return ``[E][T, D]`` the states at each turn's last token (before its first), or ``[T, V]`` logits."""
        at = 0 if before else -1
        rows = self.token_states(episodes, logits=logits, before=before)
        return [torch.stack([states[at] for states in turns]) for turns in rows]

    def adopt(self, head: Any) -> Any:
        """Train a module with the model."""
        self.heads.append(head)
        return head

    def total(self, number: float) -> float:
        """Return the number: there is one rank."""
        return float(number)

    def step(self, loss: Any) -> dict[str, float]:
        """Take a small step of gradient descent."""
        weights = [self.embed, self.head, *(p for head in self.heads for p in head.parameters())]
        for weight, slope in zip(weights, torch.autograd.grad(loss, weights, allow_unused=True), strict=True):
            if slope is not None:
                weight.data -= 0.01 * slope
        return {"loss": float(loss)}

    def state_dict(self) -> dict[str, Any]:
        """Return the weights."""
        own: dict[str, Any] = {"embed": self.embed.detach().clone(), "head": self.head.detach().clone()}
        return own | {"heads": [head.state_dict() for head in self.heads]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state_dict`` returned."""
        self.embed.data, self.head.data = state["embed"].clone(), state["head"].clone()
        for head, saved in zip(self.heads, state["heads"], strict=True):
            head.load_state_dict(saved)

    def _ids(self, episode: Episode) -> list[Tensor]:
        rows: list[Any] = [turn.action.tokens.ids if turn.action.tokens else [] for turn in episode.turns]
        return [torch.tensor([int(i) % self.vocab for i in ids], dtype=torch.long) for ids in rows]

    def _states(self, ids: Tensor) -> Tensor:
        steps = torch.arange(1, len(ids) + 1).unsqueeze(-1)
        return torch.tanh(self.embed[ids].cumsum(0) / steps)

    def _out(self, ids: Tensor, logits: bool, before: bool) -> Tensor:
        states = self._states(ids)
        if before:
            states = torch.cat([torch.zeros(1, self.size), states[:-1]])
        return states @ self.head if logits else states
