"""Keys and values kept across turns against a prefill of the whole row each turn, on the same samples.

python benchmarks/rollout.py [--model smollm2]      prints seconds and their ratio, medians of alternating repeats
"""

from __future__ import annotations

import argparse
import tempfile
import time
from statistics import median
from typing import Any

import torch

from milepost.agents.core import Request
from milepost.agents.local import models, tiny
from milepost.agents.local.policy import LocalPolicy
from milepost.envs.core import Action, action_message

OBSERVATION = "You open the door. Behind it there is a kitchen with a table, and on the table lies a small key. " * 3


def play(policy: LocalPolicy, n_rows: int, n_turns: int, keep: bool) -> tuple[float, list[str]]:
    chats: list[list[dict[str, Any]]] = [[{"role": "user", "content": OBSERVATION}] for _ in range(n_rows)]
    texts, began = [], time.perf_counter()
    for t in range(n_turns):
        if not keep:
            policy.sync()
        requests = [Request(str(i), "g", chat, seed=1000 * i + t) for i, chat in enumerate(chats)]
        for chat, action in zip(chats, policy.act(requests), strict=True):
            assert isinstance(action, Action)
            texts.append(action.text)
            chat += [action_message(action), {"role": "user", "content": OBSERVATION}]
    seconds = time.perf_counter() - began
    policy.forget([str(i) for i in range(n_rows)])
    return seconds, texts


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        name = str(tiny.build(folder, max_position_embeddings=16384)) if args.model == "tiny" else args.model
        policy = LocalPolicy(*models.load(name), max_new_tokens=8)
    kept, again = [], []
    for _ in range(args.repeats):
        (a, texts), (b, same) = (play(policy, args.rows, args.turns, keep) for keep in (True, False))
        assert texts == same, "the two ways sampled different actions"
        kept.append(a)
        again.append(b)
    print(f"{args.turns} turns, {args.rows} rows: kept {median(kept):.2f} s, prefill each turn {median(again):.2f} s")
    print(f"ratio {median(y / x for x, y in zip(kept, again, strict=True)):.1f}x")


if __name__ == "__main__":
    main()
