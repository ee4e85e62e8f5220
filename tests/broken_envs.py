"""A good environment, and ten that break one rule of the contract each."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from milepost.envs.core import Utf8

Step = tuple[str, float, bool, bool, dict[str, Any]]
LIMIT = 12


class Box:
    """The machine below: it adds up what it is told."""

    def __init__(self) -> None:
        self.total = 0

    def add(self, n: int) -> int:
        self.total += n
        return self.total


class GoodEnv(gym.Env[str, str]):
    """Add up to a number by moves "1" and "2"; too much is a loss. Outcome 0 or 1."""

    observation_space = Utf8()
    action_space = Utf8()
    instructions = "Add 1 or 2 until you have the number."

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        task = (options or {}).get("task")
        self.goal = int(task[1:]) if task else int(self.np_random.integers(4, 1000))
        self.box = Box()
        self.box.total = self.goal - 4 - self.goal % 2
        return f"{self.goal - self.box.total} to go.", {"task_id": f"t{self.goal}", **self._info()}

    def step(self, action: str) -> Step:
        if action not in ("1", "2"):
            return "Not understood: answer 1 or 2.", 0.0, False, False, self._info() | {"valid": False}
        total = self.box.add(int(action))
        info = self._info() | {"valid": True}
        if total >= self.goal:
            info |= {"outcome": float(total == self.goal)}
        return f"{self.goal - total} to go.", 0.0, total >= self.goal, False, info

    def score(self) -> float:
        return 0.0

    def oracle(self) -> list[str]:
        left = self.goal - self.box.total
        return ["2"] * (left // 2) + ["1"] * (left % 2)

    def tasks(self, split: str) -> list[str] | None:
        return {"train": ["t10", "t11"], "valid": ["t12"], "test": ["t13"]}[split]

    def _info(self) -> dict[str, Any]:
        left = self.goal - self.box.total
        return {"state_key": f"left={left}/{self.goal}", "potential": float(-left), "actions": ["1", "2"]}


class LeaksEnv(GoodEnv):
    """Shows the info in the observation."""

    def step(self, action: str) -> Step:
        observation, *rest, info = super().step(action)
        return (f"{observation} {info}", *rest, info)  # type: ignore[return-value]


class IgnoresSeedEnv(GoodEnv):
    """Draws the task from a generator of its own."""

    rng: ClassVar[np.random.Generator] = np.random.default_rng(0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        return super().reset(options={"task": f"t{self.rng.integers(4, 10**9)}"} | (options or {}))


class CountsTurnsEnv(GoodEnv):
    """Ends the episode by a count of its own."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        self.n_turns = 0
        return super().reset(seed=seed, options=options)

    def step(self, action: str) -> Step:
        observation, reward, terminated, _, info = super().step(action)
        self.n_turns += 1
        return observation, reward, terminated, self.n_turns >= LIMIT - 2, info


class RaisesEnv(GoodEnv):
    """Raises on text that it cannot read."""

    def step(self, action: str) -> Step:
        return super().step(str(int(action)))


class ScoresCrashEnv(GoodEnv):
    """Takes a broken machine for a lost task."""

    def step(self, action: str) -> Step:
        try:
            return super().step(action)
        except Exception:
            return "error", 0.0, True, False, self._info_after_crash()

    def _info_after_crash(self) -> dict[str, Any]:
        return {"outcome": 0.0}


class EarlyOutcomeEnv(GoodEnv):
    """Gives an outcome at every step."""

    def step(self, action: str) -> Step:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated, truncated, {"outcome": 0.0} | info


class LosingOracleEnv(GoodEnv):
    """Has an oracle that overshoots."""

    def oracle(self) -> list[str]:
        return ["1", *super().oracle()]


class SharedStateEnv(GoodEnv):
    """Keeps its machine in the class."""

    shared: ClassVar[Box]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        result = super().reset(seed=seed, options=options)
        SharedStateEnv.shared = self.box
        return result

    def step(self, action: str) -> Step:
        self.box = SharedStateEnv.shared
        return super().step(action)


class NotJsonEnv(GoodEnv):
    """Puts a set into info."""

    def step(self, action: str) -> Step:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated, truncated, info | {"visited": {1, 2}}


class OverlappingSplitsEnv(GoodEnv):
    """Tests on a task of the training split."""

    def tasks(self, split: str) -> list[str] | None:
        return {"train": ["t10", "t11"], "valid": ["t12"], "test": ["t11"]}[split]


GOOD = "milepost-tests/Good-v0"
BROKEN: dict[str, str] = {}
"""The id of each broken environment, and the rule that it breaks."""
for _cls, _rule in (
    (LeaksEnv, "leak"),
    (IgnoresSeedEnv, "seed"),
    (CountsTurnsEnv, "turns"),
    (RaisesEnv, "garbage"),
    (ScoresCrashEnv, "crash"),
    (EarlyOutcomeEnv, "outcome"),
    (LosingOracleEnv, "oracle"),
    (SharedStateEnv, "shared"),
    (NotJsonEnv, "json"),
    (OverlappingSplitsEnv, "splits"),
):
    BROKEN[f"milepost-tests/{_cls.__name__.removesuffix('Env')}-v0"] = _rule
    gym.register(
        f"milepost-tests/{_cls.__name__.removesuffix('Env')}-v0", f"{__name__}:{_cls.__name__}", max_episode_steps=LIMIT
    )
gym.register(GOOD, f"{__name__}:GoodEnv", max_episode_steps=LIMIT)
