"""What an evaluation has used so far, turn by turn, and the end of its budget."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Sequence
from typing import Any

from milepost.agents.core import Answer, Policy, Request
from milepost.envs.core import Action


class BudgetSpent(Exception):
    """The run has cost what it may; what is under way is cancelled."""


class Meter:
    """Counts tokens and cost as the answers come; ``cost`` begins with what the run has paid before."""

    def __init__(self, max_cost: float | None = None, cost: float = 0.0) -> None:
        self.max_cost = max_cost
        self.cost = cost
        self.tokens = 0
        self.priced = False
        """Whether any answer said what it cost."""

    def check(self) -> None:
        """Raise BudgetSpent where the budget is used up."""
        if self.max_cost is not None and self.cost >= self.max_cost:
            raise BudgetSpent(f"--max-cost {self.max_cost:g} is reached: {self.cost:.4g} is spent")

    def add(self, answers: Sequence[Answer]) -> Sequence[Answer]:
        """Count answers; return them.

        Raises:
            ValueError: There is a budget, and an answer does not say what it cost.
        """
        for answer in answers:
            if not isinstance(answer, Action):
                continue
            usage = answer.usage
            if usage is not None:
                self.tokens += usage.prompt + usage.completion
            if usage is not None and usage.cost is not None:
                self.cost += usage.cost
                self.priced = True
            elif self.max_cost is not None:
                raise ValueError("--max-cost needs the cost of every answer: give --prices FILE, or leave it out")
        return answers


def metered(policy: Policy, meter: Meter) -> Policy:
    """Return the policy with its answers counted; one that looks into the environment costs nothing."""
    if getattr(policy, "reference", False):
        return policy
    return _AsyncMetered(policy, meter) if inspect.iscoroutinefunction(policy.act) else _Metered(policy, meter)


class _Metered:
    def __init__(self, policy: Policy, meter: Meter) -> None:
        self._policy, self._meter = policy, meter

    @property
    def version(self) -> int:
        return self._policy.version

    def act(self, requests: Sequence[Request]) -> Sequence[Answer] | Awaitable[Sequence[Answer]]:
        self._meter.check()
        answers: Any = self._policy.act(requests)
        return self._later(answers) if inspect.isawaitable(answers) else self._meter.add(answers)

    async def _later(self, answers: Awaitable[Sequence[Answer]]) -> Sequence[Answer]:
        return self._meter.add(await answers)

    def forget(self, episode_ids: Sequence[str]) -> None:
        self._policy.forget(episode_ids)


class _AsyncMetered(_Metered):
    """Lets what is asked already be answered, and recorded, before it ends the run."""

    def __init__(self, policy: Policy, meter: Meter) -> None:
        super().__init__(policy, meter)
        self._n_asked = 0
        self._idle: asyncio.Event | None = None

    async def act(self, requests: Sequence[Request]) -> Sequence[Answer]:
        try:
            self._meter.check()
        except BudgetSpent:
            while self._n_asked and self._idle is not None:
                await self._idle.wait()
            raise
        self._idle = self._idle or asyncio.Event()
        self._idle.clear()
        self._n_asked += 1
        try:
            answers: Any = self._policy.act(requests)
            return self._meter.add(await answers)
        finally:
            self._n_asked -= 1
            if not self._n_asked:
                self._idle.set()

    async def aclose(self) -> None:
        """Close what the policy keeps for the running event loop."""
        if (aclose := getattr(self._policy, "aclose", None)) is not None:
            await aclose()
