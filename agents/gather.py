"""Bring the requests of many episodes together and take them to the policy."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from typing import Literal, NamedTuple

from milepost.agents.core import Answer, ContextFull, Policy, Request
from milepost.agents.threads import Worker
from milepost.envs.core import Action, ContractError
from milepost.sandbox.core import MachineError

How = Literal["round", "greedy"]


class _Waiting(NamedTuple):
    place: int
    request: Request
    answer: asyncio.Future[Answer]


class Gather:
    """Answer requests in batches.

    ``round`` waits until every live slot asks, so that a batch depends on nothing but the seed. ``greedy`` takes what
    is there: an async policy gets each request at once, any other whatever came while it was busy. A policy that is
    not async works in one thread of its own, and forgets there, between two acts. ``live`` is the number of slots.
    """

    def __init__(self, policy: Policy, how: How, live: int) -> None:
        self._policy = policy
        self._how = how
        self._is_async = inspect.iscoroutinefunction(policy.act)
        self._live = live
        self._waiting: list[_Waiting] = []
        self._over: list[str] = []
        self._acts: set[asyncio.Task[None]] = set()
        self._worker = None if self._is_async else Worker("milepost-act")

    async def ask(self, place: int, request: Request) -> Answer:
        """Return the policy's answer; ``place`` orders the batch."""
        waiting = _Waiting(place, request, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._go()
        return await waiting.answer

    def leave(self) -> None:
        """Count a slot as done: nobody waits for it any more."""
        self._live -= 1
        self._go()

    def forget(self, episode: str) -> None:
        """Have the policy forget an episode before it acts again."""
        self._over.append(episode)

    async def close(self, grace_s: float) -> None:
        """Stop what is asked, have the last episodes forgotten; wait for a busy policy no longer than ``grace_s``."""
        acts = list(self._acts)
        for act in acts:
            act.cancel()
        if acts:
            await asyncio.wait(acts, timeout=grace_s)
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._call(()), grace_s)
            if self._is_async and (aclose := getattr(self._policy, "aclose", None)) is not None:
                with suppress(TimeoutError):
                    await asyncio.wait_for(aclose(), grace_s)
        finally:
            if self._worker is not None:
                self._worker.stop()
                await self._worker.join(grace_s)

    def _go(self) -> None:
        """Start as many acts as may start now."""
        if not self._waiting:
            return
        if self._how == "greedy" and self._is_async:
            for waiting in self._take():
                self._start([waiting])
        elif self._how == "greedy":
            if not self._acts:
                self._start()
        elif len(self._waiting) == self._live:
            self._start(self._take())

    def _take(self) -> list[_Waiting]:
        taken, self._waiting = sorted(self._waiting, key=lambda waiting: waiting.place), []
        return taken

    def _start(self, batch: list[_Waiting] | None = None) -> None:
        act = asyncio.create_task(self._act(batch))
        self._acts.add(act)
        act.add_done_callback(self._done)

    def _done(self, act: asyncio.Task[None]) -> None:
        self._acts.discard(act)
        self._go()

    async def _act(self, batch: list[_Waiting] | None) -> None:
        batch = batch or self._take()  # greedy: with what arrived since the task was made
        try:
            requests = [waiting.request for waiting in batch]
            answers = checked(self._policy, requests, await self._call(requests))
        except Exception as error:
            for waiting in batch[:1]:  # it ends the run, which cancels the others
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)
            return
        for waiting, answer in zip(batch, answers, strict=True):
            if not waiting.answer.done():
                waiting.answer.set_result(answer)

    async def _call(self, requests: Sequence[Request]) -> Sequence[Answer]:
        """Have what is over forgotten, and the requests answered."""
        over, self._over = self._over, []
        if self._worker is not None:
            answers = await self._worker.run(_forget_and_act, self._policy, over, requests)
        else:
            answers = _forget_and_act(self._policy, over, requests)
        if inspect.isawaitable(answers):
            answers = await answers
        return answers


def checked(policy: Policy, requests: Sequence[Request], answers: Sequence[Answer]) -> Sequence[Answer]:
    """Return ``answers`` if there is one of the right type for each request.

    Raises:
        ContractError: There is not.
    """
    who = type(policy).__name__
    if len(answers) != len(requests):
        raise ContractError(f"{who}.act: expected {len(requests)} answers, one per request, got {len(answers)}")
    for request, answer in zip(requests, answers, strict=True):
        if not isinstance(answer, (Action, ContextFull, MachineError)):
            raise ContractError(
                f"{who}.act: expected an Action, ContextFull or MachineError for episode "
                f"{request.episode}, got {type(answer).__name__}"
            )
    return answers


def _forget_and_act(
    policy: Policy, over: Sequence[str], requests: Sequence[Request]
) -> Sequence[Answer] | Awaitable[Sequence[Answer]]:
    if over:
        policy.forget(over)
    return policy.act(requests) if requests else ()
