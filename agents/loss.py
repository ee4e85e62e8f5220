"""Losses on the tokens that were sampled; every one is a sum with weights fixed beforehand from the whole batch.

Shape letters: B rows, L tokens of a row, N tokens with loss in a micro-batch (flat, in the order of their rows),
S segments (tokens, turns or rows, whatever has one ratio), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

Aggregation = Literal["token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "seq_mean_token_sum_norm"]
Level = Literal["token", "turn", "sequence"]


class Totals(NamedTuple):
    """What a batch is divided by, counted over all its micro-batches and ranks."""

    sequences: float
    tokens: float


def sequence_weights(
    n_tokens_B: Sequence[int], how: Aggregation, constant: float = 1.0, totals: Totals | None = None
) -> list[float]:
    """[B] what each token of a sequence weighs, so that the weighted sum of token losses is the aggregate.

    ======================== ==================================
    token_mean               1 / tokens of the batch
    seq_mean_token_mean      1 / (sequences * own tokens)
    seq_mean_token_sum       1 / sequences
    seq_mean_token_sum_norm  1 / (sequences * constant)
    ======================== ==================================

    Only the last two leave the choice of how long to go on unbiased: dividing by the own length favours short right
    answers and hides long wrong ones. A sequence without tokens counts nowhere.

    Args:
        n_tokens_B: Tokens with loss in each sequence.
        how: The aggregation.
        constant: What ``seq_mean_token_sum_norm`` divides by, for example the most tokens a sequence can have.
        totals: Counts over the whole batch, where ``n_tokens_B`` is only this rank's part of it.
    """
    if how not in get_args(Aggregation):
        raise ValueError(f"aggregation: expected one of {', '.join(get_args(Aggregation))}, got {how!r}")
    if constant <= 0:
        raise ValueError(f"aggregation constant: expected a positive number, got {constant}")
    n_sequences, n_tokens = totals or Totals(sum(n > 0 for n in n_tokens_B), sum(n_tokens_B))
    match how:
        case "token_mean":
            divisors = [n_tokens] * len(n_tokens_B)
        case "seq_mean_token_mean":
            divisors = [n_sequences * n for n in n_tokens_B]
        case "seq_mean_token_sum":
            divisors = [n_sequences] * len(n_tokens_B)
        case "seq_mean_token_sum_norm":
            divisors = [n_sequences * constant] * len(n_tokens_B)
    return [1.0 / d if n else 0.0 for n, d in zip(n_tokens_B, divisors, strict=True)]


def aggregate(token_loss_BL: Tensor, mask_BL: Tensor, how: Aggregation, constant: float = 1.0) -> Tensor:
    """[] the aggregate of a whole batch of token losses, one row a sequence; see ``sequence_weights``."""
    weights = sequence_weights(mask_BL.sum(-1).tolist(), how, constant)
    return (token_loss_BL * mask_BL * token_loss_BL.new_tensor(weights)[:, None]).sum()


class PolicyLoss(NamedTuple):
    """The clipped surrogate of a micro-batch."""

    loss: Tensor
    """[] the weighted sum, with gradient."""
    ratio_N: Tensor
    """[N] without gradient."""
    clipped_N: Tensor
    """[N] bool: clipping took this token's gradient away."""


def policy_loss(
    logprobs_N: Tensor,
    old_N: Tensor,
    advantages_N: Tensor,
    weights_N: Tensor,
    *,
    segments_N: Tensor | None = None,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> PolicyLoss:
    """Return the sum of ``-w * min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A)``.

    Args:
        logprobs_N: Of the policy in training, in nats, with gradient.
        old_N: Of the policy that the ratio is taken against.
        advantages_N: Per token.
        weights_N: See ``sequence_weights``, times ``importance`` and ``importance_mask`` where they are used.
        segments_N: Segment of each token for a ratio per turn or sequence; None is a ratio per token.
        clip_low: How far below 1 a ratio still has a gradient.
        clip_high: How far above.
    """
    log_ratio_N = logprobs_N - old_N.detach()
    if segments_N is not None:
        log_ratio_N = segment_mean(log_ratio_N, segments_N)
    ratio_N = log_ratio_N.exp()
    free_N = ratio_N * advantages_N
    bound_N = ratio_N.clamp(1 - clip_low, 1 + clip_high) * advantages_N
    loss = -(weights_N * torch.minimum(free_N, bound_N)).sum()
    return PolicyLoss(loss, ratio_N.detach(), (bound_N < free_N).detach())


def segment_mean(values_N: Tensor, segments_N: Tensor) -> Tensor:
    """[N] the mean of each token's segment: the log-ratio of a turn or sequence is that of its geometric mean.

    Source: Zheng et al. 2025, arXiv 2507.18071 (sequences); the same per turn.
    """
    n_segments = int(segments_N.max()) + 1 if len(segments_N) else 0
    sums_S = values_N.new_zeros(n_segments).index_add(0, segments_N, values_N)
    counts_S = values_N.new_zeros(n_segments).index_add(0, segments_N, torch.ones_like(values_N))
    return (sums_S / counts_S)[segments_N]


def importance(old_N: Tensor, sampler_N: Tensor, cap: float) -> Tensor:
    """[N] ``min(p_trainer / p_sampler, cap)`` without gradient: the truncated correction for an engine's own numerics.

    Source: Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training".
    """
    return (old_N - sampler_N).exp().clamp(max=cap).detach()


def importance_mask(
    old_N: Tensor, sampler_N: Tensor, low: float, high: float, segments_N: Tensor | None = None
) -> Tensor:
    """[N] bool: whether ``p_trainer / p_sampler`` lies in ``[low, high]``: what lies outside is better left out.

    With ``segments_N`` a turn or sequence is kept or left out as a whole, by the geometric mean of its tokens' ratios.
    """
    log_ratio_N = (old_N - sampler_N).detach()
    if segments_N is not None:
        log_ratio_N = segment_mean(log_ratio_N, segments_N)
    ratio_N = log_ratio_N.exp()
    return (ratio_N >= low) & (ratio_N <= high)


def entropy(logits_NV: Tensor) -> Tensor:
    """[N] the entropy in nats of the distribution that logits give, with gradient."""
    logprobs_NV = logits_NV.log_softmax(-1)
    return -(logprobs_NV.exp() * logprobs_NV).sum(-1)


def kl_k2(logprobs_N: Tensor, ref_N: Tensor) -> Tensor:
    """[N] ``(log p - log p_ref)^2 / 2``: on-policy its mean gradient is that of KL(p, p_ref).

    k1 in the loss has mean gradient 0 and k3's is that of the reversed divergence, so neither is offered here;
    ``samples.kl_credit`` is k1 where it is right, in the reward.

    Source: Schulman 2020, "Approximating KL divergence"; Tang and Munos 2025, arXiv 2506.09477.
    """
    return (logprobs_N - ref_N.detach()).square() / 2


def clone_loss(logprobs_N: Tensor, weights_N: Tensor) -> Tensor:
    """[] the weighted sum of ``-log p``: behaviour cloning."""
    return -(weights_N * logprobs_N).sum()
