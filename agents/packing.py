"""Rows through a causal language model: micro-batches of similar length, log-probabilities where they are asked for.

Rows are padded on the right, so a causal model needs no mask: no real token sees what stands after it. Hidden states
are gathered at the wanted positions before the language-model head, which is the largest matrix of a small model.

Shape letters: B rows, L tokens of the longest row, D hidden size, V vocabulary, N wanted tokens of all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from milepost.agents.samples import BoolArray
from milepost.envs.core import IntArray


def micro_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Return the indices of rows by length, longest first, in batches of at most ``max_tokens`` with padding.

    A row longer than that is a batch of its own.
    """
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= max_tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def token_logprobs(
    model: Any, rows: Sequence[IntArray], wanted: Sequence[BoolArray], temperature: float = 1.0
) -> Tensor:
    """[N] log-probabilities in nats of the wanted tokens, row after row, with gradient where there is any.

    Args:
        model: A transformers causal language model, with a peft adapter or without.
        rows: Token ids, ``[L]`` each.
        wanted: Which of them, ``[L]`` each; never a row's first, which nothing predicts.
        temperature: What the sampler divided the logits by.

    Raises:
        ValueError: The first token of a row is wanted.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    head = base.get_output_embeddings()
    device = head.weight.device
    shape = len(rows), max(len(row) for row in rows)
    ids, mask = np.zeros(shape, np.int64), np.zeros(shape, np.bool_)
    for i, (row, at) in enumerate(zip(rows, wanted, strict=True)):
        ids[i, : len(row)], mask[i, : len(row)] = row, at
    if mask[:, 0].any():
        raise ValueError("a row begins with a sampled token: a prompt of at least one token must stand before it")
    ids_BL = torch.from_numpy(ids).to(device)
    rows_N, columns_N = (torch.from_numpy(at).to(device) for at in mask.nonzero())
    positions_BL = torch.arange(shape[1], device=device).expand(shape)
    backbone = getattr(base, base.base_model_prefix)
    hidden_BLD = backbone(input_ids=ids_BL, position_ids=positions_BL, use_cache=False).last_hidden_state
    logits_NV = head(hidden_BLD[rows_N, columns_N - 1]).float()
    if cap := getattr(base.config, "final_logit_softcapping", None):
        logits_NV = (logits_NV / cap).tanh() * cap
    targets_N = ids_BL[rows_N, columns_N]
    return -torch.nn.functional.cross_entropy(logits_NV / temperature, targets_N, reduction="none")
