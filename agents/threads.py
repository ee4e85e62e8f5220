"""Threads that run what must stay in one thread: an environment's whole life, a model's every call."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")
_Job = tuple[Callable[..., Any], tuple[Any, ...], "asyncio.Future[Any]"]
_Result = tuple["asyncio.Future[Any]", Any, BaseException | None]


class Hung(Exception):
    """A job took too long; its thread is abandoned."""


class ThreadLost(Exception):
    """An earlier job of this thread hangs: what lived in it has to start again in another."""


_here = threading.local()


def work_for(loop: asyncio.AbstractEventLoop) -> None:
    """Remember that the calling thread is one that the loop waits for when it ends."""
    _here.loop = loop


def works_for(loop: asyncio.AbstractEventLoop) -> bool:
    """Return whether the calling thread is one that the loop waits for when it ends."""
    return getattr(_here, "loop", None) is loop


class Worker:
    """A daemon thread that runs jobs one after the other and reports to the running event loop.

    An eager one reports every result at once; the other when it has nothing left to do, which is cheaper where the
    loop needs all results anyway.
    """

    def __init__(self, name: str, eager: bool = True) -> None:
        self.lost = False
        """Whether it hangs in a job that took too long."""
        self.closing: list[Callable[[], None]] = []
        """What the thread calls when it ends."""
        self._eager = eager
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._done: deque[_Result] = deque()
        self._woken = False
        self._busy: tuple[float, asyncio.Future[Any]] | None = None
        self._pending: set[asyncio.Future[Any]] = set()
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def run(self, job: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        """Queue a job; the future has its result.

        Raises:
            ThreadLost: The thread hangs in an earlier job.
        """
        if self.lost:
            raise ThreadLost
        future: asyncio.Future[T] = self._loop.create_future()
        self._pending.add(future)
        self._jobs.put((job, args, future))
        return future

    def give_up_after(self, seconds: float) -> bool:
        """Abandon the thread when its present job is older than ``seconds``; return whether it is lost."""
        busy = self._busy
        if self.lost or busy is None or time.monotonic() - busy[0] < seconds:
            return self.lost
        self.lost = True
        self.stop()  # it may have come back just now, and waits for a job
        self._deliver()
        for future in list(self._pending):
            error = Hung(f"the environment took longer than {seconds:g} s") if future is busy[1] else ThreadLost()
            self._settle(future, None, error)
        return True

    def stop(self) -> None:
        """End the thread, after the jobs that are queued."""
        self._jobs.put(None)

    async def join(self, seconds: float) -> None:
        """Wait for the end of the thread, but not for ever; no other thread helps: Python may be ending."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), seconds)
            self._thread.join(seconds)  # its last lines

    def _work(self) -> None:
        work_for(self._loop)
        try:
            self._work_off()
        finally:
            self._tell(self._ended.set)

    def _work_off(self) -> None:
        while not self.lost and (job := self._jobs.get()) is not None:
            self._done.append(self._result(*job))
            del job  # keep nothing alive while waiting
            if not self._woken and (self._eager or self._jobs.empty()):
                self._woken = True
                self._tell(self._deliver)
        for close in self.closing:
            close()

    def _tell(self, call: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(call)

    def _result(self, call: Callable[..., Any], args: tuple[Any, ...], future: asyncio.Future[Any]) -> _Result:
        if future.cancelled():
            return future, None, None
        self._busy = time.monotonic(), future
        try:
            return future, call(*args), None
        except StopIteration as caught:  # a future cannot carry it
            error = RuntimeError(f"StopIteration out of {call}")
            error.__cause__ = caught
            return future, None, error
        except BaseException as caught:
            return future, None, caught
        finally:
            self._busy = None

    def _deliver(self) -> None:
        self._woken = False
        while self._done:
            self._settle(*self._done.popleft())

    def _settle(self, future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        self._pending.discard(future)
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


class Pool:
    """A fixed number of environment threads, started on use; one that hangs is replaced."""

    def __init__(self, n_threads: int, step_timeout_s: float, eager: bool) -> None:
        self._n = n_threads
        self._timeout_s = step_timeout_s
        self._eager = eager
        self._threads: dict[int, Worker] = {}
        self._watch = asyncio.create_task(self._watch_threads())

    def thread(self, i: int) -> Worker:
        """Return the thread that slot ``i`` uses now."""
        i %= self._n
        if i not in self._threads or self._threads[i].lost:
            self._threads[i] = Worker("milepost-env", self._eager)
        return self._threads[i]

    async def close(self, grace_s: float) -> None:
        """End all threads, after what they are doing; one that takes longer than ``grace_s`` is left behind."""
        self._watch.cancel()
        threads = [thread for thread in self._threads.values() if not thread.lost]
        for thread in threads:
            thread.stop()
        until = time.monotonic() + grace_s
        for thread in threads:
            await thread.join(max(0.0, until - time.monotonic()))

    async def _watch_threads(self) -> None:
        while True:
            await asyncio.sleep(min(1.0, self._timeout_s / 4))
            for thread in self._threads.values():
                thread.give_up_after(self._timeout_s)
