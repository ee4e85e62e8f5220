"""Reasoning-reflection reward: the answer's tokens that depend on the reasoning count, the others do not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from milepost.credit.answers import AnswerCredit, Scores
from milepost.credit.core import Level, Rewards
from milepost.credit.normalise import Floats
from milepost.envs.core import ContractError, Episode


class R3(AnswerCredit):
    """``r_t = sum_j w_j (log p(y_j | state t+1) - log p(y_j | state t))``, weighted by what reasoning decides.

    ``w_j = sigma_j / sum sigma``, where ``sigma_j`` is the deviation, over the attempts of the group, of the answer's
    token j in their last state. A row's sum is the published ``R3_i``: the weighted log-likelihood of the answer behind
    the reasoning less that without it, which here is the first state. In nats. Attempts that cannot be told apart, a
    lone one too, have weights of 0.

    Source: arXiv 2506.13351. Needs: ``info["answer"]`` from reset, a scorer: the reference, frozen, synced or lagged.
    Pair with: ``advantage.grpo`` (sums), ``advantage.turn_rtg`` (turns).
    Differs: the paper says only that weights grow with sigma; the sum of 1 is a choice of this library. The paper's
        reward is one number an episode; its parts by turn telescope to it. No propagation factor of the older variant.
    """

    name: ClassVar[str] = "r3"
    level: ClassVar[Level] = "turn"
    paper: ClassVar[str] = "arXiv 2506.13351"
    pair: ClassVar[str] = "grpo"

    def on_group(self, group: Sequence[Episode]) -> Rewards:
        """[G][T] weighted rises of the answer's log-likelihood; None for the last turn, unless ``last``."""
        found = self.scores(group)
        ends = [s[-1][0] for s in found if s is not None]
        lengths = {len(state[0]) for s in found if s is not None for state in s}
        if len(lengths) > 1:
            raise ContractError(
                f"{self.name}: group {group[0].group!r}: expected one answer of as many tokens in all states, got "
                f"{', '.join(map(str, sorted(lengths)))} tokens"
            )
        weights = token_weights(token_std(ends)) if ends else np.zeros(0)
        with np.errstate(all="ignore"):  # rows finds and counts what is not finite
            return self.rows(group, [None if s is None else rises(s, weights) for s in found])


def rises(scores: Scores, weights: Floats) -> list[float]:
    """[S - 1] weighted rises from state to state; a token of weight 0 does not count, whatever it is."""
    states = np.array([state[0] for state in scores], dtype=np.float64)
    at = weights > 0
    return [float(x) for x in np.diff(states[:, at], axis=0) @ weights[at]]


def r3(logprobs: ArrayLike, masked: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """[G] ``sum_j w_j (log p_ij - log p_masked_j)`` from ``[G, L]`` and ``[L]`` log-probabilities, in nats.

    Weights of None are ``token_weights`` of the deviations.
    """
    x = np.asarray(logprobs, dtype=np.float64)
    w = token_weights(token_std(x)) if weights is None else np.asarray(weights, dtype=np.float64)
    result: Floats = (x - np.asarray(masked, dtype=np.float64)) @ w
    return result


def token_std(logprobs: ArrayLike) -> Floats:
    """[L] the population's deviation of each token's log-probability over ``[G, L]`` attempts; nan is left out."""
    x = np.asarray(logprobs, dtype=np.float64)
    kept = x[np.isfinite(x).all(axis=1)]
    return kept.std(axis=0) if len(kept) else np.zeros(x.shape[1])


def token_weights(std: ArrayLike) -> Floats:
    """[L] the deviations in shares of their sum; zeros where that is below 1e-8."""
    sigma = np.asarray(std, dtype=np.float64)
    total = sigma.sum()
    return sigma / total if total >= 1e-8 else np.zeros_like(sigma)


def length_term(n_answer: int, n_reference: int, beta: float) -> float:
    """Return ``1 - beta * | n_reference - n_answer | / n_reference``, which multiplies or joins the reward."""
    if n_reference < 1:
        raise ValueError(f"r3: length_term: expected a reference of at least one token, got {n_reference}")
    return 1.0 - beta * abs(n_reference - n_answer) / n_reference
