"""A tiny policy and made-up rows for the tests of training."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from milepost.agents.samples import Sample


class TinyPolicy:
    """A random tiny Llama with the part of a policy that is trained."""

    def __init__(self, lora: bool = False, layers: int = 2, dropout: float = 0.1, seed: int = 0) -> None:
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=layers,
            num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=256, pad_token_id=2, eos_token_id=2,
        )  # fmt: skip
        self.model: Any = LlamaForCausalLM(config)
        if lora:
            self.model = get_peft_model(self.model, LoraConfig(r=4, target_modules="all-linear", lora_dropout=dropout))
            for name, p in self.model.named_parameters():
                if "lora_B" in name:
                    torch.nn.init.normal_(p, std=0.05)
        self.version, self.temperature, self.synced = 0, 1.0, 0

    def sync(self) -> None:
        self.synced += 1


def sample(n: int, episode: str, seed: int, advantage: float | None = None) -> Sample:
    """A row of ``n`` turns of 3 + 2 tokens with random advantages."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(3, 32, 5 * n).astype(np.int32)
    sampled = np.tile([False, False, False, True, True], n)
    turn = np.where(sampled, np.repeat(np.arange(n), 5), -1).astype(np.int32)
    worth = np.repeat(rng.normal(size=n) if advantage is None else np.full(n, advantage), 5) * sampled
    logprobs = np.where(sampled, -3.4 + 0.1 * rng.normal(size=5 * n), 0).astype(np.float32)
    return Sample(ids, sampled, logprobs, worth.astype(np.float32), turn, episode, "g", [0] * n)


def batch() -> list[Sample]:
    samples = [sample(n, f"e{i}", i) for i, n in enumerate([1, 3, 2, 5, 1, 2])]
    return [*samples, sample(2, "e1", 9)]  # a fork of the second episode


def weights(policy: TinyPolicy) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in policy.model.parameters() if p.requires_grad])
