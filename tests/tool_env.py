"""A small environment with tools, for tests of the tool layer and of the MCP server."""

from __future__ import annotations

import json
from typing import Any, Literal

import gymnasium as gym
import numpy as np

from milepost.envs.core import Action, Call, Mixed, Observation, Utf8
from milepost.envs.tools import ToolError, Tools

PRICES = {"pen": 2.0, "ink": 3.5, "desk": 80.0}


class ShopEnv(gym.Env[Observation, str]):
    """Spend ten coins on what is asked for: a pen and two inks, in any order, then pay."""

    instructions = "Buy a pen and two inks, then pay."

    def __init__(self, picture: bool = False) -> None:
        self.observation_space = Mixed()
        self.action_space = Utf8()
        self._tools = Tools([self.look, self.buy, self.pay], max_calls=8)
        self.tools = self._tools.schemas
        self._picture = picture
        self._basket: dict[str, int] = {}
        self._paid = False

    def look(self, below: float = 100.0) -> dict[str, float]:
        """List what there is.

        Args:
            below: Show what costs less than this.
        """
        return {item: price for item, price in PRICES.items() if price < below}

    def buy(self, item: Literal["pen", "ink", "desk"], n: int = 1, wrap: bool | None = None) -> str:
        """Put something into the basket.

        Args:
            item: What to buy.
            n: How many.
            wrap: Whether to wrap it.
        """
        if n < 1:
            raise ToolError(f"expected one or more, got {n}")
        self._basket[item] = self._basket.get(item, 0) + n
        return f"{self._basket[item]} {item} in the basket{', wrapped' if wrap else ''}"

    def pay(self) -> None:
        """Pay for the basket; that ends the visit."""
        self._paid = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        self._basket, self._paid = {}, False
        return "You have ten coins.", {"task_id": (options or {}).get("task", "pen and inks"), "answer": "s3cret"}

    def step(self, action: str) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        before = sum(self._basket.values())
        results = self._tools.run(action, over=lambda: self._paid)
        bought = float(sum(self._basket.values()) - before)
        info: dict[str, Any] = {"reward_components": {"bought": bought}, "valid": results.ok}
        info["state_key"] = str(sorted(self._basket.items()))
        if self._paid:
            info["success"] = self._basket == {"pen": 1, "ink": 2}
            info["outcome"] = float(info["success"])
        observation = results.observation("The shop closes soon.")
        if self._picture:
            seen = observation if isinstance(observation, dict) else {"text": observation}
            observation = seen | {"images": [np.full((2, 3, 3), 7, np.uint8)]}
        return observation, bought, self._paid, False, info

    def score(self) -> float:
        return 0.0


def native(*calls: tuple[str, str, Any]) -> Action:
    """Return an action with calls; arguments that are no text are written as JSON."""
    texts = [(i, name, a if isinstance(a, str) else json.dumps(a)) for i, name, a in calls]
    return Action("", calls=tuple(Call(*call) for call in texts))


gym.register("milepost-tests/Shop-v0", entry_point=f"{__name__}:ShopEnv", max_episode_steps=12)
