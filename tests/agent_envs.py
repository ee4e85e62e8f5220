"""A small environment with tools, and a policy that remembers what it was asked, for the tests of agents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import gymnasium as gym

from milepost.agents.core import Answer, Request
from milepost.envs.core import Action, Mixed, Observation, Utf8
from milepost.envs.tools import ToolError, Tools


class CellarEnv(gym.Env[Observation, str]):
    """Take the one bottle that is asked for: ``look`` says what stands on a shelf, ``take`` ends the episode."""

    action_space = Utf8()
    observation_space = Mixed()
    instructions = "Fetch the bottle."
    SHELVES: ClassVar[list[str]] = ["ale", "gin", "rum"]

    def __init__(self) -> None:
        self._tools = Tools([self.look, self.take])
        self.tools = self._tools.schemas

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        self.taken: str | None = None
        return "Bring me rum.", {}

    def step(self, action: str) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        results = self._tools.run(action)
        over = self.taken is not None
        info = {"outcome": float(self.taken == "rum")} if over else {}
        return results.observation(), 0.0, over, False, info

    def look(self, shelf: int) -> str:
        """Say what stands on a shelf, 0 to 2."""
        if not 0 <= shelf < len(self.SHELVES):
            raise ToolError(f"There is no shelf {shelf}.")
        return self.SHELVES[shelf]

    def take(self, bottle: str) -> str:
        """Take a bottle and go."""
        self.taken = bottle
        return f"You have {bottle}."


class Seeing:
    """Answers by a function of the request and keeps every request as it was then."""

    version = 3

    def __init__(self, answer: Callable[[Request], Answer] = lambda request: Action("rest")) -> None:
        self.answer = answer
        self.requests: list[Request] = []
        self.forgotten: list[str] = []

    def act(self, requests: Sequence[Request]) -> list[Answer]:
        self.requests += [replace(request, messages=list(request.messages)) for request in requests]
        return [self.answer(request) for request in requests]

    def forget(self, episode_ids: Sequence[str]) -> None:
        self.forgotten += episode_ids


CELLAR = "agent-test/Cellar-v0"
gym.register(CELLAR, f"{__name__}:CellarEnv", max_episode_steps=12)
