"""Measure turns per second of the ladder, bare and as ``gym.make`` wraps it: ``python benchmarks/ladder.py``."""

from __future__ import annotations

import time
from statistics import median

import gymnasium as gym

import milepost.envs.ladder as ladder


def turns_per_second(env: gym.Env[str, str], episodes: int = 2_000) -> float:
    start = time.perf_counter()
    for _ in range(episodes):
        env.reset(options={"task": "LRRLR"})
        for _ in range(ladder.N_TURNS):
            env.step("dust")
    return episodes * ladder.N_TURNS / (time.perf_counter() - start)


if __name__ == "__main__":
    wrapped = gym.make("milepost/Ladder-v0")
    for name, env in {"bare": wrapped.unwrapped, "gym.make": wrapped}.items():
        print(f"{name:8} {median(turns_per_second(env) for _ in range(5)):>10,.0f} turns/s (median of 5)")
