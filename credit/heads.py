"""Small heads on the states of a token model, and what is said where a method has none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from milepost.credit.core import Credit, TokenModel
from milepost.envs.core import ContractError, Episode, FloatArray


def required(name: str, token_model: TokenModel | None) -> TokenModel:
    """Return the token model that a method was given.

    Raises:
        ContractError: It was given none.
    """
    if token_model is None:
        raise ContractError(f"{name} needs a token_model: the recipe gives it (an AdapterModel beside the policy)")
    return token_model


class Trained(Credit):
    """A method with a token model of its own, ``self.model``, that is saved and resumed with the run."""

    trains: ClassVar[bool] = True
    model: TokenModel

    def state_dict(self) -> dict[str, Any]:
        """Return the model's weights, heads and optimizer."""
        return {"model": self.model.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state_dict`` returned."""
        self.model.load_state_dict(state["model"])


def linear(size: int, *, seed: int | None = None) -> Any:
    """Return a ``torch.nn.Linear(size, 1)``: all 0, so that it says 0 at first, or from a seed of its own."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed or 0)
        head = torch.nn.Linear(size, 1)
    if seed is None:
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
    return head


def sampled_logprobs(name: str, episode: Episode) -> list[FloatArray]:
    """[T][A] the log-probabilities in nats that the sampler recorded.

    Raises:
        ContractError: A turn has no tokens, or nobody knows what they were sampled with (demonstrations).
    """
    rows = []
    for t, turn in enumerate(episode.turns):
        tokens = turn.action.tokens
        if tokens is None:
            raise ContractError(
                f"{name} needs tokens: episode {episode.id!r}, turn {t} has none (a LocalPolicy's have)"
            )
        if (tokens.logprobs != tokens.logprobs).any():
            raise ContractError(f"{name} needs the sampler's logprobs: episode {episode.id!r}, turn {t} has nan")
        rows.append(tokens.logprobs)
    return rows


def everyone(groups: Sequence[Sequence[Episode]]) -> list[Episode]:
    """Return the episodes of all groups that have turns and an outcome."""
    return [e for group in groups for e in group if e.turns and e.outcome is not None]
