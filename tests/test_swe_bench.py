"""Tasks in the form of SWE-bench: written, read back, and graded."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from sandboxes import need
from swe_images import image_with
from swe_packages import TINY, offer, real_tools

from milepost.envs.swe import images, logs, tasks, test_tools
from milepost.envs.swe.bench import load, read, write
from milepost.envs.swe.env import SweEnv
from milepost.envs.swe.grade import Grade, grade
from milepost.envs.swe.instance import Instance
from milepost.envs.swe.mutate import Edit
from milepost.envs.swe.patch import changes
from milepost.envs.swe.problem import Problem
from milepost.envs.swe.tasks import SweTask
from milepost.sandbox.core import Limits, Node, Sandbox, Settings
from milepost.sandbox.make import make
from milepost.sandbox.pool import Pool

ALL = tuple(f"test_tiny.py::test_{name}" for name in ("middle", "start", "total", "turned"))
BUGS = {
    ("// 2", "* 2"): "middle turned",
    ("result = start", "result = 0"): "start",
    ("result + number", "result - number"): "start total",
    ("start=0", "start=1"): "total",
}
"""By the edit, the tests that fail."""
PUBLISHED = [
    *("instance_id", "repo", "base_commit", "patch", "test_patch", "problem_statement", "hints_text", "created_at"),
    *("version", "FAIL_TO_PASS", "PASS_TO_PASS", "environment_setup_commit"),
]
UNCONFINED = frozenset(field.name for field in fields(Limits))
FORMATS = pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(partial(make, "local"), 1) as found:
        yield found


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[SweTask]:
    """Four bugs of the package ``tiny``."""
    tools = real_tools()
    monkeypatch.setattr(test_tools, "tools", lambda: tools)
    offer(tmp_path, monkeypatch)
    found = []
    for n, ((before, after), names) in enumerate(BUGS.items()):
        begin = TINY.index(before)
        edit = Edit("tiny.py", "?", begin, begin + len(before), before, after)
        broken = tuple(f"test_tiny.py::test_{name}" for name in names.split())
        whole = tuple(test for test in ALL if test not in broken)
        told = f"tiny-1.0:tiny.py:easy:{n}"
        found.append(SweTask(told, "tiny", "1.0", "train", "easy", (edit,), f"mend {n}", broken, whole, 0.1))
    return found


def graded(problem: Problem, pool: Pool, diff: dict[str, Node | None] | None = None) -> Grade:
    """Grade a difference, or the gold patch."""

    def take(settings: Settings) -> AbstractContextManager[Sandbox]:
        return pool.take(replace(settings, allow=UNCONFINED))

    wanted = {file: None if clean is None else Node(data=clean) for file, (_, clean) in problem.texts.items()}
    return grade(problem, wanted if diff is None else diff, take)


@FORMATS
def test_what_was_written_has_the_published_columns_and_is_read_back_and_resolved_by_its_gold_patches(
    given: list[SweTask], pool: Pool, tmp_path: Path, suffix: str
) -> None:
    file = tmp_path / "out" / f"set{suffix}"
    written = write(file, given, hide_tests=suffix == ".jsonl")
    found = load(file)
    assert found == written == read(file)
    assert sorted(path.name for path in file.parent.iterdir()) == ["set", file.name]
    rows = {
        ".json": lambda: json.loads(file.read_text()),
        ".jsonl": lambda: [json.loads(line) for line in file.read_text().splitlines()],
        ".parquet": lambda: pyarrow.parquet.read_table(file).to_pylist(),
    }[suffix]()
    assert [list(row)[: len(PUBLISHED)] for row in rows] == [PUBLISHED] * 4
    assert rows[0]["FAIL_TO_PASS"] == json.dumps([ALL[0], ALL[3]])
    for one, task in zip(found, given, strict=True):
        problem = one.problem()
        assert (problem.statement, problem.fail_to_pass, problem.split) == (task.statement, task.fail_to_pass, "train")
        assert graded(problem, pool).result == "resolved"
        assert graded(problem, pool, {}).result == "empty_patch"
        assert (
            graded(
                problem, pool, {"tiny.py": Node(data=problem.base.joinpath("tiny.py").read_bytes() + b"#\n")}
            ).fail_to_pass
            == 0.0
        )


def test_hidden_tests_are_not_in_the_workspace_and_those_of_the_agent_do_not_count(
    given: list[SweTask], pool: Pool, tmp_path: Path
) -> None:
    problem = write(tmp_path / "set.json", given[:1], hide_tests=True)[0].problem()
    assert sorted(path.name for path in problem.base.iterdir()) == ["setup.py", "tiny.py"]
    assert list(problem.hidden) == ["test_tiny.py"]
    fake = Node(
        data=b"def test_middle(): pass\ndef test_turned(): pass\ndef test_start(): pass\ndef test_total(): pass\n"
    )
    buggy = Node(data=problem.base.joinpath("tiny.py").read_bytes() + b"#\n")
    found = graded(problem, pool, {"test_tiny.py": fake, "tiny.py": buggy})
    assert (found.result, found.fail_to_pass) == ("patch", 0.0)
    assert found.ignored == {"test_tiny.py": "a test, or a part of the tests"}


def test_a_file_of_our_own_is_read_as_such(given: list[SweTask], tmp_path: Path) -> None:
    tasks.write(tmp_path / "own.jsonl", given)
    assert read(tmp_path / "own.jsonl") == given


ROW: dict[str, Any] = {
    "instance_id": "a__b-1",
    "repo": "a/b",
    "base_commit": "0" * 40,
    "patch": "--- a/pkg/m.py\n+++ b/pkg/m.py\n@@ -1 +1 @@\n-x = 1\n+x = 2\n",
    "test_patch": "diff --git a/tests/test_m.py b/tests/test_m.py\nnew file mode 100644\n--- /dev/null\n"
    "+++ b/tests/test_m.py\n@@ -0,0 +1,5 @@\n+from pkg.m import x\n+def test_x():\n+    assert x == 2\n+def test_y():\n"
    "+    pass\n",
    "problem_statement": "x is wrong",
    "FAIL_TO_PASS": ["tests/test_m.py::test_x"],
    "PASS_TO_PASS": ["tests/test_m.py::test_y"],
}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The folder of the row's instance, beside a file ``set``, with a history that tells the fix."""
    folder = tmp_path / "set" / "a__b-1"
    for path, text in {"pkg/__init__.py": "", "pkg/m.py": "x = 1\n", "run.cfg": "", ".git/HEAD": "fix: x = 2"}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def one(tmp_path: Path, **more: Any) -> Instance:
    file = tmp_path / "set.jsonl"
    file.write_text(json.dumps({**ROW, **more}) + "\n")
    return load(file)[0]


def test_a_prepared_folder_is_played_without_its_history(repository: Path, tmp_path: Path) -> None:
    problem = one(tmp_path).problem()
    assert sorted(path.name for path in problem.base.iterdir()) == ["pkg", "run.cfg"]
    assert problem.tests == ("tests/test_m.py",)
    assert problem.texts == {"pkg/m.py": (b"x = 1\n", b"x = 2\n")}
    elsewhere = tmp_path / "other"
    shutil.move(repository, elsewhere)
    assert one(tmp_path, repository="other").problem().base == problem.base


def test_sources_of_a_repository_count_and_what_could_stand_for_its_tests_does_not(
    repository: Path, tmp_path: Path
) -> None:
    text = Node(data=b"y = 1\n")
    counted = ("pkg/m.py", "pkg/new.py", "pkg/__init__.py", "pkg/new/__init__.py", "pkg/new/sub/n.py")
    (repository / "src").mkdir()
    (repository / "src" / "notes.txt").touch()
    refused = (
        "pytest.py",
        "pytest/__init__.py",
        "src/json.py",
        "src/pytest/__init__.py",
        "pkg/new/conftest.py",
        "run.cfg",
        "tests/test_m.py",
        "conftest.py",
        "setup.cfg",
        "pkg/x.txt",
    )
    found, ignored = changes(one(tmp_path), dict.fromkeys((*counted, *refused), text))
    assert sorted(found) == sorted(counted)
    assert sorted(ignored) == sorted(refused)


def test_where_the_fix_changes_how_tests_are_run_its_configuration_is_put_when_it_is_graded(
    repository: Path, tmp_path: Path, pool: Pool, given: list[SweTask]
) -> None:
    (repository / "pytest.ini").write_text("[pytest]\naddopts = --collect-only\n")
    ini = "--- a/pytest.ini\n+++ b/pytest.ini\n@@ -1,2 +1 @@\n [pytest]\n-addopts = --collect-only\n"
    more = {"patch": ROW["patch"] + ini, "test_command": f"PYTHONPATH=.:{{tools}} {logs.PYTEST}"}
    problem = one(tmp_path, **more).problem()
    assert graded(problem, pool).result == "resolved"
    found = graded(problem, pool, {"pkg/m.py": Node(data=b"x = 2\n"), "pytest.ini": Node(data=b"[pytest]\n")})
    assert (found.result, found.ignored) == ("resolved", {"pytest.ini": "configuration"})
    found = graded(problem, pool, {"pytest.ini": Node(data=b"[pytest]\n")})
    assert found.result == "empty_patch"


def test_a_test_command_of_one_s_own_is_run_and_its_log_read(
    repository: Path, tmp_path: Path, pool: Pool, given: list[SweTask]
) -> None:
    problem = one(tmp_path, test_command=f"PYTHONPATH=.:{{tools}} {logs.PYTEST}").problem()
    assert graded(problem, pool).result == "resolved"
    found = graded(problem, pool, {"pkg/m.py": Node(data=b"x = 3\n")})
    assert (found.result, found.fail_to_pass, found.regressions) == ("patch", 0.0, ())
    killed = graded(problem, pool, {"pkg/m.py": Node(data=b"import os\nos.kill(os.getpid(), 9)\n")})
    assert (killed.result, killed.fail_to_pass) == ("patch", 0.0)


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("no_such_program {tests}", "PASS_TO_PASS, got: .*no_such_program.*not found"),
        ("python3 -m no_such_module {tests}", "PASS_TO_PASS, got: .*No module named no_such_module"),
        ("echo PASSED tests/test_m.py::test_z", "PASS_TO_PASS, got: PASSED tests/test_m.py::test_z"),
    ],
)
def test_a_command_that_does_not_run_the_tests_is_the_caller_s_mistake_and_no_failure_of_an_agent(
    repository: Path, tmp_path: Path, given: list[SweTask], command: str, why: str
) -> None:
    one(tmp_path, test_command=command)
    env = SweEnv(tasks=str(tmp_path / "set.jsonl"), backend="local")
    with closing(env), pytest.raises(ValueError, match=rf"^a__b-1: test_command: .*{why}$"):
        env.reset(options={"task": "a__b-1"})
    one(tmp_path, test_command=command, PASS_TO_PASS=[])
    env = SweEnv(tasks=str(tmp_path / "set.jsonl"), backend="local")
    with closing(env):
        if command.startswith("echo"):
            env.reset(options={"task": "a__b-1"})
        else:
            with pytest.raises(ValueError, match=r"^a__b-1: test_command: expected the outcomes of a test, got"):
                env.reset(options={"task": "a__b-1"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"instance_id": None}, "expected a value for instance_id; got instance_id, repo"),
        ({"patch": 5}, "patch: expected a text, got int 5$"),
        ({"FAIL_TO_PASS": "['a'"}, "FAIL_TO_PASS: expected a JSON list of test ids, got"),
        ({"FAIL_TO_PASS": "5"}, "FAIL_TO_PASS: expected a list of test ids, got 5$"),
        ({"PASS_TO_PASS": [["a"]]}, r"PASS_TO_PASS: expected a list of test ids, got \[\['a'\]\]$"),
        ({"FAIL_TO_PASS": []}, "FAIL_TO_PASS: expected at least one test, got none$"),
        ({"instance_id": "../x"}, r"instance_id: expected a name without slashes, got '\.\./x'$"),
        ({"log_parser": "pytst"}, r"no log parser 'pytst' \(did you mean 'pytest'\?\); there are: pytest, unittest$"),
        ({"instance_id": "first"}, "instance_id: first is there twice$"),
    ],
)
@FORMATS
def test_a_broken_row_is_named_with_what_is_wrong(
    tmp_path: Path, suffix: str, change: dict[str, Any], message: str
) -> None:
    file, rows = tmp_path / f"set{suffix}", [{**ROW, "instance_id": "first"}, {**ROW, **change}]
    if suffix == ".json":
        file.write_text(json.dumps(rows))
    elif suffix == ".jsonl":
        file.write_text("\n".join(map(json.dumps, rows)))
    else:  # whose columns have one type each
        kept = [{name: row[name] for name in row} for row in rows]
        for name in change:
            kept[0][name] = kept[1][name] if change[name] is not None and name != "instance_id" else kept[0][name]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(kept), file)
    where = r"(line|row) [12]" if suffix == ".parquet" else "line 2" if suffix == ".jsonl" else "row 2"
    with pytest.raises(ValueError, match=rf"set{suffix}, {where}: {message}"):
        load(file)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("set.jsonl", b'{"instance_id": 1\n', "line 1: expected JSON: Expecting"),
        ("set.jsonl", b"[]", "line 1: expected an object, got list"),
        ("set.json", b"{", ": expected JSON: Expecting"),
        ("set.json", b"{}", ": expected a list of objects, got dict"),
        ("set.parquet", b"PAR0", ": expected parquet: "),
        ("set.csv", b"", r": expected a file that ends in .json, .jsonl or .parquet"),
    ],
)
def test_a_file_that_is_none_is_one_line(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message) as raised:
        load(tmp_path / name)
    assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match=r"no file .*none\.json$"):
        load(tmp_path / "none.json")


def test_a_time_and_columns_that_nobody_knows_are_taken(tmp_path: Path) -> None:
    found = one(tmp_path, created_at=1700000000000, hints_text=None, FAIL_TO_PASS='["t"]', more={"a": 1})
    assert (found.created_at, found.hints_text, found.fail_to_pass) == ("1700000000000", "", ("t",))


def test_a_patch_that_does_not_apply_and_a_repository_that_is_not_there_are_one_line(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("patch", "test_patch"):
        wrong = ROW["patch"].replace("-x = 1", "-x = 5")
        with pytest.raises(ValueError, match=rf"^a__b-1: {name}: pkg/m.py: the patch does not apply: hunk 1 is not"):
            one(tmp_path, **{name: wrong}).problem()
        for wrong, said in (("garbage", ": expected a unified diff"), ("--- a/x\nx\n", r", line 2: expected \+\+\+")):
            with pytest.raises(ValueError, match=rf"^a__b-1: {name}{said}"):
                one(tmp_path, **{name: wrong}).problem()
    shutil.rmtree(repository)
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    with pytest.raises(ValueError, match=r"^a__b-1: no folder /.*/set/a__b-1; docker: ") as raised:
        one(tmp_path).problem()
    assert "\n" not in str(raised.value)


def test_a_repository_of_an_archive_has_its_hard_links_and_no_history(tmp_path: Path) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("testbed/pkg/a.py"))
        for name, kind, link in (
            ("testbed/b.py", tarfile.LNKTYPE, "testbed/pkg/a.py"),
            ("testbed/c.py", tarfile.SYMTYPE, "pkg/a.py"),
            ("testbed/.git/HEAD", tarfile.REGTYPE, ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, link
            tar.addfile(info)
    data.seek(0)
    images._unpack(data, tmp_path / "tree")
    assert sorted(path.name for path in (tmp_path / "tree").iterdir()) == ["b.py", "c.py", "pkg"]
    assert (tmp_path / "tree" / "b.py").samefile(tmp_path / "tree" / "pkg" / "a.py")


@pytest.mark.docker
def test_an_image_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    need("docker")
    published = r"docker: no image 'swebench/sweb.eval.x86_64.a_1776_b-1:latest' here: docker pull swebench/"
    with pytest.raises(ValueError, match=rf"^a__b-1: no folder /.*/set/a__b-1; {published}"):
        one(tmp_path).problem()


@pytest.mark.slow
@pytest.mark.docker
def test_an_image_that_its_repository_is_installed_in_for_development_tests_what_was_changed(
    tmp_path: Path, repository: Path
) -> None:
    need("docker")
    real_tools()
    (repository / "src").mkdir()
    (repository / "pkg").rename(repository / "src" / "pkg")
    with image_with(repository) as image:
        shutil.rmtree(repository)
        problem = one(tmp_path, image=image, patch=ROW["patch"].replace("pkg/m.py", "src/pkg/m.py")).problem()
        with Pool(partial(make, "docker"), 1) as pool:
            for value, result in ((2, "resolved"), (3, "patch")):
                diff: dict[str, Node | None] = {"src/pkg/m.py": Node(data=f"x = {value}\n".encode())}
                assert grade(problem, diff, pool.take).result == result


@pytest.mark.slow
@pytest.mark.docker
def test_an_instance_in_an_image_is_played_and_graded_in_it(tmp_path: Path, repository: Path) -> None:
    need("docker")
    real_tools()
    with image_with(repository) as image:
        shutil.rmtree(repository)
        problem = one(tmp_path, image=image).problem()
        assert sorted(path.name for path in problem.base.iterdir()) == ["pkg", "run.cfg"]
        with Pool(partial(make, "docker"), 1) as pool:
            gold: dict[str, Node | None] = {"pkg/m.py": Node(data=b"x = 2\n")}
            assert grade(problem, gold, pool.take).result == "resolved"
            wrong: dict[str, Node | None] = {"pkg/m.py": Node(data=b"x = 3\n")}
            assert grade(problem, wrong, pool.take).fail_to_pass == 0.0
            with pool.take(problem.settings()) as sandbox:
                assert sandbox.run("cat /testbed/pkg/m.py .git/HEAD /testbed/.git/HEAD").output.count("x = ") == 1
        with pytest.raises(ValueError, match="only docker has images"):
            make("bubblewrap", problem.settings())
        with pytest.raises(ValueError, match="has no folder /testbed"), image_with(None) as other:
            one(tmp_path, image=other).problem()
