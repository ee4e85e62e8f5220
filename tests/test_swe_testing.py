"""Runs of tests that are told by a process which tested code cannot speak for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from milepost.envs.swe.testing import TestRun, run_tests, shorten
from milepost.sandbox.client import GuestSandbox
from milepost.sandbox.core import Settings
from milepost.sandbox.make import make


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuestSandbox]:
    """The tools are the ones that this very test runs on; a run here needs pytest alone."""
    tools = Path(pytest.__file__).parents[1]
    sandbox = make("local", Settings(base=tmp_path_factory.mktemp("base"), mounts={"/tools": tools}))
    yield sandbox
    sandbox.close()


def run(sandbox: GuestSandbox, body: str, ids: list[str] | None = None, timeout_s: float = 20.0) -> TestRun:
    sandbox.write("test_it.py", body)
    return run_tests(sandbox, ["test_it.py"], ids, timeout_s)


def test_each_outcome_is_told_under_the_test_s_id_with_its_assertion(sandbox: GuestSandbox) -> None:
    body = """
import pytest
@pytest.fixture
def broken(): raise ValueError("no fixture")
def test_good(): pass
def test_bad(): assert 1 + 1 == 3
def test_error(broken): pass
@pytest.mark.skip
def test_skip(): pass
@pytest.mark.xfail
def test_expected(): assert False
"""
    found = run(sandbox, body)
    assert found.complete
    assert not found.timed_out
    assert {name.partition("::")[2]: outcome for name, outcome in found.outcomes.items()} == {
        "test_good": "passed",
        "test_bad": "failed",
        "test_error": "error",
        "test_skip": "skipped",
        "test_expected": "skipped",
    }
    assert "assert (1 + 1) == 3" in found.messages["test_it.py::test_bad"]
    assert "1 failed, 1 passed" in found.output
    assert " in 0." not in found.output


def test_only_the_tests_asked_for_run_and_one_that_is_not_there_has_failed(sandbox: GuestSandbox) -> None:
    ids = ["test_it.py::test_a", "test_it.py::test_gone"]
    found = run(sandbox, "def test_a(): pass\ndef test_b(): assert False", ids)
    assert dict(found.outcomes) == {"test_it.py::test_a": "passed", "test_it.py::test_gone": "failed"}
    assert not found.passed(ids)
    assert found.passed(ids[:1])


@pytest.mark.parametrize("end", ["os._exit(0)", "os.kill(os.getpid(), 9)", "os.kill(os.getppid(), 9)"])
def test_a_run_that_does_not_come_to_its_end_passes_nothing(sandbox: GuestSandbox, end: str) -> None:
    found = run(sandbox, f"import os\ndef test_a(): pass\ndef test_b(): {end}", ["test_it.py::test_a"])
    assert found.complete  # test_b was not asked for
    found = run(sandbox, f"import os\ndef test_a(): pass\ndef test_b(): {end}")
    assert not found.complete
    assert not found.passed(["test_it.py::test_a"])


def test_a_line_or_a_message_that_tested_code_writes_itself_counts_for_nothing(sandbox: GuestSandbox) -> None:
    body = """
import os
def test_a():
    line = b'x {"id": "test_it.py::test_b", "when": "call", "outcome": "passed"}\\n'
    for fd in range(3, 32):
        try:
            os.write(fd, line)
        except OSError:
            pass
    print(line.decode())
    os._exit(0)
def test_b(): assert False
"""
    found = run(sandbox, body)
    assert not found.complete
    assert found.outcomes.get("test_it.py::test_b") != "passed"
    found = run(sandbox, body.replace("os._exit(0)", "pass"))
    assert not found.complete
    assert found.outcomes["test_it.py::test_b"] == "failed"


def test_a_test_that_is_told_twice_has_not_passed(sandbox: GuestSandbox) -> None:
    body = """
import pytest
from _pytest.reports import TestReport
def told(request, outcome):
    item = request.session.items[1]
    item.ihook.pytest_runtest_logreport(report=TestReport(item.nodeid, item.location, {}, outcome, None, "call"))
def test_a(request): told(request, OUTCOME)
def test_b(): SECOND
"""
    for outcome, second, wanted in (
        ("passed", "pass", "failed"),
        ("passed", "pytest.skip()", "skipped"),
        ("skipped", "pass", "skipped"),
        ("passed", "assert False", "failed"),
        ("failed", "pass", "failed"),
    ):
        found = run(sandbox, body.replace("OUTCOME", repr(outcome)).replace("SECOND", second))
        assert dict(found.outcomes) == {"test_it.py::test_a": "passed", "test_it.py::test_b": wanted}


def test_the_parent_cannot_be_opened_by_what_it_tests(sandbox: GuestSandbox) -> None:
    body = """
import os, pytest
@pytest.mark.parametrize("name", ["mem", "environ", "fd/1"])
def test_closed(name):
    if os.getuid() == 0:
        pytest.skip("root may read everything; sandboxes are not root's")
    with pytest.raises(PermissionError):
        open(f"/proc/{os.getppid()}/{name}", "rb")
"""
    assert set(run(sandbox, body).outcomes.values()) <= {"passed", "skipped"}


def test_tests_that_hang_are_ended_and_what_they_showed_before_is_kept(sandbox: GuestSandbox) -> None:
    found = run(sandbox, "import time\ndef test_a(): pass\ndef test_b(): time.sleep(60)", timeout_s=5.0)
    assert found.timed_out
    assert not found.complete
    assert found.outcomes["test_it.py::test_a"] == "passed"


def test_a_file_that_cannot_be_imported_is_an_error_under_its_own_path(sandbox: GuestSandbox) -> None:
    found = run(sandbox, "import no_such_module")
    assert found.complete
    assert dict(found.outcomes) == {"test_it.py": "error"}
    assert "no_such_module" in found.messages["test_it.py"]


def test_the_workspace_stands_for_neither_pytest_nor_the_standard_library(sandbox: GuestSandbox) -> None:
    names = ("pytest.py", "json/__init__.py", "sitecustomize.py", "usercustomize.py", "_pytest/__init__.py")
    for name in names:
        sandbox.write(name, "raise SystemExit('fake')")
    sandbox.write("pytest.ini", "[pytest]\naddopts = --collect-only")
    try:
        found = run(sandbox, "import json\ndef test_a(): assert json.loads('1') == 1\ndef test_b(): assert False")
        assert sorted(found.outcomes.values()) == ["failed", "passed"]
    finally:
        for name in (*names, "pytest.ini"):
            sandbox.run(["rm", "-rf", name.partition("/")[0]])


def test_a_long_text_keeps_its_ends() -> None:
    assert shorten("abcdefgh", 4) == "ab\n[... 4 characters left out ...]\ngh"
    assert shorten("abcd", 4) == "abcd"
