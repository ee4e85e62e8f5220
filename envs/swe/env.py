"""Software engineering: find and mend a bug in a real package, in a sandbox of one's own."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
from gymnasium.error import ResetNeeded

from milepost.envs.core import Mixed, Observation, Utf8
from milepost.envs.swe import places, trials
from milepost.envs.swe.actions import Actions, BashActions, ToolActions
from milepost.envs.swe.grade import Grade, grade
from milepost.envs.swe.packages import package
from milepost.envs.swe.patch import changes
from milepost.envs.swe.tasks import LEVELS, SweTask, base, default_ids, gold, read, texts
from milepost.envs.swe.tools import Room
from milepost.sandbox.core import Limits, Node, Sandbox

FORMS = {"tools": ToolActions, "bash": BashActions}
WORTH: Mapping[str, Mapping[str, float]] = {
    "resolved": {"resolved": 1.0, "patch": 0.0, "empty_patch": 0.0, "no_submission": 0.0},
    "gra": {"resolved": 1.0, "patch": 0.5, "empty_patch": 0.0, "no_submission": -0.5},
}
"""What a result is worth; ``credit.gra.SWE_PROFILE`` has the second one too."""
MAX_GRADES = 256
_grades: OrderedDict[bytes, Grade] = OrderedDict()
"""Of patches that were graded lately: the tests are deterministic, and the attempts of a group are often equal."""


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
        level: Only tasks of this level.
        packages: Only tasks of these packages; none: of all.
        tasks: A file of tasks instead of the list, as ``milepost swe build`` writes it.
        backend: Of ``milepost.sandbox``: ``auto`` is docker where an engine answers, else bubblewrap.
        actions: The form of a turn.
        outcome: What a result is worth.
        turn_timeout_s: How long the commands or tests of a turn may take.
        max_lines, max_chars: Room for what a call answers.
        memory, disk: Bytes that the agent's sandbox may use, and write.
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
        level: Literal["easy", "medium", "hard"] | None = None,
        packages: Sequence[str] = (),
        tasks: str | None = None,
        backend: str = "auto",
        actions: Literal["tools", "bash"] = "tools",
        outcome: Literal["resolved", "fraction", "gra"] = "resolved",
        turn_timeout_s: float = 60.0,
        max_lines: int = 40,
        max_chars: int = 1500,
        memory: int = 1 << 30,
        disk: int = 1 << 28,
        processes: int = 128,
        allow: Sequence[str] = (),
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        gym.utils.EzPickle.__init__(self, **given)
        for name, known in (("level", (None, *LEVELS)), ("actions", tuple(FORMS)), ("outcome", (*WORTH, "fraction"))):
            if given[name] not in known:
                raise ValueError(f"SWE {name}: expected one of {', '.join(map(str, known))}, got {given[name]!r}")
        for name in ("turn_timeout_s", "max_lines", "max_chars", "memory", "disk", "processes"):
            if not given[name] > 0:
                raise ValueError(f"SWE {name}: expected more than 0, got {given[name]!r}")
        self.action_space, self.observation_space = Utf8(), Mixed()
        self.backend, self.split, self.outcome = places.found(backend), split, outcome
        self._allow = places.allowed(self.backend, allow)
        self._limits = Limits(memory=memory, processes=processes, disk=disk)
        self._file = {task.id: task for task in read(Path(tasks))} if tasks is not None else None
        self._level, self._packages = level, tuple(packages)
        if not self.tasks(split):
            raise ValueError(f"SWE: there is no task of split {split!r}, level {level!r} and packages {packages!r}")
        self._form: Actions = FORMS[actions](Room(max_lines, max_chars, turn_timeout_s), self._submit)
        self.instructions, self.tools = self._form.instructions, list(self._form.tools)
        self._pool = places.agents(self.backend)
        self._grading, self._lent = ExitStack(), ExitStack()
        self._task: SweTask | None = None
        self._sandbox: Sandbox | None = None

    @property
    def runtime(self) -> dict[str, Any]:
        """What the agent's sandbox isolates, and how: for records."""
        return {} if self._sandbox is None else {"sandbox": dict(self._sandbox.isolation)}

    def tasks(self, split: str) -> list[str]:
        """Return the tasks of a split.

        Raises:
            ValueError: There is no such split, or package.
        """
        ids = default_ids(split, self._packages)
        if self._file is not None:
            names = {package(name).name for name in self._packages}
            ids = [one.id for one in self._file.values() if one.split == split and names <= {one.package}]
        return [one for one in ids if self._level in (None, one.split(":")[2])]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin a task, or one that the seed draws.

        Raises:
            ValueError: There is no such task, or its bug makes none here.
        """
        super().reset(seed=seed)
        ids = self.tasks(self.split)
        drawn = ids[int(self.np_random.integers(len(ids)))]
        self._task = self._load(str((options or {}).get("task") or drawn))
        self._sandbox = None
        self._lent.close()
        taken = self._pool.take(places.settings(self._task, self._limits, self._allow))
        self._sandbox = self._lent.enter_context(taken)
        self._form.begin(self._sandbox, self._task)
        self._grade: Grade | None = None
        self._patched = self._untested = False
        self._look()
        info = {"task_id": self._task.id, "answer": gold(self._task), "caption": "An agent is to mend a bug."}
        return self._task.statement, info | self._state()

    def step(self, action: str) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Carry a turn out."""
        sandbox, before = self._now, self._counted
        played = self._form.play(action)
        if self._grade is None:
            self._look()
        self._untested |= self._counted != before
        components = {
            "format": float(played.parses),
            "call": float(played.valid),
            "scaffold": float(played.allowed),
            "tests": float(played.tested and self._untested),
            "patch": float(bool(self._counted) and not self._patched),
        }
        self._untested &= not played.tested
        self._patched |= bool(self._counted)
        info: dict[str, Any] = {"valid": played.valid, "caption": played.caption, "reward_components": components}
        if self._grade is None:
            return played.observation, 0.0, False, False, info | self._state()
        assert self._task is not None and sandbox
        others = max(len(self._task.pass_to_pass), 1)
        components["fail_to_pass"] = self._grade.fail_to_pass
        components["regressions"] = -len(self._grade.regressions) / others
        outcome, result = self.score(), self._grade.result
        info |= {"outcome": outcome, "success": result == "resolved", "result": result}
        info["caption"] += f" {_told(self._grade)}"
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
        """Close the sandbox."""
        self._sandbox = None
        self._lent.close()
        self._grading.close()
        self._pool.close()

    @property
    def _now(self) -> Sandbox:
        if self._sandbox is None:
            raise ResetNeeded("SWE: call reset before step")
        return self._sandbox

    def _load(self, task: str) -> SweTask:
        if self._file is None:
            return trials.task(task, self.backend)
        if task not in self._file:
            raise ValueError(f"SWE: no task {task!r} in the file of tasks")
        return self._file[task]

    def _look(self) -> None:
        """See what is otherwise in the workspace, and what is left to do."""
        assert self._task is not None
        diff = self._now.diff()
        if diff == getattr(self, "_diff", None) and self._seen is self._task:
            return
        self._diff, self._seen = diff, self._task
        self._counted = changes(self._task, diff)[0]
        self._plan = self._form.oracle(self._wanted())

    def _wanted(self) -> dict[str, tuple[bytes | None, bytes | None]]:
        """Return the files of the package that are not as they are without the bug."""
        assert self._task is not None
        tree, clean = base(self._task), {file: then for file, (_, then) in texts(self._task).items()}
        files = set(package(self._task.package).files(tree))
        wanted = {}
        for path in sorted({*clean, *self._counted, *(files & self._diff.keys())}):
            original = (tree / path).read_bytes() if (tree / path).is_file() else None
            now, then = _content(self._diff, path, original), clean.get(path, original)
            if now != then:
                wanted[path] = now, then
        return wanted

    def _submit(self) -> str:
        assert self._task is not None
        self._look()
        key = blake2b(repr((self._task, sorted(self._counted.items()))).encode()).digest()
        if (known := _grades.get(key)) is None:
            known = grade(self._task, self._diff, self._take)
            _grades[key] = known
            while len(_grades) > MAX_GRADES:
                _grades.popitem(last=False)
        self._grade = known
        return _told(known)

    @contextmanager
    def _take(self, settings: Any) -> Any:
        if not hasattr(self, "_graders"):
            self._graders = self._grading.enter_context(places.grading(self.backend))
        with self._graders.take(replace(settings, allow=settings.allow | self._allow)) as sandbox:
            yield sandbox

    def _state(self) -> dict[str, Any]:
        assert self._task is not None
        rows = [[path, *((node.kind, node.data.hex(), node.mode) if node else ())] for path, node in self._diff.items()]
        text = json.dumps([sorted(rows), self._form.state(), self._grade is not None])
        plan = self.oracle()
        files = list(dict.fromkeys(edit.file for edit in self._task.edits))
        actions = [] if self._grade is not None else list(dict.fromkeys([*plan[:1], *self._form.hints(files)]))
        key = blake2b(text.encode(), digest_size=12).hexdigest()
        return {"state_key": key, "potential": float(-len(plan)), "actions": actions}


def _content(diff: Mapping[str, Node | None], path: str, original: bytes | None) -> bytes | None:
    """Return what a file has now; None where there is none, or something else in its place."""
    if path not in diff:
        return original
    node = diff[path]
    return node.data if node is not None and node.kind == "file" else None


def _told(grade: Grade) -> str:
    """Say how a submission was graded."""
    if grade.result == "empty_patch":
        return "Submitted: nothing was changed that counts."
    if grade.run is not None and not grade.run.complete:
        return "Submitted: the tests do not come to their end."
    share, n = f"{grade.fail_to_pass:.0%} of the failing tests pass", len(grade.regressions)
    return f"Submitted: {share}{f', {n} others fail now' if n else ''}. {'Solved' if grade.result == 'resolved' else 'Not solved'}."
