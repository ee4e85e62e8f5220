"""PRIME: token rewards of a second language model that learns to tell won from lost episodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from milepost.credit import normalise
from milepost.credit.advantage import Batch, Numbers
from milepost.credit.cards import method
from milepost.credit.core import Advantages, Channel, Level, Rewards, TokenModel
from milepost.credit.heads import Trained, everyone, required
from milepost.credit.normalise import Floats
from milepost.credit.oprl import log_ratios
from milepost.credit.returns import return_to_go
from milepost.credit.tokens import lengths, outcome_of, same_shape, whitened
from milepost.envs.core import ContractError, Episode


class PRIME(Trained):
    """A token earns ``beta * (log p_phi - log p_ref)``; ``fit`` teaches the model to predict the outcome.

    Loss: cross-entropy of ``sigmoid(beta * sum of all tokens' log-ratios)`` with an outcome of 0 or 1, mean over
    episodes, one step a batch. What a token earned was said before. Unit: beta * nats.

    Args:
        token_model: Begins as the policy does.
        beta: Scale.
        reference: Label of the token credit ``log p_ref - log p_old`` (``samples.kl_credit`` writes ``"kl"``); None:
            the reference is the policy that sampled.

    Source: Cui et al. 2025, arXiv 2502.01456.
    Needs: a token model, tokens with the sampler's log-probabilities, outcomes of 0 or 1.
    Pair with: ``prime.prime_rloo``.
    Differs: the reference may be the sampler, whose log-probabilities are there already.
    """

    name: ClassVar[str] = "prime"
    needs: ClassVar[frozenset[str]] = frozenset({"token_model", "logprobs", "outcome"})
    channel: ClassVar[Channel] = "separate"
    level: ClassVar[Level] = "token"
    paper: ClassVar[str] = "arXiv 2502.01456"
    pair: ClassVar[str] = "prime_rloo"

    def __init__(
        self, *, token_model: TokenModel | None = None, beta: float = 0.05, reference: str | None = None
    ) -> None:
        self.model = required(self.name, token_model)
        self.beta, self.reference = beta, reference

    def on_group(self, group: Sequence[Episode]) -> Rewards:
        """[G][T][A] rewards by the model as it is now."""
        import torch

        with torch.no_grad():
            return [[(self.beta * x.float()).cpu().numpy() for x in row] for row in self._ratios(group)]

    def fit(self, groups: Sequence[Sequence[Episode]]) -> dict[str, float]:
        """Take one step; return the loss and the share of episodes that the model called right, before it.

        Raises:
            ContractError: An outcome is neither 0 nor 1.
        """
        import torch

        episodes = everyone(groups)
        outcomes = [_binary(e) for e in episodes]
        if not (total := self.model.total(len(episodes))):
            return {}
        sums = [torch.cat(row).sum() for row in self._ratios(episodes)]
        logits = self.beta * torch.stack(sums) if sums else torch.zeros(0)
        won = logits.new_tensor(outcomes)
        loss = cross_entropies(logits, won).sum() / total
        metrics = {
            "loss": self.model.total(float(loss.detach())),
            "right": self.model.total(int(((logits.detach() > 0) == (won > 0.5)).sum())) / total,
            **self.model.step(loss),
        }
        return {f"credit/{self.label}/{key}": value for key, value in metrics.items()}

    def _ratios(self, episodes: Sequence[Episode]) -> list[list[Any]]:
        """[E][T][A] tensors ``log p_phi - log p_ref``, with gradient."""
        ratios = log_ratios(self.name, self.model, episodes)
        if self.reference is None:
            return ratios
        given = [[turn.credit.get(self.reference) for turn in e.turns] for e in episodes]
        if any(x is None for row in given for x in row):
            raise ContractError(f"{self.name}: no credit {self.reference!r}: samples.kl_credit writes it")
        return [
            [x - x.new_tensor(np.asarray(y)) for x, y in zip(row, ref, strict=True)]
            for row, ref in zip(ratios, given, strict=True)
        ]


def cross_entropies(logits: Any, outcomes: Any) -> Any:
    """[E] the tensor ``-(R log sigmoid(x) + (1 - R) log sigmoid(-x))``."""
    import torch

    return torch.nn.functional.binary_cross_entropy_with_logits(logits, outcomes, reduction="none")


@method(
    "prime_rloo",
    "estimator",
    level="token",
    needs="outcome process",
    channel="separate",
    paper="arXiv 2502.01456",
    batch=True,
)
def prime_rloo(
    groups: Batch,
    rewards: Numbers,
    label: str = "prime",
    *,
    process: float = 5.0,
    outcome: float = 5.0,
    gamma_token: float = 1.0,
    whiten: bool = True,
) -> Advantages:
    """Return ``[N][G][T][A]`` returns of centred token rewards plus returns of leave-one-out outcomes, whitened.

    Process: ``n / (n - 1) * r - (sum over the group's attempts of their mean r) / (n - 1)`` per token; the outcome's
    leave-one-out deviation lies on the last token. Both are summed backwards over the attempt's tokens, discounted by
    ``gamma_token`` per token. A group of one gets zeros before whitening; a turn that was not judged has no process
    reward. Of ``rewards`` only the shape counts: the two are centred apart.

    Source: Cui et al. 2025, arXiv 2502.01456.
    """
    same_shape("prime_rloo", groups, rewards)
    turns = [turn for group in groups for e in group for turn in e.turns]
    if turns and not any(label in turn.credit for turn in turns):
        raise ContractError(f"prime_rloo: no turn has credit {label!r}: PRIME gives it, assign writes it")
    table: Advantages = []
    for group in groups:
        own = [_flat(episode, label) for episode in group]
        centred = centred_tokens(own)
        ends = normalise.rloo([outcome_of("prime_rloo", e) for e in group])
        table.append(
            [_row(e, process * c, outcome * end, gamma_token) for e, c, end in zip(group, centred, ends, strict=True)]
        )
    return whitened(table) if whiten else table


def centred_tokens(rows: Sequence[Floats]) -> list[Floats]:
    """[G][L] token rewards less their group's baseline; nan (not judged) becomes 0 and enters no mean."""
    n = len(rows)
    if n < 2:
        return [np.zeros_like(row) for row in rows]
    means = [float(row[~np.isnan(row)].mean()) if (~np.isnan(row)).any() else 0.0 for row in rows]
    return [np.nan_to_num(n / (n - 1) * row - sum(means) / (n - 1), nan=0.0) for row in rows]


def _row(episode: Episode, process: Floats, end: float, gamma: float) -> list[Floats]:
    if not len(process):
        return []
    process[-1] += end
    return np.split(return_to_go(process, gamma), np.cumsum(lengths("prime_rloo", episode))[:-1])


def _flat(episode: Episode, label: str) -> Floats:
    """[L] the token rewards, nan where a turn was not judged."""
    rows: list[Any] = []
    for t, (turn, n) in enumerate(zip(episode.turns, lengths("prime_rloo", episode), strict=True)):
        value = turn.credit.get(label)
        if value is not None and np.shape(value) != (n,):
            raise ContractError(
                f"prime_rloo needs credit {label!r} per token: episode {episode.id!r}, turn {t} has one"
            )
        rows.append(np.full(n, np.nan) if value is None else np.asarray(value, np.float64))
    return np.concatenate(rows) if rows else np.zeros(0)


def _binary(episode: Episode) -> float:
    if episode.outcome not in (0.0, 1.0):
        raise ContractError(
            f"prime needs outcomes of 0 or 1: episode {episode.id!r} has {episode.outcome}; oprl takes graded ones"
        )
    return episode.outcome
