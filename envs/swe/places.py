"""The sandboxes of an environment: one for its agent, and a few to grade in, which all of a process share."""

from __future__ import annotations

import importlib
import os
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields, replace
from functools import partial
from typing import Any

from milepost.envs.names import did_you_mean
from milepost.envs.swe.grade import Grade, grade
from milepost.envs.swe.problem import Problem
from milepost.envs.swe.workspace import Workspace
from milepost.sandbox.core import Limits, Sandbox, Settings
from milepost.sandbox.limits import checked
from milepost.sandbox.make import make, resolve
from milepost.sandbox.pool import Pool

MAX_GRADES = 256
_lock = threading.Lock()
_grades: OrderedDict[Hashable, Grade] = OrderedDict()
"""Of patches that were graded lately: tests are deterministic, and attempts of a group often equal. One whose time was
over is not among them: that may be the machine's doing."""
_checked: set[Hashable] = set()
"""Problems whose own test command is known to run their tests."""
_pools: dict[tuple[int, str], tuple[Pool, list[int]]] = {}
"""By process and backend: the pool to grade in, and how many use it."""


def found(backend: str) -> str:
    """Return the name of a backend that is there.

    Raises:
        ValueError: It is not, or there is no such backend.
    """
    name = resolve(backend)
    said = _capabilities(name)
    if not said["available"]:
        raise ValueError(f"sandbox backend {name}: {said['why']}")
    return name


def allowed(backend: str, allow: Iterable[str] = ()) -> frozenset[str]:
    """Return the limits that may go unenforced; who asks for no isolation by name gets none of its limits either.

    Raises:
        ValueError: There is no such limit.
    """
    names = [field.name for field in fields(Limits)]
    for name in allow:
        if name not in names:
            raise ValueError(f"allow: no limit {name!r}{did_you_mean(name, names)}; there are: {', '.join(names)}")
    return frozenset(names if backend == "local" else allow)


def refuse_unenforced(backend: str, limits: Limits, allow: frozenset[str]) -> None:
    """Raise a ValueError where a backend cannot enforce a limit here that may not go unenforced."""
    checked(backend, Settings(limits=limits, allow=allow), _capabilities(backend)["limits"])


def _capabilities(backend: str) -> dict[str, Any]:
    found: dict[str, Any] = importlib.import_module(f"milepost.sandbox.{backend}").capabilities()
    return found


def agents(backend: str) -> Pool:
    """Return the pool of one environment, whose agent has one sandbox at a time."""
    return Pool(partial(make, backend), 1)


class Judge:
    """Grades what an agent made, in a sandbox that no agent had; equal patches once."""

    def __init__(self, backend: str, allow: frozenset[str]) -> None:
        self._backend, self._allow = backend, allow
        self._held = ExitStack()
        self._pool: Pool | None = None

    def check(self, problem: Problem) -> None:
        """Run a problem's own test command once a process where nothing was changed.

        Raises:
            ValueError: It does not run its tests here: whatever an agent did would be graded as a failure.
            SandboxError: The sandbox broke.
        """
        key = self._backend, problem.judged
        if problem.command is not None and key not in _checked:
            with self._take(problem.settings()) as sandbox:
                problem.check(sandbox)
            _checked.add(key)

    def grade(self, problem: Problem, workspace: Workspace) -> Grade:
        """Return the grade of what is in a workspace.

        Raises:
            SandboxError: The sandbox broke; what the patch does is a grade.
        """
        key = self._backend, self._allow, problem.judged, frozenset(workspace.patch.items())
        found = _grades.get(key)
        if found is None:
            found = grade(problem, workspace.diff, self._take)
            if found.run is None or not found.run.timed_out:
                _grades[key] = found
            while len(_grades) > MAX_GRADES:
                _grades.popitem(last=False)
        return found

    def close(self) -> None:
        """Leave the pool."""
        self._pool = None
        self._held.close()

    @contextmanager
    def _take(self, settings: Settings) -> Iterator[Sandbox]:
        self._pool = self._pool or self._held.enter_context(_shared(self._backend))
        with self._pool.take(replace(settings, allow=settings.allow | self._allow)) as sandbox:
            yield sandbox


@contextmanager
def _shared(backend: str) -> Iterator[Pool]:
    """Lend the pool to grade in, as large as there are processors; who leaves it last closes it."""
    key = os.getpid(), backend
    with _lock:
        if key not in _pools:
            _pools[key] = Pool(partial(make, backend), max(2, os.cpu_count() or 2)), [0]
        pool, n_users = _pools[key]
        n_users[0] += 1
    try:
        yield pool
    finally:
        with _lock:
            n_users[0] -= 1
            last = not n_users[0] and _pools.pop(key, None) is not None
        if last:
            pool.close()
