"""Tasks: a package with a bug in it, what is said of the bug, and the tests that show whether it is gone.

An id says which package, version and file, how hard, and with which seed: from it alone the bug is made again. What
tests the bug breaks was seen in real runs (``trials``) and travels in the task.
"""

from __future__ import annotations

import importlib.resources
import json
import re
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from milepost.envs.files import replacing
from milepost.envs.swe.diffs import unified
from milepost.envs.swe.mutate import N_SITES, Edit, apply, mutate
from milepost.envs.swe.packages import Package, Split, package, packages
from milepost.envs.swe.sources import source
from milepost.sandbox.bases import prepare

LEVELS = tuple(N_SITES)
EXAMPLE = "inflection-0.5.1:inflection/__init__.py:easy:0"
_bases: dict[tuple[str, tuple[Edit, ...]], Path] = {}


@dataclass(frozen=True)
class SweTask:
    """One bug."""

    id: str
    package: str
    version: str
    split: Split
    level: str
    """``easy``: one edit, its file is named; ``medium``: one edit; ``hard``: two or three edits of a file."""
    edits: tuple[Edit, ...]
    statement: str
    """What the agent is told: failing tests and their assertions."""
    fail_to_pass: tuple[str, ...]
    """Tests that pass without the bug and do not with it."""
    pass_to_pass: tuple[str, ...]
    """Tests that pass with and without it."""
    seconds: float
    """What the tests take without it."""

    @property
    def tests(self) -> tuple[str, ...]:
        """What ``run_tests`` is given to run all tests of the package."""
        return package(self.package).tests


@dataclass(frozen=True)
class TaskId:
    """What a task's id says."""

    package: Package
    file: str
    level: str
    seed: int

    def __str__(self) -> str:
        return f"{self.package.name}-{self.package.version}:{self.file}:{self.level}:{self.seed}"

    @classmethod
    def parse(cls, text: str) -> TaskId:
        """Read an id.

        Raises:
            ValueError: It is none, or of a package, version or level that is not known.
        """
        match = re.fullmatch(r"([\w.-]+)-([\w.]+):([\w./-]+\.py):(\w+):(\d{1,9})", text, re.A)
        if match is None:
            raise ValueError(f"SWE task: expected an id like {EXAMPLE}, got {text!r}")
        name, version, file, level, seed = match.groups()
        found = package(name)
        if version != found.version:
            raise ValueError(f"SWE task {text}: expected version {found.version} of {name}, got {version}")
        if level not in LEVELS:
            raise ValueError(f"SWE task {text}: expected a level of {', '.join(LEVELS)}, got {level!r}")
        return cls(found, file, level, int(seed))

    def edits(self) -> tuple[Edit, ...]:
        """Return the edits that its seed gives.

        Raises:
            ValueError: The package has no such file to edit; see ``source``.
        """
        tree = source(self.package)
        files = self.package.files(tree)
        if self.file not in files:
            raise ValueError(f"SWE task {self}: expected one of {', '.join(files)}, got {self.file}")
        return mutate(self.file, (tree / self.file).read_bytes(), self.level, str(self.seed))


def default_ids(split: str | None = None, names: Sequence[str] = ()) -> list[str]:
    """Return the ids of the tasks that were chosen once by a build of 500, of a split and of packages.

    Raises:
        ValueError: There is no such split or package.
    """
    wanted = {one.name for one in packages(names, split)}
    text = importlib.resources.files("milepost.envs.swe").joinpath("default_tasks.txt").read_text("utf-8")
    return [line for line in text.split() if TaskId.parse(line).package.name in wanted]


def texts(task: SweTask) -> dict[str, tuple[bytes, bytes]]:
    """Return the files with edits: what they are with the bug, and without it.

    Raises:
        ValueError: The edits do not apply to the package's source.
    """
    tree, by_file = source(package(task.package)), defaultdict(list)
    for edit in task.edits:
        by_file[edit.file].append(edit)
    found = {}
    for file, edits in by_file.items():
        if file not in package(task.package).files(tree):
            raise ValueError(f"SWE task {task.id}: the patch does not apply: the package has no {file!r}")
        clean = (tree / file).read_bytes()
        try:
            found[file] = apply(clean, edits), clean
        except ValueError as error:
            raise ValueError(f"SWE task {task.id}: {error}") from None
    return found


def base(task: SweTask) -> Path:
    """Return the folder that an episode begins with: the package's tree with the bug, read-only, made once.

    It has no history, no metadata of an installation and no second copy of the edited file.

    Raises:
        ValueError: See ``source`` and ``texts``.
        MachineError: The package index does not answer, or there is no room.
    """
    known = _bases.get((task.id, task.edits))
    if known is None or not known.is_dir():
        with tempfile.TemporaryDirectory(prefix="milepost-swe-") as scratch:
            tree = Path(scratch) / "tree"
            shutil.copytree(source(package(task.package)), tree, symlinks=True)
            for file, (buggy, _) in texts(task).items():
                (tree / file).write_bytes(buggy)
            known = _bases[task.id, task.edits] = prepare(tree)
    return known


def gold(task: SweTask) -> str:
    """Return the patch that takes the bug away, as a unified diff of ``base``; see ``texts``."""
    found = texts(task)
    return unified(
        {file: buggy for file, (buggy, _) in found.items()}, {file: clean for file, (_, clean) in found.items()}
    )


def write(path: Path, tasks: Iterable[SweTask]) -> None:
    """Write tasks as JSON lines; the file is there whole or as it was before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.writelines(json.dumps(asdict(task)).encode() + b"\n" for task in tasks)


def read(path: Path) -> list[SweTask]:
    """Read tasks that ``write`` wrote.

    Raises:
        ValueError: The file is missing, or one of its lines is no task: it says which and why.
    """
    if not path.is_file():
        raise ValueError(f"tasks: no file {path}")
    known: dict[str, SweTask] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            task = from_row(parsed(line))
            if task.id in known:
                raise ValueError(f"id: {task.id} is there twice")
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
        known[task.id] = task
    if not known:
        raise ValueError(f"{path}: expected tasks, one a line, got none")
    return list(known.values())


def parsed(line: bytes) -> Any:
    """Return the JSON of a line.

    Raises:
        ValueError: It is none: it says where in the line.
    """
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"expected JSON: {error.msg} (character {error.pos + 1})") from None


def from_row(row: Any) -> SweTask:
    """Return the task of a JSON object with its fields.

    Raises:
        ValueError: It has other fields than a task, or values of other types.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"expected an object, got {type(row).__name__}")
    expected: dict[str, type | tuple[type, ...]] = dict.fromkeys(SweTask.__dataclass_fields__, str)
    expected |= {"edits": list, "fail_to_pass": list, "pass_to_pass": list, "seconds": (int, float)}
    _check(row, expected)
    for tests in (row["fail_to_pass"], row["pass_to_pass"]):
        if not all(isinstance(test, str) for test in tests):
            raise ValueError("fail_to_pass and pass_to_pass: expected lists of test ids")
    for name in ("edits", "fail_to_pass"):
        if not row[name]:
            raise ValueError(f"{name}: expected at least one, got none")
    packages((), row["split"])
    for edit in row["edits"]:
        _check(edit, dict.fromkeys(Edit.__dataclass_fields__, str) | {"begin": int, "end": int})
    lists = {name: tuple(row[name]) for name in ("fail_to_pass", "pass_to_pass")}
    task = SweTask(**{**row, **lists, "edits": tuple(Edit(**edit) for edit in row["edits"])})
    told = TaskId.parse(task.id)
    if (task.package, task.version, task.level) != (told.package.name, told.package.version, told.level):
        raise ValueError(f"task {task.id}: expected the package, version and level of its id")
    return task


def _check(row: Any, expected: Mapping[str, type | tuple[type, ...]]) -> None:
    if not isinstance(row, Mapping) or set(row) != set(expected):
        got = ", ".join(sorted(map(str, row))) if isinstance(row, Mapping) else type(row).__name__
        raise ValueError(f"expected {', '.join(expected)}, got {got}")
    for name, kind in expected.items():
        if not isinstance(row[name], kind):
            raise ValueError(f"{name}: expected {getattr(kind, '__name__', 'number')}, got {row[name]!r:.60}")
