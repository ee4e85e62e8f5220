"""Bugs whose tests are really run, in a sandbox without isolation."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sandboxes import need
from swe_packages import TINY, offer, real_tools

from milepost.envs.swe import test_tools, trials
from milepost.envs.swe.build import build
from milepost.envs.swe.env import SweEnv
from milepost.envs.swe.mutate import Edit
from milepost.envs.swe.packages import PACKAGES, Package, package
from milepost.envs.swe.sources import source
from milepost.envs.swe.tasks import SweTask, TaskId, base, read, texts
from milepost.envs.swe.testing import TOOLS, TestRun, run_tests
from milepost.envs.swe.trials import Rejected, clean_run, task, trial
from milepost.recipes.cli import main
from milepost.sandbox.bases import prepare
from milepost.sandbox.core import Settings
from milepost.sandbox.make import make

ALL = ("test_tiny.py::test_middle", "test_tiny.py::test_start", "test_tiny.py::test_total", "test_tiny.py::test_turned")


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """A package of two files, with the real tools."""
    tools = real_tools()
    monkeypatch.setattr(test_tools, "tools", lambda: tools)
    return offer(tmp_path, monkeypatch)


@pytest.fixture
def judge(tiny: Package) -> Iterator[Callable[..., str]]:
    """Say what comes of edits, given as pairs of texts."""
    with trials._sandbox(tiny, "local") as sandbox:

        def say(*pairs: tuple[str, str], max_cpu_s: int = trials.MAX_CPU_S) -> str:
            edits = [edit(*pair) for pair in pairs]
            found = trials._judge(TaskId(tiny, "tiny.py", "easy", 0), edits, ALL, sandbox, max_cpu_s)
            return found if isinstance(found, str) else " ".join(test.partition("::")[2] for test in found.of("failed"))

        yield say


def edit(before: str, after: str) -> Edit:
    assert TINY.count(before) == 1, before
    begin = len(TINY[: TINY.index(before)].encode())
    return Edit("tiny.py", "?", begin, begin + len(before.encode()), before, after)


def test_a_bug_makes_a_task_only_if_some_tests_fail_always_and_each_edit_matters(
    judge: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = str(tmp_path / "flag")
    once = f"(4 if __import__('os').path.exists({flag!r}) else open({flag!r}, 'w') and 0)"
    seen_by_none = ("number < 50", "number <= 50")
    assert judge(("// 2", "* 2")) == "test_middle test_turned"
    assert judge(seen_by_none) == "nothing fails"
    assert judge(("result = start", "result = 1 / 0"), ("// 2", "* 2")) == "everything fails"
    assert judge(("def total", "def other")) == "does not import"
    assert judge(("// 2", "* 2"), seen_by_none) == "one of its edits breaks nothing"
    assert judge(("result = start", "import os; os._exit(0)")) == "crashes"
    assert judge(("(low + high) // 2", once)) == "flaky"
    assert judge(("result = start", "\n    while True: pass"), max_cpu_s=1) == "slow"


@pytest.mark.slow
def test_a_bug_that_was_too_slow_for_a_build_is_tried_again_with_patience_where_it_is_asked_for(
    tiny: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    burn = "import time\n    end = time.process_time() + 0.5"
    slow = edit("result = start", f"{burn}\n    while time.process_time() < end: pass\n    result = start + 1")
    monkeypatch.setattr(TaskId, "edits", lambda self: (slow,))
    asked = TaskId.parse("tiny-1.0:tiny.py:easy:1")
    assert trial(asked, "local", 1) == Rejected(str(asked), "slow", 1)
    assert task(str(asked), "local").fail_to_pass == (ALL[1], ALL[2])


@pytest.mark.parametrize("n", [1, 2])
def test_a_bug_whose_tests_waited_for_the_machine_is_tried_again(
    n: int, tiny: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TaskId, "edits", lambda self: (edit("// 2", "* 2"),))
    asked, real, runs = TaskId.parse("tiny-1.0:tiny.py:easy:2"), trials._run, list[TestRun]()
    clean_run(tiny, "local")

    def stalled(*args: Any) -> TestRun:
        runs.append(real(*args))
        return replace(runs[-1], complete=False, timed_out=True) if len(runs) == n else runs[-1]

    monkeypatch.setattr(trials, "_run", stalled)
    assert trial(asked, "local") == Rejected(str(asked), trials.WAITED, trials.MAX_CPU_S)
    assert isinstance(trial(asked, "local"), SweTask)


def test_a_task_is_known_after_its_runs_and_not_run_again(tiny: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TaskId, "edits", lambda self: (edit("// 2", "* 2"),))
    monkeypatch.setattr(trials, "_why_not", lambda run, clean, max_cpu_s: None)
    found = task("tiny-1.0:tiny.py:easy:1", "local")
    monkeypatch.setattr(trials, "_sandbox", None)
    assert task("tiny-1.0:tiny.py:easy:1", "local") == found
    assert clean_run(tiny)[0] == list(ALL)


def test_a_statement_names_failing_tests_and_assertions_and_the_file_only_where_it_is_easy(
    tiny: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TaskId, "edits", lambda self: (edit("// 2", "* 2"),))
    easy, medium = (task(f"tiny-1.0:tiny.py:{level}:1", "local") for level in ("easy", "medium"))
    assert easy.fail_to_pass == (ALL[0], ALL[3])
    assert easy.pass_to_pass == (ALL[1], ALL[2])
    assert medium.statement.startswith("There is a bug in tiny 1.0. These 2 tests fail:\n\ntest_tiny.py::test_middle\n")
    assert "assert 16 == 4" in medium.statement
    assert easy.statement == f"{medium.statement}\nThe bug is in tiny.py."
    assert "* 2" not in easy.statement


def test_a_bug_that_makes_no_task_is_refused_by_its_id_with_the_reason(
    tiny: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TaskId, "edits", lambda self: (edit("number < 50", "number <= 50"),))
    with pytest.raises(ValueError, match=r"^SWE task tiny-1.0:tiny.py:easy:1: makes no task here: nothing fails$"):
        task("tiny-1.0:tiny.py:easy:1", "local")
    assert isinstance(trial(TaskId.parse("tiny-1.0:tiny.py:easy:1")), Rejected)


def test_a_package_whose_tests_do_not_run_is_refused(tiny: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PACKAGES, "tiny", replace(tiny, tests=("test_tiny.py", "-knothing_like_it")))
    with pytest.raises(ValueError, match=r"^tiny 1.0: its own tests do not run here: "):
        clean_run(package("tiny"), "local")


def test_landlock_builds_and_plays_with_an_empty_cache_where_it_may_leave_limits_unenforced(
    tiny: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(TaskId, "edits", lambda self: (edit("// 2", "* 2"),))
    flags = ["--backend", need("landlock"), "--allow", "disk", "--allow", "processes"]
    with closing(SweEnv(backend="landlock", allow=["disk", "processes"])) as env:
        env.reset(options={"task": "tiny-1.0:tiny.py:easy:1"})
        assert env.runtime["sandbox"]["backend"] == "landlock"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    out = tmp_path / "tasks.jsonl"
    assert main(["swe", "build", "--out", str(out), "--packages", "tiny", "--n", "1", *flags]) == 0
    assert main(["swe", "verify", "--tasks", str(out), *flags]) == 0
    assert "backend landlock" in capsys.readouterr().out


@pytest.mark.slow
def test_a_build_gives_the_same_tasks_however_many_are_tried_at_once(
    tiny: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = []
    for jobs in (1, 3):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"cache-{jobs}"))
        built = build(3, [tiny], backend="local", jobs=jobs, seed=7)
        lists.append([replace(one, seconds=0.0) for one in built.tasks])
    assert lists[0] == lists[1]
    assert [len(one.edits) > 1 for one in lists[0]] == [one.level == "hard" for one in lists[0]]


def test_the_command_builds_tasks_of_a_real_package_that_their_gold_patches_resolve(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tools = real_tools()
    out = tmp_path / "tasks.jsonl"
    flags = ["--packages", "inflection", "--n", "2", "--backend", "local", "--json"]
    assert main(["swe", "build", "--out", str(out), *flags]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["n"], report["package"], report["short"]) == (2, {"inflection": 2}, {})
    for one in read(out):
        assert one.fail_to_pass
        sandbox = make("local", Settings(base=base(one), mounts={TOOLS: prepare(tools)}))
        try:
            found = run_tests(sandbox, one.tests)
            assert [test for test in one.fail_to_pass if found.outcomes[test] == "passed"] == []
            assert found.passed(one.pass_to_pass)
            for file, (_, clean) in texts(one).items():
                sandbox.write(file, clean)
            assert run_tests(sandbox, one.tests).passed([*one.fail_to_pass, *one.pass_to_pass])
        finally:
            sandbox.close()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--packages", "inflexion"], "no package 'inflexion' (did you mean 'inflection'?)"),
        (["--split", "dev"], "SWE split: expected one of train, valid, test, got 'dev'"),
        (["--allow", "dsk"], "allow: no limit 'dsk' (did you mean 'disk'?)"),
        (["--n", "0"], "--n: expected at least 1, got 0"),
        (["--n", "3"], "expected at least one task for each of"),
        (["--packages", "inflection", "--split", "test"], "none of them is in the split 'test'"),
    ],
)
def test_wrong_flags_are_one_line(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["swe", "build", "--out", str(tmp_path / "tasks.jsonl"), *flags]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", PACKAGES)
def test_the_tests_of_every_package_run_without_a_bug(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_tools()
    source(package(name))
    monkeypatch.setattr(trials, "_folder", lambda package: tmp_path)
    tests, seconds = clean_run(package(name), "local")
    assert len(tests) >= 60
    assert seconds < 10.0
