"""From logits to tokens: the inverse of the cumulated probabilities at given uniform numbers.

Shape letters: B rows, V vocabulary, P parts of 256 tokens, T tokens of a part, N any number of sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one action is sampled, where requests differ; see ``LocalPolicy`` for the first three."""

    temperature: float
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    wanted: Callable[[], bool] = lambda: True
    """Asked after every token; where nobody wants the action any more it ends there."""


def choose_each(
    logits_BV: Tensor, uniforms: Sequence[float], temperatures: Sequence[float]
) -> tuple[list[int], list[float]]:
    """``choose`` with a temperature for each row; equal ones are chosen together."""
    if len(set(temperatures)) == 1:
        return choose(logits_BV, uniforms, temperatures[0])
    ids, logprobs = [0] * len(temperatures), [0.0] * len(temperatures)
    for temperature in set(temperatures):
        rows = [i for i, t in enumerate(temperatures) if t == temperature]
        for i, token, logprob in zip(
            rows, *choose(logits_BV[rows], [uniforms[i] for i in rows], temperature), strict=True
        ):
            ids[i], logprobs[i] = token, logprob
    return ids, logprobs


def choose(logits_BV: Tensor, uniforms: Sequence[float], temperature: float) -> tuple[list[int], list[float]]:
    """Return a token per row, where its uniform number falls in the cumulated probabilities, and its log-probability.

    At temperature 0 it is the likeliest token, and its log-probability that at temperature 1.
    """
    logprobs_BV = torch.log_softmax(logits_BV / (temperature or 1.0), -1)
    if temperature == 0:
        ids_B1 = logprobs_BV.argmax(-1, keepdim=True)
    else:
        ids_B1 = _invert(logprobs_BV.exp(), torch.tensor(uniforms, dtype=torch.float64)[:, None])
    return ids_B1[:, 0].tolist(), logprobs_BV.gather(-1, ids_B1)[:, 0].tolist()


def entropies(logits_BV: Tensor, temperature: float) -> list[float]:
    """[B] the entropy in nats of what ``choose`` draws from (at temperature 0: of that at temperature 1)."""
    probs_BV = torch.softmax(logits_BV / (temperature or 1.0), -1)
    found: list[float] = torch.special.entr(probs_BV).sum(-1).tolist()
    return found


def _invert(probs_BV: Tensor, uniforms_B1: Tensor) -> Tensor:
    """[B, 1] the token in whose share of the cumulated probabilities each uniform number falls, never one of weight 0.

    The part of 256 tokens is found first, then the token in it, so that no sum over all tokens is kept; in float64.
    """
    probs_BPT = torch.nn.functional.pad(probs_BV, (0, -probs_BV.shape[1] % 256)).reshape(len(probs_BV), -1, 256)
    sums_BP = probs_BPT.sum(-1, dtype=torch.float64).cumsum(-1)
    points_B1 = uniforms_B1.to(sums_BP.device) * sums_BP[:, -1:]
    part_B1 = _passed(sums_BP, points_B1)
    before_B1 = torch.nn.functional.pad(sums_BP, (1, 0)).gather(1, part_B1)
    sums_BT = probs_BPT.take_along_dim(part_B1[:, :, None], 1)[:, 0].cumsum(-1, dtype=torch.float64)
    return part_B1 * 256 + _passed(sums_BT, points_B1 - before_B1)


def _passed(sums_BN: Tensor, points_B1: Tensor) -> Tensor:
    """[B, 1] how many sums a point has passed; rounding never carries it past the last that still grew."""
    return torch.minimum(
        (sums_BN <= points_B1).sum(-1, keepdim=True), (sums_BN < sums_BN[:, -1:]).sum(-1, keepdim=True)
    )
