"""Software engineering: find and mend a bug in a real package, in a sandbox of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
from gymnasium.error import ResetNeeded

from milepost.envs.core import Mixed, Observation, Utf8
from milepost.envs.swe import bench, places, trials
from milepost.envs.swe.actions import FORMS
from milepost.envs.swe.answers import Room, submitted
from milepost.envs.swe.grade import Grade
from milepost.envs.swe.instance import Instance
from milepost.envs.swe.options import checked
from milepost.envs.swe.packages import packages as known_packages
from milepost.envs.swe.problem import Problem, of_task
from milepost.envs.swe.tasks import LEVELS, SweTask, default_ids
from milepost.envs.swe.workspace import Workspace
from milepost.sandbox.core import Limits, Sandbox

LIMITS = ("memory", "disk", "processes")
WORTH: Mapping[str, Mapping[str, float]] = {
    "resolved": {"resolved": 1.0, "patch": 0.0, "empty_patch": 0.0, "no_submission": 0.0},
    "gra": {"resolved": 1.0, "patch": 0.5, "empty_patch": 0.0, "no_submission": -0.5},
}
"""What a result is worth; ``credit.gra.SWE_PROFILE`` has the second one too."""


class SweEnv(gym.Env[Observation, str], gym.utils.EzPickle):
    """Mend a bug in a real package.

    **Task.** A package of the index with a bug in one file; the first observation names failing tests and what they
    say. ``reset(options={"task": id})`` plays any id that ``milepost swe build`` knows; ``tasks(split)`` has 344, 52
    and 104 of them, no package in two splits. The level ``easy`` also names the file.

    **Action.** ``actions="tools"``: calls of ``open``, ``scroll``, ``search``, ``find``, ``edit``, ``run_tests`` and
    ``submit``, native, as JSON or as plain text (see ``milepost.envs.tools``), at most 4 a turn. ``actions="bash"``:
    one fenced block of shell commands; the command ``submit`` alone in it ends the episode.

    **Observation.** Text, short and stable: at most ``max_lines`` lines and about ``max_chars`` characters a call,
    and what was left out. Time that is over, a crash or endless output of what was run is told, not raised.

    **Rewards.** The outcome on the last turn, else 0. ``reward_components``, for credit: ``format``, ``call`` and
    ``scaffold`` are 1 where the turn could be read, was carried out, and asked for what there is; ``tests`` where
    tests were run for the first time since an edit; ``patch`` on the turn after which the package differs for the
    first time; with the submission ``fail_to_pass``, the share of failing tests that pass now, and ``regressions``,
    minus the share of the others that fail now. ``potential`` is minus the number of turns that the oracle needs.

    **Outcome.** The patch is taken out of the agent's sandbox, applied in a fresh one, and graded there with the
    original tests (see ``grade``). ``info["result"]`` is ``resolved``, ``patch`` or ``empty_patch``; at the turn limit
    there is none: no submission. ``outcome="resolved"``: 1 if resolved, else 0. ``"fraction"``: the share of failing
    tests that pass now, 0 if another fails now. ``"gra"``: 1, 0.5, 0, and -0.5 for no submission.

    **Ends** on submission, or after 30 turns.

    Args:
        split: Where ``reset(seed=...)`` draws the task from.
        level: Only tasks of this level: easy, medium or hard; of a file in the form of SWE-bench, a ``difficulty``.
        packages: Only tasks of these packages; none: of all.
        tasks: A file of tasks instead of the list, as ``milepost swe build`` writes it or in the form of SWE-bench.
        backend: Of ``milepost.sandbox``: ``auto`` is docker where an engine answers, else bubblewrap.
        actions: The form of a turn.
        outcome: What a result is worth.
        turn_timeout_s: How long the commands or tests of a turn may take.
        max_lines, max_chars: Room for what a call answers.
        memory, disk: Bytes that the agent's sandbox may use, and write; None: what the task says.
        processes: Processes in it.
        allow: Names of limits that may go unenforced, where the backend cannot enforce them here.

    Raises:
        ValueError: An argument cannot be, or the backend is not there.
        MachineError: In ``reset`` and ``step``: a sandbox broke, or the package index does not answer.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(
        self,
        split: str = "train",
        level: str | None = None,
        packages: Sequence[str] = (),
        tasks: str | None = None,
        backend: str = "auto",
        actions: Literal["tools", "bash"] = "tools",
        outcome: Literal["resolved", "fraction", "gra"] = "resolved",
        turn_timeout_s: float = 60.0,
        max_lines: int = 40,
        max_chars: int = 1500,
        memory: int | None = None,
        disk: int | None = None,
        processes: int | None = None,
        allow: Sequence[str] = (),
    ) -> None:
        given = checked({name: value for name, value in locals().items() if name not in ("self", "__class__")})
        gym.utils.EzPickle.__init__(self, **given)
        for name, known in (("actions", tuple(FORMS)), ("outcome", (*WORTH, "fraction"))):
            if given[name] not in known:
                raise ValueError(f"SWE {name}: expected one of {', '.join(known)}, got {given[name]!r}")
        for name in ("turn_timeout_s", "max_lines", "max_chars", *LIMITS):
            if given[name] is not None and not given[name] > 0:
                raise ValueError(f"SWE {name}: expected more than 0, got {given[name]!r}")
        self.action_space, self.observation_space = Utf8(), Mixed()
        self.backend, self.split, self.outcome = places.found(backend), split, outcome
        self._allow = places.allowed(self.backend, given["allow"])
        self._limits = {name: given[name] for name in LIMITS if given[name] is not None}
        places.refuse_unenforced(self.backend, replace(Limits(), **self._limits), self._allow)
        self._file = {one.id: one for one in bench.read(Path(tasks))} if tasks is not None else None
        self._level, self._packages = level, tuple(given["packages"])
        levels = LEVELS if self._file is None else sorted({one.level for one in self._file.values()})
        if level not in (None, *levels):
            raise ValueError(f"SWE level: expected one of {', '.join(levels)}, got {level!r}")
        self.tasks(split)
        self._form = FORMS[actions](Room(max_lines, max_chars, turn_timeout_s), self._submit)
        self.instructions, self.tools = self._form.instructions, list(self._form.tools)
        self._pool = places.agents(self.backend)
        self._judge = places.Judge(self.backend, self._allow)
        self._lent = ExitStack()
        self._sandbox: Sandbox | None = None
        self._at: tuple[Problem, Workspace] | None = None
        self._grade: Grade | None = None
        self._plan: list[str] = []

    @property
    def runtime(self) -> dict[str, Any]:
        """What the agent's sandbox isolates, and how: for records."""
        return {} if self._sandbox is None else {"sandbox": dict(self._sandbox.isolation)}

    def tasks(self, split: str) -> list[str]:
        """Return the tasks of a split.

        Raises:
            ValueError: There is no such split, or package.
        """
        if self._file is None:
            levels = {one: one.split(":")[2] for one in default_ids(split, self._packages)}
        else:
            known_packages((), split)
            here = [one for one in self._file.values() if one.split in ("", split)]
            levels = {one.id: one.level for one in here if not self._packages or one.package in self._packages}
        return [one for one, level in levels.items() if self._level in (None, level)]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin a task, or one that the seed draws.

        Raises:
            ValueError: There is no such task, its bug makes none here, or its test command does not run its tests.
        """
        super().reset(seed=seed)
        chosen = (options or {}).get("task")
        if chosen is None:
            ids = self.tasks(self.split)
            if not ids:
                raise ValueError(f"SWE: there is no task of the split {self.split!r} to draw from")
            chosen = ids[int(self.np_random.integers(len(ids)))]
        problem = of_task(self._load(str(chosen)))
        self._judge.check(problem)
        self._sandbox = self._at = self._grade = None
        self._lent.close()
        settings = problem.settings(replace(problem.limits, **self._limits), self._allow)
        sandbox = self._sandbox = self._lent.enter_context(self._pool.take(settings))
        self._form.begin(sandbox, problem)
        workspace = Workspace(sandbox, problem)
        self._at = problem, workspace
        self._plan = self._form.oracle(workspace.wanted())
        self._patched = self._untested = False
        info = {"task_id": problem.id, "answer": problem.gold, "caption": "An agent is to mend a bug."}
        return problem.statement, info | self._state()

    def step(self, action: str) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Carry a turn out."""
        problem, workspace = self._now
        before = workspace.patch
        played = self._form.play(action)
        if self._grade is None and workspace.look():
            self._plan = self._form.oracle(workspace.wanted())
        tested, changed = False, workspace.patch != before
        for one in played.done:
            tested |= one == "tests" and self._untested
            self._untested = one == "edit" and (changed or self._untested)
        components = {
            "format": float(played.parses),
            "call": float(played.valid),
            "scaffold": float(played.allowed),
            "tests": float(tested),
            "patch": float(bool(workspace.patch) and not self._patched),
        }
        self._patched |= bool(workspace.patch)
        info: dict[str, Any] = {"valid": played.valid, "caption": played.caption, "reward_components": components}
        if self._grade is None:
            return played.observation, 0.0, False, False, info | self._state()
        components["fail_to_pass"] = self._grade.fail_to_pass
        components["regressions"] = -len(self._grade.regressions) / max(len(problem.pass_to_pass), 1)
        outcome, result = self.score(), self._grade.result
        info |= {"outcome": outcome, "success": result == "resolved", "result": result}
        info["caption"] += f" {submitted(self._grade, workspace.ignored)}"
        return played.observation, outcome, True, False, info | self._state()

    def score(self) -> float:
        """Return what the submission is worth, or that there is none."""
        found = self._grade
        if self.outcome == "fraction":
            return 0.0 if found is None or found.regressions else found.fail_to_pass
        return WORTH[self.outcome]["no_submission" if found is None else found.result]

    def oracle(self) -> list[str]:
        """Return edits that make the package what it is without the bug, whatever was done to it, and the submission.

        What the tests do not depend on, as notes of the agent, is left.
        """
        return [] if self._grade is not None else list(self._plan)

    def close(self) -> None:
        """Close the sandboxes."""
        self._sandbox = self._at = None
        self._lent.close()
        self._pool.close()
        self._judge.close()

    @property
    def _now(self) -> tuple[Problem, Workspace]:
        if self._at is None:
            raise ResetNeeded("SWE: call reset before step")
        return self._at

    def _load(self, task: str) -> SweTask | Instance:
        if self._file is None:
            return trials.task(task, self.backend, self._allow)
        if task not in self._file:
            raise ValueError(f"SWE: no task {task!r} in the file of tasks")
        return self._file[task]

    def _submit(self) -> str:
        problem, workspace = self._now
        workspace.look()
        self._grade = self._judge.grade(problem, workspace)
        return submitted(self._grade, workspace.ignored)

    def _state(self) -> dict[str, Any]:
        problem, workspace = self._now
        plan, over = self.oracle(), self._grade is not None
        key = blake2b(f"{workspace.key} {self._form.state()} {over}".encode(), digest_size=12).hexdigest()
        actions = [] if over else list(dict.fromkeys([*plan[:1], *self._form.hints(list(problem.texts))]))
        return {"state_key": key, "potential": float(-len(plan)), "actions": actions}
