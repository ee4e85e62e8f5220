"""The sandboxes of an environment: one for its agent, and a few to grade in that all of a process share."""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import partial

from milepost.envs.names import did_you_mean
from milepost.envs.swe import test_tools
from milepost.envs.swe.tasks import SweTask, base
from milepost.envs.swe.testing import TOOLS
from milepost.sandbox.bases import prepare
from milepost.sandbox.core import Limits, Settings
from milepost.sandbox.make import make, resolve
from milepost.sandbox.pool import Pool

_lock = threading.Lock()
_grading: dict[tuple[int, str], tuple[Pool, set[int]]] = {}
"""By process and backend: the pool, and who uses it."""


def found(backend: str) -> str:
    """Return the name of a backend that is there.

    Raises:
        ValueError: It is not, or there is no such backend.
    """
    name = resolve(backend)
    said = importlib.import_module(f"milepost.sandbox.{name}").capabilities()
    if not said["available"]:
        raise ValueError(f"sandbox backend {name}: {said['why']}")
    return name


def allowed(backend: str, allow: Sequence[str]) -> frozenset[str]:
    """Return the limits that may go unenforced; who asks for no isolation by name gets none of its limits either.

    Raises:
        ValueError: There is no such limit.
    """
    names = [field.name for field in fields(Limits)]
    for name in allow:
        if name not in names:
            raise ValueError(f"allow: no limit {name!r}{did_you_mean(name, names)}; there are: {', '.join(names)}")
    return frozenset(names if backend == "local" else allow)


def settings(task: SweTask, limits: Limits, allow: frozenset[str]) -> Settings:
    """Return how the sandbox of a task's agent begins."""
    # Byte code would be a difference that says nothing.
    env = {"PYTHONDONTWRITEBYTECODE": "1"}
    return Settings(base(task), {TOOLS: prepare(test_tools.tools())}, env, limits, allow)


def agents(backend: str) -> Pool:
    """Return the pool of one environment, whose agent has one sandbox at a time."""
    return Pool(partial(make, backend), 1)


@contextmanager
def grading(backend: str) -> Iterator[Pool]:
    """Lend the pool to grade in, as large as there are processors; it is closed when nobody uses it any more."""
    key, user = (os.getpid(), backend), object()
    with _lock:
        pool, users = _grading.setdefault(key, (Pool(partial(make, backend), max(2, os.cpu_count() or 2)), set()))
        users.add(id(user))
    try:
        yield pool
    finally:
        with _lock:
            users.discard(id(user))
            last = not users and _grading.pop(key, None) is not None
        if last:
            pool.close()
