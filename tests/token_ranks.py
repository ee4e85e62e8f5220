"""Run by torchrun: OPRL and SPA learn for three updates from a rank's share of a batch; rank 0 writes the weights."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from rows import TinyPolicy
from token_models import spoken

from milepost.agents import distributed
from milepost.agents.local.token_model import AdapterModel
from milepost.credit.oprl import OPRL
from milepost.credit.spa import SPA
from milepost.envs.core import Episode

GROUPS: Sequence[Sequence[Episode]] = [
    [spoken(1.0, [3, 4], [5], id="a"), spoken(0.0, [6], id="b"), spoken(0.0, [7, 8], [9], [3], id="c")],
    [spoken(0.0, [5, 5], id="d"), spoken(0.0, [4], id="e")],
    [spoken(1.0, [9], id="f"), spoken(0.0, [3], id="g")],
]
"""The second has no pair: with two ranks, the second rank has no pair at all."""


def run() -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    """Return the weights after three updates, and their metrics."""
    policy = TinyPolicy(lora=True, dropout=0.0)
    for p in policy.model.parameters():
        if p.requires_grad and distributed.rank():
            p.data += 1.0  # the weights of rank 0 count
    model = AdapterModel(policy.model, lr=1e-2)
    methods = [OPRL(token_model=model), SPA(token_model=model, beta=0.0, n_steps=2)]
    mine = distributed.share(GROUPS)
    metrics = []
    for _ in range(3):
        metrics.append({k: v for method in methods for k, v in method.fit(mine).items()})
    state = model.state_dict()
    return {**state["weights"], **state["heads"][0]}, metrics


if __name__ == "__main__":
    distributed.init(timeout_s=60)
    weights, metrics = run()
    every = distributed.gather({name: w.clone() for name, w in weights.items()})
    assert all(torch.equal(other[name], w) for other in every for name, w in weights.items()), "ranks differ"
    if distributed.rank() == 0:
        torch.save((weights, metrics), sys.argv[1])
    distributed.close()
