"""Grades of patches to a package of two files, whose tests are really run in a sandbox without isolation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path

import pytest
from swe_packages import TINY, offer, real_tools

from milepost.envs.swe import canary, places, problem, test_tools
from milepost.envs.swe.canary import Canary
from milepost.envs.swe.diffs import apply_text
from milepost.envs.swe.grade import Grade, grade
from milepost.envs.swe.mutate import Edit
from milepost.envs.swe.tasks import SweTask, base
from milepost.envs.swe.workspace import Workspace
from milepost.sandbox.core import Limits, Node, Sandbox, SandboxError, Settings
from milepost.sandbox.make import make
from milepost.sandbox.pool import Pool

F2P = ("test_tiny.py::test_middle", "test_tiny.py::test_turned")
P2P = ("test_tiny.py::test_start", "test_tiny.py::test_total")
BUGGY = TINY.replace("// 2", "* 2")
UNCONFINED = frozenset(field.name for field in fields(Limits))


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(partial(make, "local"), 1) as found:
        yield found


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SweTask:
    tools = real_tools()
    monkeypatch.setattr(test_tools, "tools", lambda: tools)
    offer(tmp_path, monkeypatch)
    begin = TINY.index("// 2")
    edit = Edit("tiny.py", "?", begin, begin + 4, "// 2", "* 2")
    return SweTask("tiny-1.0:tiny.py:easy:0", "tiny", "1.0", "train", "easy", (edit,), "?", F2P, P2P, 0.1)


def lend(pool: Pool, settings: Settings) -> AbstractContextManager[Sandbox]:
    return pool.take(replace(settings, allow=UNCONFINED))


def graded(task: SweTask, pool: Pool, source: str) -> Grade:
    return grade(task, {"tiny.py": Node(data=source.encode())}, partial(lend, pool))


def test_the_original_resolves_and_the_patch_says_what_was_changed(task: SweTask, pool: Pool) -> None:
    found = graded(task, pool, TINY)
    assert (found.result, found.fail_to_pass, found.regressions, found.ignored) == ("resolved", 1.0, (), {})
    assert found.run is not None
    assert found.run.complete
    assert found.run.changed == ()
    assert "-    return (low + high) * 2\n+    return (low + high) // 2\n" in found.patch
    assert apply_text(found.patch, lambda path: (base(task) / path).read_bytes()) == {"tiny.py": TINY.encode()}
    assert json.loads(json.dumps(asdict(found)))["result"] == "resolved"


def test_half_a_fix_is_half_of_the_failing_tests_and_a_regression_is_named(task: SweTask, pool: Pool) -> None:
    half = BUGGY.replace("(low + high) * 2", "4").replace("result = start", "result = 0")
    found = graded(task, pool, half)
    assert (found.result, found.fail_to_pass, found.regressions) == ("patch", 0.5, (P2P[0],))
    assert found.run is not None
    assert found.run.complete
    assert "assert 1 == 6" in found.run.messages[P2P[0]]


def test_an_equal_patch_is_graded_again_for_other_tests_and_after_its_time_was_over(task: SweTask) -> None:
    def graded_once(one: problem.Problem, source: str) -> Grade:
        sandbox = make("local", one.settings(allow=UNCONFINED))
        sandbox.write("tiny.py", source)
        try:
            return judge.grade(one, Workspace(sandbox, one))
        finally:
            sandbox.close()

    judge, given = places.Judge("local", UNCONFINED), problem.of_task(task)
    other = replace(given, fail_to_pass=("test_tiny.py::test_other",))
    found = graded_once(given, TINY)
    assert found.result == "resolved"
    assert graded_once(problem.of_task(task), TINY) is found
    assert graded_once(other, TINY).result == "patch"
    endless = replace(given, timeout_s=0.5)
    first, second = (graded_once(endless, f"{TINY}\nimport time\ntime.sleep(60)\n") for _ in range(2))
    assert first is not second
    assert first.run is not None
    assert first.run.timed_out
    judge.close()


def test_tests_that_the_machine_kept_waiting_are_run_once_more(task: SweTask, pool: Pool, tmp_path: Path) -> None:
    stall = f"import pathlib, time\nif not (here := pathlib.Path({str(tmp_path / 'stalled')!r})).exists():"
    stall += "\n    here.touch()\n    time.sleep(60)\n"
    slow = replace(problem.of_task(task), timeout_s=5.0)
    found = grade(slow, {"tiny.py": Node(data=f"{TINY}\n{stall}".encode())}, partial(lend, pool))
    assert (tmp_path / "stalled").exists()
    assert found.result == "resolved"


def test_what_counts_for_nothing_is_an_empty_patch_and_no_test_is_run(task: SweTask) -> None:
    def nobody(settings: Settings) -> AbstractContextManager[Sandbox]:
        raise AssertionError("a sandbox was taken")

    found = grade(task, {"test_tiny.py": None, "conftest.py": Node(data=b"")}, nobody)
    assert (found.result, found.fail_to_pass, found.run, found.patch) == ("empty_patch", 0.0, None, "")
    assert sorted(found.ignored) == ["conftest.py", "test_tiny.py"]


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time; time.sleep(60)",
        "x = bytearray(1 << 40)",
        "x = []\nwhile True: x.append(bytearray(1 << 26))",
        "while True: print('x' * 1000)",
        "import os; os._exit(0)",
        "import os; os.kill(os.getpid(), 11)",
        "import os; os.kill(os.getppid(), 9)",
        "import sys; sys.setrecursionlimit(10 ** 9)\ndef f(): f()\nf()",
        "this is no Python",
        "import os\nfor fd in range(256):\n    try: os.close(fd)\n    except OSError: pass",
    ],
    ids=lambda code: code.replace("import ", "")[:16],
)
def test_whatever_tested_code_does_is_a_grade(
    task: SweTask, pool: Pool, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    monkeypatch.setattr(problem, "TIMEOUT_S", 3.0)
    found = graded(task, pool, f"{TINY}\n{code}\n")
    assert (found.result, found.fail_to_pass, found.regressions) == ("patch", 0.0, P2P)
    assert found.run is not None
    assert len(found.run.output) < 5000


def test_a_deleted_source_is_a_patch_that_breaks_everything(task: SweTask, pool: Pool) -> None:
    found = grade(task, {"tiny.py": None}, partial(lend, pool))
    assert (found.result, found.fail_to_pass, found.regressions) == ("patch", 0.0, P2P)
    assert "deleted file" in found.patch


def test_a_sandbox_that_dies_is_the_machine_s_error(task: SweTask) -> None:
    @contextmanager
    def dying(settings: Settings) -> Iterator[Sandbox]:
        sandbox = make("local", replace(settings, allow=UNCONFINED))
        sandbox.close()
        yield sandbox

    with pytest.raises(SandboxError):
        grade(task, {"tiny.py": Node(data=TINY.encode())}, dying)


def test_the_canary_dies_of_any_other_outcome(task: SweTask, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = Canary.new()
    outcomes = {f"::{test}": outcome for test, (outcome, _) in drawn.expected.items()}
    messages = {f"::{test}": message for test, (_, message) in drawn.expected.items()}
    assert drawn.lives(outcomes, messages)
    for test, outcome in outcomes.items():
        assert not drawn.lives(outcomes | {test: "passed" if outcome != "passed" else "failed"}, messages)
        assert not drawn.lives({key: value for key, value in outcomes.items() if key != test}, messages)
        assert outcome == "passed" or not drawn.lives(outcomes, messages | {test: "something else"})
    # and in a run: one canary test is expected to come out otherwise than it does
    monkeypatch.setattr(canary, "TESTS", (("failed", "", "def test_{name}():\n    assert {a} == {a}\n"),))
    found = graded(task, pool, TINY)
    assert found.result == "patch"
    assert found.run is not None
    assert "the canary" in found.run.changed
