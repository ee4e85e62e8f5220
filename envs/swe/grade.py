"""Grades: an agent's patch, applied as data to a clean tree in a sandbox that no agent had, and what the tests say.

The tests and their configuration are the original ones by construction: nothing but the package's sources comes out of
the agent's sandbox. What is tested still runs in the process of the tests; ``testing`` says what that means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

from milepost.envs.swe.patch import changes, unified
from milepost.envs.swe.problem import Origin, Problem, of_task
from milepost.envs.swe.tasks import SweTask
from milepost.envs.swe.testing import TestRun
from milepost.sandbox.core import Node, Sandbox, Settings


@dataclass(frozen=True)
class Grade:
    """What a submission is."""

    result: Literal["resolved", "patch", "empty_patch"]
    """``resolved``: all tests pass; ``patch``: something of the package was changed; ``empty_patch``: nothing."""
    fail_to_pass: float
    """Share of the failing tests that pass now."""
    regressions: tuple[str, ...]
    """Tests that passed before and do not now; all of them where the run did not come to its end."""
    ignored: dict[str, str]
    """Changes that did not count, and why."""
    run: TestRun | None
    """None: an empty patch needs none."""
    patch: str
    """What counted, as a unified diff."""


def grade(
    task: SweTask | Problem | Origin,
    diff: Mapping[str, Node | None],
    take: Callable[[Settings], AbstractContextManager[Sandbox]],
) -> Grade:
    """Return the grade of what a sandbox's ``diff`` has changed.

    Args:
        task: What was to be done.
        diff: What the agent's workspace has otherwise than the task's base.
        take: Lends a sandbox that is new or reset, as ``Pool.take``; never the agent's own.

    Raises:
        SandboxError: The sandbox broke. What the patch does to the tests, however bad, is a grade.
    """
    problem = of_task(task)
    counted, ignored = changes(problem, diff)
    if not counted:
        return Grade("empty_patch", 0.0, (), ignored, None, "")
    before = {path: file.read_bytes() for path in counted if (file := problem.base / path).is_file()}
    run = _run(problem, counted, take)
    if run.timed_out:  # perhaps the machine stood still; a patch that waits for ever does so again
        run = _run(problem, counted, take)
    solved = sum(run.passed([test]) for test in problem.fail_to_pass)
    regressions = tuple(test for test in problem.pass_to_pass if not run.passed([test]))
    resolved = solved == len(problem.fail_to_pass) and not regressions
    share = solved / len(problem.fail_to_pass)
    return Grade("resolved" if resolved else "patch", share, regressions, ignored, run, unified(before, counted))


def _run(
    problem: Problem,
    counted: Mapping[str, bytes | None],
    take: Callable[[Settings], AbstractContextManager[Sandbox]],
) -> TestRun:
    with take(problem.settings()) as sandbox:
        sandbox.put_tree({path: None if data is None else Node(data=data) for path, data in counted.items()})
        return problem.judge(sandbox)
