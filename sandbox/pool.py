"""Warm sandboxes, a bounded number of them, lent one at a time and made as new in between."""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial

from milepost.sandbox import bases
from milepost.sandbox.core import Sandbox, SandboxError, Settings

AT_ONCE = 16
"""Sandboxes that are closed or started at the same time; more only wait for the same cores."""

_open: weakref.WeakSet[Pool] = weakref.WeakSet()


class Pool:
    """Lends sandboxes; safe to use from many threads, in the process that made it."""

    def __init__(self, make: Callable[[Settings], Sandbox], size: int, *, wait_s: float = 300.0) -> None:
        """Make an empty pool.

        Args:
            make: Starts a sandbox.
            size: How many there may be at once, lent or idle.
            wait_s: How long one who takes a sandbox waits for others to give one back.
        """
        if size < 1:
            raise ValueError(f"pool size: expected at least 1, got {size}")
        self._make, self._size, self._wait_s, self._pid = make, size, wait_s, os.getpid()
        self._changed = threading.Condition()
        self._idle: list[tuple[Hashable, Sandbox]] = []  # the least recently used first
        self._lent: dict[int, Sandbox] = {}
        self._n = 0  # idle, lent, being started or being closed to make room
        self._waiting: deque[object] = deque()
        self._closed = False
        _open.add(self)

    @contextmanager
    def take(self, settings: Settings | None = None, *, wait_s: float | None = None) -> Iterator[Sandbox]:
        """Lend a sandbox that is as new; who came first is served first.

        Only one with equal settings, and a base of equal content, is used again. Afterwards it is reset; it is closed
        instead where its machine failed, or where it cannot be reset.

        Raises:
            ValueError: The settings cannot be met; the pool belongs to another process.
            SandboxError: None became free in time, none could be started, or the pool is closed.
        """
        settings = _prepared(settings)
        key = _key(settings)
        sandbox = self._get(settings, key, self._wait_s if wait_s is None else wait_s)
        usable = True
        try:
            yield sandbox
        except BaseException as error:
            # One who is cancelled or interrupted may have left a command half asked for.
            usable = isinstance(error, Exception) and not isinstance(error, SandboxError)
            raise
        finally:
            self._give_back(key, sandbox, usable)

    def warm(self, settings: Settings | None = None, n: int = 1) -> None:
        """Start idle sandboxes, several at a time, as far as there is room for new ones."""
        settings = _prepared(settings)
        errors: list[Exception] = []

        def start() -> None:
            with self._changed:
                if self._closed or self._n >= self._size:
                    return
                self._n += 1
            try:
                sandbox = self._make(settings)
            except BaseException as error:
                self._free()
                if not isinstance(error, Exception):
                    raise
                errors.append(error)
            else:
                self._keep(_key(settings), sandbox)

        _at_once([start] * min(n, self._size), AT_ONCE)
        if errors:
            raise errors[0]

    def close(self) -> None:
        """Close all sandboxes at once, also those that are lent: who has one gets a ``SandboxError``."""
        if os.getpid() != self._pid:
            return  # after a fork they are the parent's
        with self._changed:
            self._closed = True
            sandboxes = [sandbox for _, sandbox in self._idle] + list(self._lent.values())
            self._idle.clear()
            self._changed.notify_all()
        _close(sandboxes)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _get(self, settings: Settings, key: Hashable, wait_s: float) -> Sandbox:
        if os.getpid() != self._pid:
            raise ValueError(f"pool: made in process {self._pid}, used in {os.getpid()}: expected a pool of its own")
        kind, sandbox = self._wait(key, wait_s) or (None, None)
        try:
            if sandbox is None or kind != key or not _answers(sandbox):
                _close([sandbox] if sandbox else [])
                sandbox = None
                sandbox = self._make(settings)
            with self._changed:
                self._lent[id(sandbox)] = sandbox
                closed = self._closed
        except BaseException:
            if sandbox is None:
                self._free()
            else:
                self._drop(sandbox)
            raise
        if closed:
            self._drop(sandbox)
            raise SandboxError("pool: closed")
        return sandbox

    def _wait(self, key: Hashable, wait_s: float) -> tuple[Hashable, Sandbox] | None:
        """Wait for our turn; return an idle sandbox, which makes room if it is not of the kind, or None: there is."""
        ticket, end = object(), time.monotonic() + wait_s
        with self._changed:
            self._waiting.append(ticket)
            try:
                while self._waiting[0] is not ticket or not (self._idle or self._n < self._size):
                    if self._closed:
                        raise SandboxError("pool: closed")
                    if (left := end - time.monotonic()) <= 0:
                        raise SandboxError(f"pool: none of its {self._size} sandboxes became free in {wait_s:g} s")
                    self._changed.wait(left)
                if self._closed:
                    raise SandboxError("pool: closed")
                same = [i for i, (other, _) in enumerate(self._idle) if other == key]
                if same:
                    return self._idle.pop(same[-1])
                if self._n < self._size:
                    self._n += 1
                    return None
                return self._idle.pop(0)
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()

    def _give_back(self, key: Hashable, sandbox: Sandbox, usable: bool) -> None:
        if os.getpid() != self._pid:
            return
        try:
            if usable and not self._closed:
                sandbox.reset()
        except (SandboxError, ValueError):
            usable = False
        except BaseException:  # Ctrl-C: its place is another's all the same
            self._drop(sandbox)
            raise
        if usable:
            self._keep(key, sandbox)
        else:
            self._drop(sandbox)

    def _keep(self, key: Hashable, sandbox: Sandbox) -> None:
        with self._changed:
            if not self._closed:
                self._lent.pop(id(sandbox), None)
                self._idle.append((key, sandbox))
                self._changed.notify_all()
                return
        self._drop(sandbox)

    def _drop(self, sandbox: Sandbox) -> None:
        try:
            _close([sandbox])
        finally:
            with self._changed:
                self._lent.pop(id(sandbox), None)
            self._free()

    def _free(self) -> None:
        with self._changed:
            self._n -= 1
            self._changed.notify_all()


def _prepared(settings: Settings | None) -> Settings:
    settings = settings or Settings()
    return replace(settings, base=bases.prepare(settings.base)) if settings.base else settings


def _key(settings: Settings) -> Hashable:
    mounts, env = (tuple(sorted(given.items())) for given in (settings.mounts, settings.env))
    return (
        settings.base,
        mounts,
        settings.hidden,
        env,
        settings.limits,
        settings.allow,
        settings.image,
        settings.workspace,
    )


def _answers(sandbox: Sandbox) -> bool:
    """Whether an idle sandbox is still there: it may have been killed from outside."""
    try:
        return sandbox.run(["true"], timeout_s=10.0).exit_code == 0
    except (SandboxError, ValueError):
        return False


def _close(sandboxes: Iterable[Sandbox]) -> None:
    def close(sandbox: Sandbox) -> None:
        with suppress(SandboxError, OSError):
            sandbox.close()

    _at_once([partial(close, sandbox) for sandbox in sandboxes], AT_ONCE)


def _at_once(jobs: Iterable[Callable[[], None]], n: int) -> None:
    """Do jobs on several threads; on this one alone at the interpreter's end, when no thread starts any more."""
    left = deque(jobs)

    def work() -> None:
        with suppress(IndexError):
            while True:
                left.popleft()()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(n, len(left)) - 1)]
    started = []
    for thread in threads:
        try:
            thread.start()
        except RuntimeError:
            break
        started.append(thread)
    work()
    for thread in started:
        thread.join()


@atexit.register
def _close_all() -> None:
    for pool in list(_open):
        pool.close()
