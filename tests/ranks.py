"""Run by torchrun: three updates on this rank's share of a batch; rank 0 writes the weights."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import torch
from rows import TinyPolicy, batch, weights

from milepost.agents import distributed
from milepost.agents.objective import Objective
from milepost.agents.trainer import Trainer


def run(dies: bool = False) -> tuple[torch.Tensor, list[dict[str, float]]]:
    """Return the weights after three updates, and their metrics."""
    policy = TinyPolicy(lora=True, dropout=0.0)
    for p in policy.model.parameters():
        if p.requires_grad and distributed.rank():
            p.data += 1.0  # the weights of rank 0 count
    trainer = Trainer(policy, lr=1e-2, max_tokens=30, objective=Objective(kl=0.05, aggregation="seq_mean_token_mean"))
    samples = batch()
    keys = distributed.share(sorted({s.key for s in samples}))
    metrics = []
    for update in range(3):
        if dies and update == 1 and distributed.rank() == 1:
            os._exit(7)
        metrics.append(trainer.update([s for s in samples if s.key in keys]))
    return weights(policy), metrics


if __name__ == "__main__":
    path, mode = sys.argv[1:]
    distributed.init(timeout_s=60)
    if mode == "waits":
        Path(f"{path}-{distributed.rank()}").write_text(str(os.getpid()))
        time.sleep(60)
    result = run(dies=mode == "dies")
    if distributed.rank() == 0:
        torch.save(result, path)
    distributed.close()
