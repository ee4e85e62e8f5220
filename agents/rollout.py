"""The episodes of one run, from their tasks to their records."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
import traceback
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from milepost.agents.chat import Chat
from milepost.agents.core import Answer, ContextFull, Policy, Request, episode_id, stable_seed
from milepost.agents.gather import Gather, How, checked
from milepost.agents.slots import Broken, Slot
from milepost.agents.threads import Hung, Pool, ThreadLost
from milepost.envs.core import (
    ContractError,
    Episode,
    Stop,
    Task,
)
from milepost.envs.hooks import Hook
from milepost.sandbox.core import MachineError

T = TypeVar("T")
GRACE_S = 10.0
"""So long a stopped run waits for a step, or an act, that is under way."""


class Rollout:
    """Plays tasks; ``emit(place, episode)`` gets every record as its episode ends, in whatever way."""

    def __init__(
        self,
        tasks: Iterable[Task],
        policy: Policy,
        credits: Sequence[Hook],
        emit: Callable[[int, Episode], None],
        *,
        gather: How,
        slots: int,
        seed: int,
        timeout_s: float | None,
        step_timeout_s: float,
        n_threads: int,
        first_must_fit: bool,
    ) -> None:
        if gather not in ("round", "greedy"):
            raise ValueError(f"gather: expected 'round' or 'greedy', got {gather!r}")
        for name, number in {"slots": slots, "n_threads": n_threads}.items():
            if number < 1:
                raise ValueError(f"{name}: expected 1 or more, got {number}")
        for name, seconds in {"timeout_s": timeout_s, "step_timeout_s": step_timeout_s}.items():
            if seconds is not None and seconds <= 0:
                raise ValueError(f"{name}: expected more than 0 seconds, got {seconds}")
        lock = threading.Lock()
        self._tasks = enumerate(tasks)
        self._policy = policy
        self._inside = bool(getattr(policy, "reference", False))
        self._credits = [_Serial(hook, lock) for hook in credits]
        self._emit = emit
        self._how: How = gather
        self._n_slots = slots
        self._n_threads = min(n_threads, slots)
        self._seed = seed
        self._timeout_s = timeout_s
        self._step_timeout_s = step_timeout_s
        self._first_must_fit = first_must_fit
        self._ids: set[str] = set()
        self._n_ended = 0
        self._n_raised = 0

    async def play(self) -> None:
        """Play all tasks.

        However it ends, what finished has been emitted, what was under way is emitted as CANCELLED, and environments
        and threads are closed.

        Raises:
            ContractError: Too many episodes end by an exception of their environment.
            Exception: What the policy raised, and the caller's mistakes.
        """
        self._gather = Gather(self._policy, self._how, self._n_slots)
        self._pool = Pool(self._n_threads, self._step_timeout_s, eager=self._how == "greedy")
        players = [asyncio.create_task(self._play_in_slot(i)) for i in range(self._n_slots)]
        try:
            await asyncio.gather(*players)
        finally:
            await _uncancelled(self._close(players))

    async def _close(self, players: Sequence[asyncio.Task[None]]) -> None:
        for player in players:
            if not player.cancelling():  # a second cancel would lose the episode that the first one is closing
                player.cancel()
        await asyncio.gather(*players, return_exceptions=True)
        try:
            await self._gather.close(GRACE_S)
        finally:
            await self._pool.close(GRACE_S)

    async def _play_in_slot(self, i: int) -> None:
        slot: Slot | None = None
        for place, task in self._tasks:
            slot = slot or Slot(i, self._pool, self._credits)
            await self._play_task(slot, place, task)
        self._gather.leave()

    async def _play_task(self, slot: Slot, place: int, task: Task) -> None:
        fields = self._fields(task)
        error: BaseException | None = None
        while True:
            try:
                episode = await self._episode(slot, place, task, fields)
            except ThreadLost:
                self._gather.forget(fields["id"])
                continue
            except Hung as hung:
                episode = await slot.abandon(Stop.FAILED, str(hung))
            except Broken as broken:
                error = broken.__cause__
                assert error is not None
                episode = await slot.abandon(Stop.FAILED, _text(error))
            except BaseException:
                self._end(place, await _uncancelled(slot.abandon(Stop.CANCELLED, grace_s=GRACE_S)), None)
                raise
            break
        self._end(place, episode, error)

    async def _episode(self, slot: Slot, place: int, task: Task, fields: dict[str, Any]) -> Episode:
        """Play one episode to its end."""
        await slot.open(task, fields)
        limit_s = self._timeout_s if task.timeout_s is None else task.timeout_s
        began = time.monotonic()
        chat = Chat(slot.env.episode)
        while slot.env.episode.stop is None:
            overdue = limit_s is not None and time.monotonic() - began > limit_s
            if overdue and slot.env.episode.turns:
                return await slot.end(Stop.TIMEOUT)
            request = chat.request(self._seed, slot.env if self._inside else None)
            answer = await self._ask(slot, place, request)
            if isinstance(answer, ContextFull):
                if self._first_must_fit and not slot.env.episode.turns:
                    raise ContractError(f"{task.env_id}: the first prompt is longer than the agent's context: {answer}")
                return await slot.end(Stop.MAX_TOKENS)
            if isinstance(answer, MachineError):
                return await slot.abandon(Stop.FAILED, _text(answer))
            await slot.step(answer)
            chat.acted()
        return slot.env.episode

    async def _ask(self, slot: Slot, place: int, request: Request) -> Answer:
        if self._inside:
            return await slot.run(_act_inside, self._policy, request)
        return await self._gather.ask(place, request)

    def _fields(self, task: Task) -> dict[str, Any]:
        """Return what the record of an episode says before it begins."""
        id_ = episode_id(self._seed, task.group, task.attempt)
        if id_ in self._ids:
            raise ValueError(f"two tasks have the group {task.group!r} and the attempt {task.attempt}")
        self._ids.add(id_)
        source, turn = task.start or (None, 0)
        fields: dict[str, Any] = {"id": id_, "group": task.group, "attempt": task.attempt, "split": task.split}
        if source is not None:
            if source.env_id != task.env_id:
                raise ValueError(f"start: expected an episode of {task.env_id}, got one of {source.env_id}")
            if not 0 <= turn <= len(source.turns):
                raise ValueError(f"start: expected a turn of 0..{len(source.turns)} of {source.id}, got {turn}")
            return fields | {
                "env_id": source.env_id,
                "env_kwargs": dict(source.env_kwargs),
                "task": source.task,
                "seed": source.seed,
                "parent": {"episode": source.id, "turn": turn},
            }
        seed = stable_seed(self._seed, task.group) % 2**31 if task.seed is None else task.seed
        return fields | {"env_id": task.env_id, "env_kwargs": dict(task.env_kwargs), "task": task.task, "seed": seed}

    def _end(self, place: int, episode: Episode, error: BaseException | None) -> None:
        self._gather.forget(episode.id)
        unexpected = error is not None and not isinstance(error, MachineError)
        if unexpected:
            episode.runtime["raised"] = type(error).__name__
        self._emit(place, episode)
        if episode.stop is Stop.CANCELLED:
            return
        self._n_ended += 1
        self._n_raised += unexpected
        raised, ended = self._n_raised, self._n_ended
        if (raised == ended == 3) or (ended >= 20 and raised > 0.05 * ended):
            tail = "\n".join((episode.failure or "").strip().splitlines()[-6:])
            raise ContractError(
                f"{raised} of the first {ended} episodes ended by an exception in their environment; "
                f"the last, {episode.env_id}, episode {episode.id}:\n{tail}"
            )


class _Serial:
    """A hook that is called by one thread at a time, and whose errors are not the environment's."""

    def __init__(self, hook: Hook, lock: threading.Lock) -> None:
        self.label = hook.label
        self.live = hook.live
        self._hook = hook
        self._lock = lock

    def on_reset(self, episode: Episode) -> None:
        with self._lock:
            self._checked(self._hook.on_reset, episode)

    def on_turn(self, episode: Episode) -> float | None:
        with self._lock:
            return self._checked(self._hook.on_turn, episode)

    def _checked(self, call: Callable[[Episode], T], episode: Episode) -> T:
        try:
            return call(episode)
        except (MachineError, ContractError):
            raise
        except Exception as error:
            where = f"credit {self.label!r} at turn {len(episode.turns) - 1} of episode {episode.id}"
            raise ContractError(f"{where}: {type(error).__name__}: {error}") from error


async def _uncancelled(closing: Coroutine[Any, Any, T]) -> T:
    """Close to the end, and return what comes of it; who is cancelled meanwhile is on the way out already."""
    task = asyncio.create_task(closing)
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    return task.result()


def _act_inside(policy: Policy, request: Request) -> Answer:
    """Ask a policy that looks inside the environment, in the environment's thread."""
    try:
        answers = policy.act([request])
    except MachineError as error:
        return error
    if inspect.isawaitable(answers):
        raise ContractError(f"{type(policy).__name__}: a reference policy's act is not async")
    return checked(policy, [request], answers)[0]


def _text(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)).rstrip()
