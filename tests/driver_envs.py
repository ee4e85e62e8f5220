"""Small environments that behave, and misbehave, for the tests of the driver."""

from __future__ import annotations

import threading
import time
from typing import Any, ClassVar

import gymnasium as gym

from milepost.envs.core import Task, Utf8
from milepost.sandbox.core import SandboxError


class CountEnv(gym.Env[str, str]):
    """Say "more" exactly n times; ``trouble`` names what else can happen, at the move of the same name."""

    observation_space = Utf8()
    action_space = Utf8()
    instructions = "Count."
    alive: ClassVar[set[CountEnv]] = set()
    made: ClassVar[int] = 0
    stepping: ClassVar[set[int]] = set()
    """The environments that are inside a step now."""
    most_stepping: ClassVar[int] = 0
    awake: ClassVar[threading.Event] = threading.Event()
    """What hangs, hangs until this is set."""
    hung: ClassVar[list[threading.Thread]] = []

    def __init__(self, slow_s: float = 0.0, hangs: bool = False) -> None:
        self.slow_s = slow_s
        if hangs:
            self._hang()
        self.threads = {threading.get_ident()}
        CountEnv.alive.add(self)
        CountEnv.made += 1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self._note_thread()
        task = options.get("task") if options else None
        if task == "broken":
            raise KeyError("no such task file")
        if task == "hang":
            self._hang()
        self.n = int(self.np_random.integers(2, 9))
        self.said = 0
        return f"count to {self.n}", self._info()

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self._note_thread()
        CountEnv.stepping.add(id(self))
        CountEnv.most_stepping = max(CountEnv.most_stepping, len(CountEnv.stepping))
        time.sleep(self.slow_s)
        CountEnv.stepping.discard(id(self))
        if action == "crash":
            raise ZeroDivisionError("a bug in a user's environment")
        if action == "machine":
            raise SandboxError("the container is gone")
        if action == "hang":
            self._hang()
        if action == "exit":
            raise SystemExit(3)
        self.said += action == "more"
        over = action == "stop" or self.said > self.n
        info = self._info()
        if over:
            info["outcome"] = self.score()
        return f"{self.said} of {self.n}", 0.0, over, False, info

    def close(self) -> None:
        self._note_thread()
        assert len(self.threads) == 1, "made, stepped and closed in one thread"
        CountEnv.alive.discard(self)

    def score(self) -> float:
        return float(self.said == self.n)

    def oracle(self) -> list[str]:
        return ["more"] * (self.n - self.said) + ["stop"]

    def _info(self) -> dict[str, Any]:
        return {"actions": ["more", "stop", "wait"], "potential": float(self.said - self.n)}

    def _hang(self) -> None:
        CountEnv.hung.append(threading.current_thread())
        CountEnv.awake.wait(100)

    def _note_thread(self) -> None:
        self.threads.add(threading.get_ident())


class DuetEnv(gym.Env[str, str]):
    """Two agents take turns, a after b after a, for five turns; each sees a line of its own."""

    observation_space = Utf8()
    action_space = Utf8()
    instructions: ClassVar[dict[str, str]] = {"a": "You are a.", "b": "You are b."}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return "begin, a", {"agent": "a"}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.t += 1
        agent = "ab"[self.t % 2]
        info: dict[str, Any] = {"agent": agent}
        if self.t == 5:
            info["outcome"] = {"a": 1.0, "b": 0.0}
        return f"{agent} hears {action}", 0.0, self.t == 5, False, info


def wake() -> None:
    """Let what hangs go on, and wait until its threads have ended."""
    CountEnv.awake.set()
    for thread in CountEnv.hung:
        thread.join(100)


COUNT = "driver-test/Count-v0"
DUET = "driver-test/Duet-v0"
gym.register(COUNT, f"{__name__}:CountEnv", max_episode_steps=12)
gym.register(DUET, f"{__name__}:DuetEnv", max_episode_steps=12)


def tasks(n: int, group: int = 4, **kwargs: Any) -> list[Task]:
    """Return n tasks in groups of ``group`` attempts."""
    return [Task(COUNT, kwargs, group=f"g{i // group}", attempt=i % group) for i in range(n)]
