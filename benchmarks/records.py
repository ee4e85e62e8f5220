"""What an episode costs on disk and in memory, beside a record that keeps the whole prompt of every turn.

    python benchmarks/records.py            seconds; no GPU, no model

A record is linear in what is new per turn, so bytes a turn must not grow with the number of turns. The other record is
what most frameworks log: for each turn the ids of its whole row. Its size is counted, not written: 5,000 turns of it
are gigabytes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import tracemalloc
from typing import Any

import numpy as np

from milepost.envs import codec
from milepost.envs.core import Action, Episode, Stop, Tokens, Turn

N_CONTEXT, N_SAMPLED = 60, 8
"""New tokens of a turn: observation and template; the action."""


def episode(n_turns: int) -> Episode:
    """Return an episode like those of TextWorld: 240 characters of observation and a short command a turn."""
    rng = np.random.default_rng(0)
    keep, turns = 0, []
    for t in range(n_turns):
        tokens = Tokens(
            keep=keep,
            context=rng.integers(0, 50_000, N_CONTEXT).astype(np.int32),
            ids=rng.integers(0, 50_000, N_SAMPLED).astype(np.int32),
            logprobs=-rng.random(N_SAMPLED).astype(np.float32),
        )
        keep += N_CONTEXT + N_SAMPLED
        turns.append(
            Turn(
                observation=f"{t:06d} " + "You are in a room. " * 12,
                action=Action(f"take key {t:06d}", tokens=tokens),
                reward=float(rng.random()),
                info={"valid": True, "state_key": f"s{t:08d}", "potential": -float(t % 7)},
                seconds=0.001,
                credit={"progress": float(rng.random()), "gra": None},
                advantage=float(rng.random()),
            )
        )
    return Episode(id="0:bench:0", env_id="bench", turns=turns, last="The end.", stop=Stop.TERMINATED)


def full_prompt_bytes(n_turns: int) -> int:
    """Return the bytes of base64 int32 ids when every turn keeps its whole row."""
    rows = ((t + 1) * (N_CONTEXT + N_SAMPLED) for t in range(n_turns))
    return sum(4 * -(-4 * length // 3) for length in rows)


def median_ms(work: Any, repeats: int = 5) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def measure(n_turns: int) -> dict[str, float]:
    tracemalloc.start()
    played = episode(n_turns)
    memory = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    line = codec.dumps(codec.to_json(played))
    assert codec.from_json(codec.loads(line)) == played
    return {
        "turns": n_turns,
        "disk_bytes_per_turn": len(line) / n_turns,
        "disk_MB": len(line) / 1e6,
        "memory_bytes_per_turn": memory / n_turns,
        "memory_MB": memory / 1e6,
        "write_ms": median_ms(lambda: codec.dumps(codec.to_json(played))),
        "read_ms": median_ms(lambda: codec.from_json(codec.loads(line))),
        "full_prompt_MB": full_prompt_bytes(n_turns) / 1e6,
        "ratio": full_prompt_bytes(n_turns) / len(line),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="What an episode costs on disk and in memory.")
    parser.add_argument("--turns", type=int, nargs="+", default=[500, 1000, 2000, 5000])
    parser.add_argument("--json", action="store_true", help="one JSON document instead of the table")
    args = parser.parse_args()
    rows = [measure(n) for n in args.turns]
    if args.json:
        print(json.dumps(rows, indent=2))
        return
    print("  ".join(f"{key:>21}" for key in rows[0]))
    for row in rows:
        print("  ".join(f"{value:>21,.1f}" if key != "turns" else f"{value:>21}" for key, value in row.items()))


if __name__ == "__main__":
    main()
