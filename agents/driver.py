"""Play tasks with a policy: one driver for training and evaluation.

An episode is a coroutine of an event loop (``agents/rollout.py``); its environment lives in one thread of a fixed
pool (``agents/slots.py``, ``agents/threads.py``); the policy is asked for many episodes at once (``agents/gather.py``).
Nothing here assumes that the policy stays the same while an episode plays.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from queue import SimpleQueue
from typing import Literal, TypedDict, Unpack
from weakref import WeakSet

from milepost.agents.core import Policy
from milepost.agents.progress import bar
from milepost.agents.rollout import Rollout
from milepost.agents.threads import work_for, works_for
from milepost.envs.core import Episode, Task
from milepost.envs.hooks import Hook


class Settings(TypedDict, total=False):
    """How ``stream``, ``astream`` and ``play`` play."""

    gather: Literal["round", "greedy"]
    """``round`` (the default) waits for all live episodes and asks the policy once for all of them, so that batches
    depend on the seed alone. ``greedy`` takes what is there: for endpoints and slow environments. An async policy
    then has as many acts under way as episodes wait; any other gets what came while it was busy."""
    slots: int
    """Episodes that are played at the same time; 64."""
    seed: int
    """The run's seed: part of every episode's id, and the source of every request's seed; 0."""
    timeout_s: float | None
    """Wall time of an episode; looked at between two turns. None: no limit."""
    step_timeout_s: float
    """An environment that takes longer over one call has hung, and its episode FAILED; 600."""
    n_threads: int
    """Threads that environments live in, each in one; 8. As many as slots where steps wait for something."""
    first_must_fit: bool
    """Whether a first prompt beyond the agent's context is the caller's mistake and ends the run (True, the default);
    otherwise that episode ends as MAX_TOKENS, unsolved: for evaluation, where other tasks may fit."""
    progress: str | None
    """Title of a progress bar."""
    on_end: Callable[[Episode], None] | None
    """Called in the consumer's thread with every episode that ended, before it is yielded, and also with those that
    nobody takes any more (the rest after Ctrl-C, or after the consumer stopped): give a run's ``add``."""


def stream(
    tasks: Iterable[Task], policy: Policy, credits: Sequence[Hook] = (), **settings: Unpack[Settings]
) -> Generator[Episode]:
    """Yield episodes as they end, played in a background thread while the consumer does something else.

    ``tasks`` is read when a slot is free. After Ctrl-C, and after an error, what had finished is still yielded, then
    what was under way as CANCELLED; then the exception is raised. Closing the generator stops the play.

    Raises:
        ContractError: Broken contracts; too many episodes that end by an exception of their environment.
        ValueError: Two tasks with one group and attempt; unknown environments, options or settings.
    """
    return _episodes(_stream(tasks, policy, credits, settings))


def play(
    tasks: Iterable[Task], policy: Policy, credits: Sequence[Hook] = (), **settings: Unpack[Settings]
) -> list[Episode]:
    """Return the episodes of all tasks in the order of the tasks, whatever finished first.

    Raises:
        Interrupted: Ctrl-C; it carries the episodes.
        ValueError: See ``stream``.
    """
    episodes: dict[int, Episode] = {}
    try:
        for place, episode in _stream(tasks, policy, credits, settings):
            episodes[place] = episode
    except KeyboardInterrupt:
        raise Interrupted([episodes[place] for place in sorted(episodes)]) from None
    return [episodes[place] for place in sorted(episodes)]


async def astream(
    tasks: Iterable[Task], policy: Policy, credits: Sequence[Hook] = (), **settings: Unpack[Settings]
) -> AsyncIterator[Episode]:
    """Yield episodes as they end, played in the running event loop; see ``stream``."""
    ended: asyncio.Queue[Episode | None] = asyncio.Queue()
    rollout = _rollout(tasks, policy, credits, lambda _, episode: ended.put_nowait(episode), settings)
    on_end = settings.get("on_end") or _ignore
    playing = asyncio.create_task(rollout.play())
    playing.add_done_callback(lambda _: ended.put_nowait(None))
    with bar(settings.get("progress"), tasks) as advance:
        try:
            while (episode := await ended.get()) is not None:
                on_end(episode)
                advance()
                yield episode
            await playing
        finally:
            playing.cancel()
            try:
                await asyncio.gather(playing, return_exceptions=True)
            finally:
                while not ended.empty():
                    if (episode := ended.get_nowait()) is not None:
                        on_end(episode)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C while ``play`` was playing."""

    def __init__(self, episodes: list[Episode]) -> None:
        super().__init__(f"interrupted; {len(episodes)} episodes are kept")
        self.episodes = episodes
        """What had finished and what was CANCELLED, in the order of the tasks."""


Placed = tuple[int, Episode]


def _ignore(*_: Episode) -> None:
    pass


def _stream(tasks: Iterable[Task], policy: Policy, credits: Sequence[Hook], settings: Settings) -> Generator[Placed]:
    ended: SimpleQueue[Placed | None] = SimpleQueue()
    rollout = _rollout(tasks, policy, credits, lambda place, episode: ended.put((place, episode)), settings)
    return _read(ended, rollout, tasks, settings)


def _episodes(placed: Generator[Placed]) -> Generator[Episode]:
    with closing(placed):
        for _, episode in placed:
            yield episode


def _read(
    ended: SimpleQueue[Placed | None], rollout: Rollout, tasks: Iterable[Task], settings: Settings
) -> Generator[Placed]:
    on_end = settings.get("on_end") or _ignore

    def hand_over() -> None:
        while not ended.empty():
            if (item := ended.get()) is not None:
                on_end(item[1])

    with bar(settings.get("progress"), tasks) as advance:
        background = _Background(rollout, lambda: ended.put(None))
        try:
            background.start()
            interrupt: KeyboardInterrupt | None = None
            while True:
                try:
                    item = ended.get()
                except KeyboardInterrupt as error:
                    if interrupt is not None:
                        raise
                    interrupt = error
                    background.cancel()
                    continue
                if item is None:
                    break
                on_end(item[1])
                advance()
                yield item
            if interrupt is not None:
                raise interrupt
            background.join()
        finally:
            background.stop(hand_over)


class _Background:
    """An event loop in a thread of its own, in which a rollout plays."""

    def __init__(self, rollout: Rollout, at_end: Callable[[], None]) -> None:
        self._rollout = rollout
        self._at_end = at_end
        self._error: BaseException | None = None
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(ThreadPoolExecutor(None, "asyncio", work_for, (self._loop,)))
        self._playing: asyncio.Task[None] | None = None
        self._over = threading.Event()
        self._ending = threading.RLock()  # the collector may come while it is held
        self._then: Callable[[], None] = _ignore
        self._thread = threading.Thread(target=self._run, name="milepost-driver", daemon=True)
        _BACKGROUNDS.add(self)

    def start(self) -> None:
        """Begin; call it where ``stop`` is sure to follow, whatever interrupts."""
        self._playing = self._loop.create_task(self._rollout.play())
        self._thread.start()

    def _run(self) -> None:
        assert self._playing is not None
        work_for(self._loop)
        try:
            self._loop.run_until_complete(self._playing)
        except BaseException as error:
            self._error = error
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            with suppress(RuntimeError):  # Python is ending: it has ended the executor, and starts no thread to do so
                self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()
            self._at_end()
            with self._ending:
                self._over.set()
            self._then()

    def cancel(self) -> None:
        """Have the play stop; it still says what was under way."""
        if self._playing is not None:
            with suppress(RuntimeError):  # the loop is closed: it has ended
                self._loop.call_soon_threadsafe(self._playing.cancel)

    def join(self) -> None:
        """Wait for the end; raise what ended it."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def stop(self, then: Callable[[], None] = _ignore) -> None:
        """Cancel, wait for the end, and call ``then``.

        The garbage collector may call this in any thread; one that the end itself waits for leaves ``then`` to it.
        """
        if self._playing is None:
            self._loop.close()
        elif not self._over.is_set():
            self.cancel()
            with self._ending:
                if works_for(self._loop) and not self._over.is_set():
                    self._then = then
                    return
            if self._over.wait(None if self._thread.is_alive() else 5.0):  # interrupted while it started: soon
                self._thread.join()
        then()


_BACKGROUNDS: WeakSet[_Background] = WeakSet()


@atexit.register
def _stop_all() -> None:
    """End what a kept generator still plays: a thread that is inside a model when Python ends would abort it."""
    for background in list(_BACKGROUNDS):
        background.stop()


def _rollout(
    tasks: Iterable[Task],
    policy: Policy,
    credits: Sequence[Hook],
    emit: Callable[[int, Episode], None],
    settings: Settings,
) -> Rollout:
    return Rollout(
        tasks,
        policy,
        credits,
        emit,
        gather=settings.get("gather", "round"),
        slots=settings.get("slots", 64),
        seed=settings.get("seed", 0),
        timeout_s=settings.get("timeout_s"),
        step_timeout_s=settings.get("step_timeout_s", 600.0),
        n_threads=settings.get("n_threads", 8),
        first_must_fit=settings.get("first_must_fit", True),
    )
