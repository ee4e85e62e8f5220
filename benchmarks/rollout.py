"""Keys and values kept across turns, against a prefill of the whole row each turn and transformers' generate.

python benchmarks/rollout.py            half a minute
python benchmarks/rollout.py --model smollm2 --rows 1 --repeats 1

In fp32, because in bf16 the samples would differ. All three see the same prompts and write as many tokens, alternating
in one process with one thread. Printed are the medians of processor seconds of an episode's first 5, 10 and 20 turns,
and of their ratios.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import torch

from milepost.agents.core import Request
from milepost.agents.local import models, tiny
from milepost.agents.local.policy import LocalPolicy
from milepost.envs.core import Action, action_message

OBSERVATION = "You open the door. Behind it there is a kitchen with a table, and on the table lies a small key. " * 2
MARKS = (5, 10, 20)


def play(policy: LocalPolicy, n_rows: int, n_turns: int, keep: bool) -> tuple[list[float], list[list[Action]]]:
    """Return the seconds that each turn took and its actions; without ``keep`` the cache is emptied before each."""
    chats: list[list[dict[str, Any]]] = [[{"role": "user", "content": OBSERVATION}] for _ in range(n_rows)]
    seconds, turns = [], []
    for t in range(n_turns):
        if not keep:
            policy.sync()
        requests = [Request(str(i), "g", chat, seed=1000 * i + t) for i, chat in enumerate(chats)]
        began = time.process_time()
        actions = [action for action in policy.act(requests) if isinstance(action, Action)]
        seconds.append(time.process_time() - began)
        turns.append(actions)
        for chat, action in zip(chats, actions, strict=True):
            chat += [action_message(action), {"role": "user", "content": OBSERVATION}]
    policy.forget([str(i) for i in range(n_rows)])
    return seconds, turns


def generate(model: Any, pad: int, turns: Sequence[Sequence[Action]]) -> list[float]:
    """Return the seconds that ``generate`` takes for each of these turns, padded on the left."""
    rows: list[list[int]] = [[] for _ in turns[0]]
    seconds = []
    for actions in turns:
        for row, action in zip(rows, actions, strict=True):
            assert action.tokens is not None
            row[action.tokens.keep :] = action.tokens.context.tolist()
        width = max(map(len, rows))
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        n = max(len(action.tokens.ids) for action in actions if action.tokens)
        began = time.process_time()
        model.generate(
            ids, attention_mask=mask, do_sample=True, min_new_tokens=n, max_new_tokens=n, top_k=0, pad_token_id=pad
        )
        seconds.append(time.process_time() - began)
        for row, action in zip(rows, actions, strict=True):
            row += action.tokens.ids.tolist() if action.tokens else []
    return seconds


def main() -> None:
    """Play, and print a line for each number of turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny", help="tiny, smollm2, a folder or a hub name")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        name = str(tiny.build(folder, [OBSERVATION])) if args.model == "tiny" else args.model
        model, tokenizer = models.load(name)
    policy = LocalPolicy(model, tokenizer, max_new_tokens=8)
    play(policy, args.rows, 1, True)
    runs: list[tuple[list[float], ...]] = []
    turns: list[list[Action]] = []
    for i in range(args.repeats):
        (kept, turns), (again, same) = (play(policy, args.rows, MARKS[-1], keep) for keep in (True, False))
        assert [[a.text for a in t] for t in turns] == [[a.text for a in t] for t in same], "the samples differ"
        runs.append((kept, again, generate(model, tokenizer.pad_token_id, turns)))
        print(f"repeat {i + 1} of {args.repeats}: {', '.join(f'{sum(x):.1f}' for x in runs[-1])} s", flush=True)
    n_tokens = sum(len(a.tokens.context) + len(a.tokens.ids) for t in turns for a in t if a.tokens) // args.rows
    print(f"{args.rows} rows of {n_tokens} tokens; processor seconds, and how many times those of kept")
    for n in MARKS:
        kept_s, again_s, generate_s = ([sum(run[way][:n]) for run in runs] for way in range(3))
        more, most = (median(y / x for x, y in zip(kept_s, way, strict=True)) for way in (again_s, generate_s))
        print(
            f"{n:2} turns: kept {median(kept_s):.2f}, prefill each turn {median(again_s):.2f} = {more:.1f}x, "
            f"generate {median(generate_s):.2f} = {most:.1f}x"
        )


if __name__ == "__main__":
    main()
