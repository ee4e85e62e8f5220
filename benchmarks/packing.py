"""One row per trajectory against one sample per turn: seconds for the same gradient, forward and backward.

python benchmarks/packing.py [--turns 10 20 40] [--repeats 3]

A 3 M-parameter Llama in fp32 on one thread; a turn is 60 observation and 6 action tokens and the loss is on the action
tokens. Per turn means growing prompts, right-padded with an attention mask in micro-batches of 8 of similar length.
Prints the median times, their ratio and the largest difference of the gradients relative to their largest entry.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from milepost.agents.loss import policy_loss
from milepost.agents.packing import token_logprobs

N_OBSERVED, N_ACTED, MICRO_BATCH = 60, 6, 8


def model() -> LlamaForCausalLM:
    """Return the random model."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=2048,
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=6,
            num_attention_heads=6,
            num_key_value_heads=2,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
        )
    )


def surrogate(logprobs_N: Tensor, advantages_N: Tensor, n_tokens: int) -> Tensor:
    """[] the policy loss with a normaliser from the whole batch."""
    return policy_loss(logprobs_N, logprobs_N.detach(), advantages_N, torch.full_like(advantages_N, 1 / n_tokens)).loss


def one_row(llm: LlamaForCausalLM, ids: Tensor, acted: Tensor, advantages: Tensor) -> None:
    """Forward and backward over the trajectory as one row."""
    logprobs_N = token_logprobs(llm, [ids.numpy()], [acted.numpy()])
    surrogate(logprobs_N, advantages[acted], int(acted.sum())).backward()


def per_turn(llm: LlamaForCausalLM, ids: Tensor, acted: Tensor, advantages: Tensor) -> None:
    """Forward and backward over one sample per turn: everything before it as prompt."""
    width = N_OBSERVED + N_ACTED
    ends = list(range(width, len(ids) + 1, width))
    for start in range(0, len(ends), MICRO_BATCH):
        part = ends[start : start + MICRO_BATCH]
        ids_BL = torch.zeros(len(part), part[-1], dtype=torch.long)
        mask_BL = torch.zeros(len(part), part[-1], dtype=torch.long)
        for i, end in enumerate(part):
            ids_BL[i, :end], mask_BL[i, :end] = ids[:end], 1
        hidden = llm.model(input_ids=ids_BL, attention_mask=mask_BL, use_cache=False).last_hidden_state
        at = [(i, column) for i, end in enumerate(part) for column in range(end - N_ACTED, end)]
        rows, columns = (torch.tensor(x) for x in zip(*at, strict=True))
        logits = llm.lm_head(hidden[rows, columns - 1])
        logprobs_N = logits.log_softmax(-1).gather(-1, ids_BL[rows, columns][:, None])[:, 0]
        surrogate(logprobs_N, advantages[columns], int(acted.sum())).backward()


def timed(llm: LlamaForCausalLM, run: Callable[[], None], repeats: int) -> tuple[float, Tensor]:
    """Return the median seconds and the gradient."""
    seconds = []
    for _ in range(repeats):
        llm.zero_grad()
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), torch.cat([p.grad.flatten() for p in llm.parameters() if p.grad is not None])


def main() -> None:
    """Print one line per number of turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, nargs="+", default=[10, 20, 40])
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    llm = model()
    print("turns  tokens  one row [s]  per turn [s]  ratio  gradient difference")
    for n_turns in args.turns:
        rng = np.random.default_rng(n_turns)
        ids = torch.from_numpy(rng.integers(3, 2048, n_turns * (N_OBSERVED + N_ACTED)))
        acted = torch.tensor(([False] * N_OBSERVED + [True] * N_ACTED) * n_turns)
        advantages = torch.from_numpy(np.repeat(rng.normal(size=n_turns), N_OBSERVED + N_ACTED)).float()
        one_row(llm, ids, acted, advantages)  # warm up
        fast, gradient = timed(llm, lambda: one_row(llm, ids, acted, advantages), args.repeats)  # noqa: B023
        slow, expected = timed(llm, lambda: per_turn(llm, ids, acted, advantages), args.repeats)  # noqa: B023
        difference = float((gradient - expected).abs().max() / expected.abs().max())
        print(
            f"{n_turns:5}  {len(ids):6}  {fast:11.2f}  {slow:12.2f}  {slow / fast:4.1f}x  {difference:.1e}", flush=True
        )
        assert difference < 1e-6, "the two must have the same gradient"


if __name__ == "__main__":
    main()
