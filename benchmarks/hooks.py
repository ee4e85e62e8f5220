"""What ``TurnHooks`` costs per turn with 0, 1 and 3 hooks, beside a bare Gymnasium wrapper, in one run.

    python benchmarks/hooks.py [--json]

Rounds of the four are interleaved, so that a busy machine disturbs all alike; medians over the rounds.
"""

from __future__ import annotations

import json
import sys
from statistics import median
from time import perf_counter
from typing import Any

import gymnasium as gym

from milepost.envs.core import Episode, Utf8
from milepost.envs.hooks import TurnHooks

N_TURNS, N_ROUNDS = 2000, 41


class Constant(gym.Env[str, str]):
    observation_space = Utf8()
    action_space = Utf8()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        return "begin", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return "on", 0.0, False, False, {"valid": True, "potential": -3.0, "state_key": "a"}


class Zero:
    live = True

    def __init__(self, label: str) -> None:
        self.label = label

    def on_reset(self, episode: Episode) -> None:
        pass

    def on_turn(self, episode: Episode) -> float | None:
        return 0.0


def microseconds(env: gym.Env[Any, Any]) -> float:
    """Return the time per turn of one episode."""
    env.reset(seed=0)
    step = env.step
    start = perf_counter()
    for _ in range(N_TURNS):
        step("go")
    return (perf_counter() - start) / N_TURNS * 1e6


def measure(n_rounds: int = N_ROUNDS) -> dict[str, float]:
    """Return median microseconds per turn, and the cost of each beside the bare wrapper."""
    envs: dict[str, gym.Env[Any, Any]] = {"bare wrapper": gym.Wrapper(Constant())}
    for n in (0, 1, 3):
        envs[f"{n} hooks"] = TurnHooks(Constant(), [Zero(f"h{i}") for i in range(n)])
    times: dict[str, list[float]] = {name: [] for name in envs}
    for _ in range(n_rounds):
        for name, env in envs.items():
            times[name].append(microseconds(env))
    return {name: median(row) for name, row in times.items()}


def main() -> None:
    """Print the table."""
    rows = measure()
    bare = rows["bare wrapper"]
    if "--json" in sys.argv:
        print(json.dumps({name: {"us": us, "added_us": us - bare, "ratio": us / bare} for name, us in rows.items()}))
        return
    print(f"microseconds per turn, median of {N_ROUNDS} rounds of {N_TURNS} turns")
    for name, us in rows.items():
        print(f"{name:<14}{us:8.2f}   +{us - bare:6.2f}   x{us / bare:6.2f}")


if __name__ == "__main__":
    main()
