"""What an evaluation has used so far, turn by turn, and the end of its budget."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from typing import Any

from milepost.agents.core import Answer, Policy, Request
from milepost.envs.core import Action, Episode, Usage
from milepost.recipes.evaluate.scores import total


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
        self._answered: dict[str, list[Usage]] = {}

    def check(self) -> None:
        """Raise BudgetSpent where the budget is used up."""
        if self.max_cost is not None and self.cost >= self.max_cost:
            raise BudgetSpent(f"--max-cost {self.max_cost:g} is reached: {self.cost:.4g} is spent")

    def add(self, requests: Sequence[Request], answers: Sequence[Answer], asked_s: float) -> Sequence[Answer]:
        """Count answers to what was asked at ``asked_s``; return them, each with the seconds that it took.

        Raises:
            ValueError: There is a budget, and an answer does not say what it cost.
        """
        seconds = (time.monotonic() - asked_s) / max(1, len(answers))
        episodes = [request.episode for request in requests] + [""] * (len(answers) - len(requests))
        return [
            self._added(episode, answer, seconds) if isinstance(answer, Action) else answer
            for episode, answer in zip(episodes, answers, strict=False)
        ]

    def unplayed(self, episode: Episode) -> Usage | None:
        """Return what answers used that came for an episode and are none of its turns; forget the episode.

        The last answer is such a one where the run was stopped before the environment heard it.
        """
        answered, turns = self._answered.pop(episode.id, []), [turn.action.usage for turn in episode.turns]
        if len(answered) <= len(turns):
            return None
        paid, kept = total(answered), total(turns)
        cost = None if paid.cost is None else max(0.0, paid.cost - (kept.cost or 0.0))
        counts = (paid.prompt - kept.prompt, paid.cached - kept.cached, paid.completion - kept.completion)
        return Usage(*counts, max(0.0, paid.seconds - kept.seconds), cost)

    def _added(self, episode: str, action: Action, seconds: float) -> Action:
        usage = action.usage if action.usage is not None else Usage(seconds=seconds)
        self._answered.setdefault(episode, []).append(usage)
        self.tokens += usage.prompt + usage.completion
        if usage.cost is not None:
            self.cost += usage.cost
            self.priced = True
        elif self.max_cost is not None:
            raise ValueError("--max-cost needs the cost of every answer: give --prices FILE, or leave it out")
        return action if action.usage is usage else replace(action, usage=usage)


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
        asked_s = time.monotonic()
        answers: Any = self._policy.act(requests)
        if inspect.isawaitable(answers):
            return self._later(requests, answers, asked_s)
        return self._meter.add(requests, answers, asked_s)

    async def _later(
        self, requests: Sequence[Request], answers: Awaitable[Sequence[Answer]], asked_s: float
    ) -> Sequence[Answer]:
        return self._meter.add(requests, await answers, asked_s)

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
        asked_s = time.monotonic()
        try:
            answers: Any = self._policy.act(requests)
            return self._meter.add(requests, await answers, asked_s)
        finally:
            self._n_asked -= 1
            if not self._n_asked:
                self._idle.set()

    async def aclose(self) -> None:
        """Close what the policy keeps for the running event loop."""
        if (aclose := getattr(self._policy, "aclose", None)) is not None:
            await aclose()
