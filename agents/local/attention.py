"""Attention as two matrix products and a softmax: on a CPU in bf16 about twice as fast as torch's fused kernel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

NAME = "milepost"
"""What ``attn_implementation`` calls it."""


def attend(
    module: Any,
    q_BHLD: Tensor,
    k_BKSD: Tensor,
    v_BKSD: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """[B, L, H, D] attention of L queries over S keys, H heads sharing K key heads; causal where no mask is given.

    Without a mask the queries are the last L of the S positions: rows padded on the right need nothing else. A mask
    is added to the scores, ``[B, 1, L, S]``.
    """
    B, H, L, D = q_BHLD.shape
    K, S = k_BKSD.shape[1:3]
    q = (q_BHLD * (D**-0.5 if scaling is None else scaling)).reshape(B, K, H // K * L, D)
    scores = torch.matmul(q, k_BKSD.transpose(-1, -2)).view(B, K, H // K, L, S)
    if attention_mask is not None:
        scores = scores + attention_mask[:, :, None, :, :S]
    elif L > 1:
        hidden = torch.full((L, S), float("-inf"), dtype=scores.dtype, device=scores.device)
        scores = scores + hidden.triu(S - L + 1)
    weights = torch.softmax(scores, -1)
    if dropout:
        weights = torch.nn.functional.dropout(weights, dropout, module.training)
    out = torch.matmul(weights.view(B, K, H // K * L, S), v_BKSD)
    return out.view(B, H, L, D).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, attend)
