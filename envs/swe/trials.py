"""What a bug really breaks: tests run without and with it, and bugs that are no task are rejected.

What was seen is kept in the user's cache by task id, so that a build goes on where it was stopped, and a panel or an
environment builds only the tasks that it names.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

from milepost.envs.swe import test_tools
from milepost.envs.swe.mutate import Edit, apply
from milepost.envs.swe.packages import Package
from milepost.envs.swe.places import allowed
from milepost.envs.swe.sources import cache_folder, source
from milepost.envs.swe.tasks import SweTask, TaskId, from_row
from milepost.envs.swe.testing import PYTHON, TOOLS, TestRun, run_tests, shorten
from milepost.sandbox.bases import prepare
from milepost.sandbox.core import MachineError, Sandbox, Settings
from milepost.sandbox.make import make

FORMAT = 2
"""Raised when what is kept means something else."""
MAX_CPU_S = 5
"""Seconds of a processor that a new task's tests may take with the bug in."""
PATIENT_CPU_S = 40
"""The same for a task that was chosen already, on a machine that may have been faster, and for tests without a bug."""
MEMORY = 1 << 30
TIMEOUT_S = 90.0
WAITED = f"its tests did not end within {TIMEOUT_S:g} s"
N_RUNS = 3
N_SHOWN = 3
MAX_ASSERTION = 300
MAX_LINES = 8
"""Of the first test's assertion; of the others, a statement has the first line."""


@dataclass(frozen=True)
class Rejected:
    """Why a bug is no task."""

    id: str
    reason: str
    max_cpu_s: int = MAX_CPU_S
    """What its tests were allowed; with more they might have come to their end."""


def task(task_id: str, backend: str = "auto", allow: Iterable[str] = ()) -> SweTask:
    """Return the task of an id, with what its tests showed, now if the cache does not know it.

    ``allow`` names limits that may go unenforced while tests run.

    Raises:
        ValueError: It is no id, or of a bug that makes no task here; it says why.
        MachineError: The package index does not answer, or a sandbox broke.
    """
    found = trial(TaskId.parse(task_id), backend, PATIENT_CPU_S, allow)
    if isinstance(found, Rejected):
        raise ValueError(f"SWE task {task_id}: makes no task here: {found.reason}")
    return found


def trial(
    task_id: TaskId, backend: str = "auto", max_cpu_s: int = MAX_CPU_S, allow: Iterable[str] = ()
) -> SweTask | Rejected:
    """Return what comes of a bug, from the cache or from runs of at most so many seconds each; see ``task``."""
    package = task_id.package
    kept = _folder(package) / f"{quote(str(task_id), safe='')}.json"
    known = _load(kept)
    if known is not None and "reason" not in known:
        return from_row(known)
    if known is not None and Rejected(**known).max_cpu_s >= max_cpu_s:
        return Rejected(**known)
    clean, seconds = clean_run(package, backend, allow)
    edits = task_id.edits()
    with _sandbox(package, backend, allow) as sandbox:
        found = _judge(task_id, edits, clean, sandbox, max_cpu_s)
    if isinstance(found, str):
        rejected = Rejected(str(task_id), found, max_cpu_s)
        if found != WAITED:  # that may be the machine's doing
            _save(kept, asdict(rejected))
        return rejected
    broken = [test for test in clean if found.outcomes[test] != "passed"]
    whole = [test for test in clean if found.outcomes[test] == "passed"]
    about = {"id": str(task_id), "package": package.name, "version": package.version, "split": package.split}
    tests = {"fail_to_pass": tuple(broken), "pass_to_pass": tuple(whole)}
    told = {"level": task_id.level, "edits": edits, "statement": _statement(task_id, found, broken)}
    made = SweTask(**about, **told, **tests, seconds=seconds)  # type: ignore[arg-type]
    _save(kept, asdict(made))
    return made


def clean_run(package: Package, backend: str = "auto", allow: Iterable[str] = ()) -> tuple[list[str], float]:
    """Return the tests that pass in each of three runs without a bug, and the seconds of one run.

    Raises:
        ValueError: Its tests do not run here.
    """
    kept = _folder(package) / "clean.json"
    known = _load(kept)
    if known is None:
        with _sandbox(package, backend, allow) as sandbox:
            runs = [_run(package, sandbox, {}, PATIENT_CPU_S) for _ in range(N_RUNS)]
        passed = set.intersection(*(set(run.of("passed")) for run in runs))
        if not passed or not all(run.complete for run in runs):
            said = runs[0].output.splitlines() or ["they said nothing"]
            raise ValueError(f"{package.name} {package.version}: its own tests do not run here: {said[-1]}")
        known = {"tests": sorted(passed), "seconds": round(min(run.seconds for run in runs), 2)}
        _save(kept, known)
    return known["tests"], known["seconds"]


def _judge(
    task_id: TaskId, edits: Sequence[Edit], clean: Sequence[str], sandbox: Sandbox, max_cpu_s: int
) -> TestRun | str:
    """Return a run with the bug, or why it makes no task."""
    package, file = task_id.package, task_id.file
    data = (source(package) / file).read_bytes()
    first = _run(package, sandbox, {file: apply(data, edits)}, max_cpu_s)
    if reason := _why_not(first, clean, max_cpu_s):
        return reason
    if len(edits) > 1:
        for edit in edits:
            alone = _run(package, sandbox, {file: apply(data, [edit])}, max_cpu_s)
            if _why_not(alone, clean, max_cpu_s) == "nothing fails":
                return "one of its edits breaks nothing"
    for _ in range(N_RUNS - 1):
        again = _run(package, sandbox, {file: apply(data, edits)}, max_cpu_s)
        if again.timed_out:
            return WAITED
        if [again.outcomes.get(test) for test in clean] != [first.outcomes.get(test) for test in clean]:
            return "flaky"
    return first


def _why_not(run: TestRun, clean: Sequence[str], max_cpu_s: int) -> str | None:
    if run.cpu_s > max_cpu_s - 0.5:
        return "slow"
    if run.timed_out:
        return WAITED
    if not run.complete:
        return "crashes"
    outcomes = [run.outcomes.get(test) for test in clean]
    if None in outcomes:
        return "does not import"
    n_passed = outcomes.count("passed")
    if n_passed in (0, len(clean)):
        return "everything fails" if n_passed == 0 else "nothing fails"
    return None


def _run(package: Package, sandbox: Sandbox, files: dict[str, bytes], max_cpu_s: int) -> TestRun:
    sandbox.reset()
    for path, data in files.items():
        sandbox.write(path, data)
    return run_tests(sandbox, package.tests, timeout_s=TIMEOUT_S, cpu_s=max_cpu_s, memory=MEMORY)


@contextmanager
def _sandbox(package: Package, backend: str, allow: Iterable[str] = ()) -> Iterator[Sandbox]:
    mounts = {TOOLS: prepare(test_tools.tools())}
    settings = Settings(base=prepare(source(package)), mounts=mounts, allow=allowed(backend, allow))
    sandbox = make(backend, settings)
    try:
        yield sandbox
    finally:
        sandbox.close()


def _statement(task_id: TaskId, run: TestRun, broken: Sequence[str]) -> str:
    """Say which tests fail and how; where the bug is only on the level that tells the file."""
    package = task_id.package
    n, shown = len(broken), broken[:N_SHOWN]
    fail = (
        "This test fails" if n == 1 else f"These {n} tests fail" if n == len(shown) else f"{n} tests fail, among them"
    )
    lines = [f"There is a bug in {package.name} {package.version}. {fail}:"]
    for test in shown:
        n_lines, n_characters = (MAX_LINES, MAX_ASSERTION) if test == shown[0] else (1, MAX_ASSERTION // 2)
        said = "\n".join(run.messages.get(test, "").splitlines()[:n_lines])
        lines += ["", test, *(f"    {line}".rstrip() for line in shorten(said, n_characters).splitlines())]
    lines += ["", "Correct the package so that all tests pass. Do not change the tests."]
    if task_id.level == "easy":
        lines += [f"The bug is in {task_id.file}."]
    return "\n".join(lines)


def _folder(package: Package) -> Path:
    """Where results are kept: under what they depend on besides the id."""
    about = FORMAT, package.sha256, package.tests, test_tools.PINS, Path(PYTHON).resolve().name
    key = sha256(repr(about).encode()).hexdigest()[:12]
    return cache_folder() / "runs" / f"{package.name}-{package.version}-{key}"


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):  # half of one is none
        return None


def _save(path: Path, row: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, prefix=".new-", delete=False) as file:
            json.dump(row, file)
        os.replace(file.name, path)
    except OSError as error:
        raise MachineError(f"cache of SWE tasks: {error}") from None
