"""Slots that episodes are played in, each with an environment in a thread."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import gymnasium as gym

from milepost.agents.threads import Hung, Pool, ThreadLost, Worker
from milepost.envs.core import Action, ContractError, Episode, Stop, Task
from milepost.envs.hooks import Hook, TurnHooks
from milepost.envs.make import make
from milepost.envs.replay import replay

T = TypeVar("T")
Env = gym.Env[Any, Any]


class Broken(Exception):
    """An environment raised ``__cause__``: its episode is over, the run goes on."""


class Slot:
    """Where one episode at a time is played; it keeps its environment while id and arguments stay the same."""

    def __init__(self, i: int, pool: Pool, credits: Sequence[Hook]) -> None:
        self._i = i
        self._pool = pool
        self._credits = credits
        self._home = _Home(pool.thread(i), credits)

    @property
    def env(self) -> TurnHooks:
        """The hooked environment of the present episode."""
        assert self._home.hooked is not None, "open comes first"
        return self._home.hooked

    async def open(self, task: Task, fields: dict[str, Any]) -> None:
        """Reset the environment of ``task`` (or replay to where it branches); ``fields`` go into the record.

        Raises:
            Broken: The environment could not be made or reset.
            Hung, ThreadLost: See ``Worker``.
            ValueError, gymnasium.error.Error: The caller's mistake: no such environment or argument.
        """
        if self._home.thread.lost:
            self._home = _Home(self._pool.thread(self._i), self._credits)
        self._home.fields, self._home.hooked = fields, None
        await self.run(self._home.open, task)

    async def step(self, action: Action) -> None:
        """Take one turn.

        Raises:
            Broken, Hung, ThreadLost: See ``open``.
        """
        await self.run(_guarded, self.env.step, action)

    async def end(self, stop: Stop) -> Episode:
        """End the episode from outside; the environment may be asked for its score."""
        return await self.run(_guarded, self.env.end, stop)

    async def run(self, call: Callable[..., T], *args: Any) -> T:
        """Call something in the environment's own thread."""
        return await self._home.thread.run(call, *args)

    async def abandon(self, stop: Stop, failure: str | None = None, grace_s: float | None = None) -> Episode:
        """Return the record of an episode that cannot go on, and part with its environment.

        A thread that hangs, or does not answer within ``grace_s``, keeps the environment and closes it when it wakes.
        """
        try:
            return await asyncio.wait_for(self.run(self._home.abandon, stop, failure), grace_s)
        except (Hung, ThreadLost, TimeoutError):
            return self._home.snapshot(stop, failure)


class _Home:
    """A slot's environment in one thread; one that hung and wakes finds its own, not the slot's next."""

    def __init__(self, thread: Worker, credits: Sequence[Hook]) -> None:
        self.thread = thread
        self.fields: dict[str, Any] = {}
        self.hooked: TurnHooks | None = None
        self._credits = credits
        self._env: Env | None = None
        self._close: Callable[[], None] = lambda: None
        self._key: tuple[str, dict[str, Any]] | None = None

    def open(self, task: Task) -> None:
        key = self.fields["env_id"], self.fields["env_kwargs"]
        if self._env is None or self._key != key:
            self._part()
            self._env, self._key = _made(*key), key
            self._close = partial(_closed, self._env)
            self.thread.closing.append(self._close)
        if task.start is not None:
            source, turn = task.start
            as_branch = replace(source, **self.fields)
            self.hooked = _guarded(replay, self._env, as_branch, turn, self._credits)
            return
        hooked = TurnHooks(self._env, self._credits)
        options = {"episode": dict(self.fields)} | ({} if task.task is None else {"task": task.task})
        _guarded(hooked.reset, seed=self.fields["seed"], options=options)
        self.hooked = hooked

    def abandon(self, stop: Stop, failure: str | None) -> Episode:
        ended = self.hooked.episode.stop if self.hooked is not None else None
        if self.hooked is None or (ended is not None and stop is Stop.FAILED):
            episode = self.snapshot(stop, failure)
        else:
            episode = self.hooked.end(stop, failure) if ended is None else self.hooked.episode
        self._part()
        return episode

    def snapshot(self, stop: Stop, failure: str | None) -> Episode:
        """Return a record that a thread which still runs cannot change."""
        if self.hooked is None:
            return Episode(**self.fields, stop=stop, failure=failure)
        episode = self.hooked.episode
        return replace(episode, turns=list(episode.turns), stop=stop, failure=failure)

    def _part(self) -> None:
        if self._env is not None:
            self._env = None
            self.thread.closing.remove(self._close)
            self._close()


def _closed(env: Env) -> None:
    """Close an environment; one that cannot be closed is worth a warning, not a run."""
    try:
        env.close()
    except Exception as error:
        warnings.warn(f"{env} could not be closed: {type(error).__name__}: {error}", RuntimeWarning, stacklevel=2)


def _made(env_id: str, kwargs: Mapping[str, Any]) -> Env:
    try:
        return make(env_id, **kwargs)
    except (ValueError, gym.error.Error):
        raise  # the caller's mistake
    except BaseException as error:
        raise Broken from error


def _guarded(call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    try:
        return call(*args, **kwargs)
    except ContractError:
        raise  # the caller's mistake
    except BaseException as error:
        raise Broken from error
