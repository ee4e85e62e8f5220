"""What of an agent's changes counts, and patches as text; no test of a package is run here."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from swe_packages import offer

from milepost.envs.swe import patch, problem
from milepost.envs.swe.packages import PACKAGES
from milepost.envs.swe.patch import MAX_FILE, MAX_FILES, MAX_IGNORED, apply_text, changes, unified
from milepost.envs.swe.tasks import SweTask, TaskId, base, default_ids, gold, texts
from milepost.sandbox.core import Node

LINES = st.lists(st.sampled_from([b"a\n", b"b\n", b"\n", b"c\r\n", b"\x0cd\n", b" \n", "ä\n".encode()]), max_size=30)
CONTENT = st.builds(lambda lines, end: b"".join(lines) + end, LINES, st.sampled_from([b"", b"x", b"\xff"]))


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SweTask:
    """The package ``tiny`` with a bug, whose tests nobody ran."""
    offer(tmp_path, monkeypatch)
    told = TaskId.parse("tiny-1.0:tiny.py:hard:3")
    return SweTask(str(told), "tiny", "1.0", "train", "hard", told.edits(), "?", ("t::a",), ("t::b",), 0.5)


@pytest.fixture
def nested(task: SweTask, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SweTask:
    """The same over a base whose sources are in folders, with tests in between."""
    tree = tmp_path / "tree"
    for path in ("src/pkg/__init__.py", "src/pkg/sub/a.py", "src/pkg/tests/test_a.py", "tests/test_b.py", "setup.py"):
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text("old\n")
    for name, value in (("base", tree), ("texts", {}), ("gold", "")):
        monkeypatch.setattr(problem, name, lambda task, value=value: value)
    monkeypatch.setitem(PACKAGES, "tiny", replace(PACKAGES["tiny"], modules=("src/pkg/*.py", "src/pkg/sub/*.py")))
    return task


def test_sources_of_the_package_count_also_new_and_deleted_ones(nested: SweTask) -> None:
    new = Node(data=b"x = 1\n")
    diff = {
        "src/pkg/__init__.py": new,
        "src/pkg/sub/a.py": None,
        "src/pkg/more/b.py": new,
        "src/pkg/more": Node("folder"),
    }
    counted = {"src/pkg/__init__.py": b"x = 1\n", "src/pkg/sub/a.py": None, "src/pkg/more/b.py": b"x = 1\n"}
    assert changes(nested, diff) == (counted, {})


@pytest.mark.parametrize(
    ("path", "node", "why"),
    [
        ("tests/test_b.py", Node(data=b"pass\n"), "a test, or a part of the tests"),
        ("tests/test_b.py", None, "a test, or a part of the tests"),
        ("src/pkg/tests/test_a.py", None, "a test, or a part of the tests"),
        ("src/pkg/test_new.py", Node(data=b"pass\n"), "a test, or a part of the tests"),
        ("src/pkg/conftest.py", Node(data=b"pass\n"), "a test, or a part of the tests"),
        ("conftest.py", Node(data=b"pass\n"), "a test, or a part of the tests"),
        ("pytest.ini", Node(data=b"[pytest]\n"), "configuration"),
        ("pyproject.toml", Node(data=b""), "configuration"),
        ("src/pkg/tox.ini", Node(data=b""), "configuration"),
        ("setup.cfg", Node(data=b""), "configuration"),
        ("setup.py", Node(data=b""), "configuration"),
        ("sitecustomize.py", Node(data=b""), "is run when Python starts"),
        ("src/pkg/usercustomize/__init__.py", Node(data=b""), "is run when Python starts"),
        ("src/pkg/x.pth", Node(data=b""), "is run when Python starts"),
        ("src/pkg/__pycache__/a.cpython-311.pyc", Node(data=b""), "byte code"),
        ("src/pkg/sub/a.py", Node("link", b"/workspace/b.py"), "a symbolic link"),
        ("src/pkg/_fast.so", Node(data=b"\x7fELF"), "outside of the package's sources"),
        ("pytest.py", Node(data=b""), "outside of the package's sources"),
        ("src/json.py", Node(data=b""), "outside of the package's sources"),
        ("src/pkg2/a.py", Node(data=b""), "outside of the package's sources"),
        ("src/pkg/sub/a.py/b.py", Node(data=b""), "a file is in the place of its folder"),
        ("src/pkg/sub/a.py", Node(data=b"old\n", mode=0o755), "only its permissions changed"),
        ("src/pkg/sub/a.py", Node(data=b"\xff"), "not UTF-8"),
        ("src/pkg/sub/a.py", Node(data=b"a\0"), "has a NUL byte"),
        ("src/pkg/sub/a\n.py", Node(data=b"a"), "has an odd name"),
        ("src/pkg/sub/a.py", Node(data=b" " * (MAX_FILE + 1)), f"larger than {MAX_FILE} bytes"),
    ],
)
def test_what_does_not_count_is_told_with_the_reason(nested: SweTask, path: str, node: Node | None, why: str) -> None:
    assert changes(nested, {path: node}) == ({}, {path: why})


def test_a_workspace_full_of_files_is_told_in_few_words(nested: SweTask) -> None:
    diff = {f"src/pkg/m{n:03}.py": Node(data=b"") for n in range(MAX_FILES + 2)}
    diff |= {f"notes/{n:03}.txt": Node(data=b"") for n in range(MAX_IGNORED)}
    counted, ignored = changes(nested, diff)
    assert len(counted) == MAX_FILES
    assert len(ignored) == MAX_IGNORED + 1
    assert ignored["..."] == "and 2 more"


def test_the_file_of_every_default_task_counts() -> None:
    files = {TaskId.parse(one).file for one in default_ids()}
    assert [file for file in files if patch.TESTS.search(file) or patch.CONFIGURATION.search(file)] == []
    assert [file for file in files if patch.STARTUP.search(file)] == []


def test_the_gold_patch_makes_the_clean_files_of_the_buggy_ones(task: SweTask) -> None:
    made = apply_text(gold(task), lambda path: (base(task) / path).read_bytes())
    assert made == {file: clean for file, (_, clean) in texts(task).items()}


def test_a_patch_reads_as_git_writes_it() -> None:
    before = {"p/a.py": b"1\n2\n3\n4\n5\n6\n7\n8\n9", "old.py": b"x\n", "empty.py": b""}
    after = {
        "p/a.py": b"1\n2\n3\n4\n5\nsix\n7\n8\n9\n",
        "old.py": None,
        "empty.py": None,
        "new.py": b"",
        "b.py": b"y\n",
    }
    assert unified(before, after).splitlines() == [
        "diff --git a/b.py b/b.py",
        "new file mode 100644",
        "--- /dev/null",
        "+++ b/b.py",
        "@@ -0,0 +1 @@",
        "+y",
        "diff --git a/empty.py b/empty.py",
        "deleted file mode 100644",
        "diff --git a/new.py b/new.py",
        "new file mode 100644",
        "diff --git a/old.py b/old.py",
        "deleted file mode 100644",
        "--- a/old.py",
        "+++ /dev/null",
        "@@ -1 +0,0 @@",
        "-x",
        "diff --git a/p/a.py b/p/a.py",
        "--- a/p/a.py",
        "+++ b/p/a.py",
        "@@ -3,7 +3,7 @@",
        " 3",
        " 4",
        " 5",
        "-6",
        "+six",
        " 7",
        " 8",
        "-9",
        "\\ No newline at end of file",
        "+9",
    ]


@settings(max_examples=200, deadline=None)
@given(before=st.dictionaries(st.sampled_from("abc"), CONTENT), after=st.dictionaries(st.sampled_from("abc"), CONTENT))
def test_a_patch_applied_gives_what_it_was_made_of(before: dict[str, bytes], after: dict[str, bytes]) -> None:
    wanted = {path: after.get(path) for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert apply_text(unified(before, wanted), before.get) == wanted


def test_git_applies_our_patches_and_we_apply_git_s(tmp_path: Path) -> None:
    old = {"p/a.py": b"1\n2\n3\n4\n5\n6\n7\n8\n", "gone.py": b"x", "empty.py": b"", "moved here.py": b"q\n" * 30}
    new = {"p/a.py": b"0\n1\n2\n3\n4\n5\n6\n8", "n\u00e4w.py": b"", "moved there.py": b"q\n" * 30 + b"r\n"}
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org"]

    def write(files: dict[str, bytes]) -> None:
        subprocess.run([*git, "rm", "-rfq", "--ignore-unmatch", "."], check=True)
        for path, data in files.items():
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).write_bytes(data)
        subprocess.run([*git, "add", "-A"], check=True)

    subprocess.run([*git, "init", "-q"], check=True)
    write(old)
    subprocess.run([*git, "commit", "-qm", "old"], check=True)
    write(new)
    theirs = subprocess.run([*git, "diff", "--cached"], check=True, capture_output=True).stdout.decode()
    assert "rename from" in theirs
    assert '"b/n\\303\\244w.py"' in theirs
    wanted = dict.fromkeys(old) | new
    assert apply_text(theirs, old.get) == wanted
    subprocess.run([*git, "reset", "-q", "--hard"], check=True)
    subprocess.run([*git, "apply", "-"], check=True, input=unified(old, wanted).encode())
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.py")}
    assert {path: (tmp_path / path).read_bytes() for path in found} == new


def test_a_hunk_is_found_elsewhere_only_if_it_is_there_once() -> None:
    text = "--- a/x\n+++ b/x\n@@ -1,2 +1,2 @@\n a\n-b\n+c\n"
    assert apply_text(text, {"x": b"0\na\nb\n"}.get) == {"x": b"0\na\nc\n"}
    with pytest.raises(ValueError, match=r"^x: the patch does not apply: hunk 1 is not found at line 1$"):
        apply_text(text, {"x": b"0\na\nb\na\nb\n"}.get)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("--- a/x\n+++ b/x\n@@ -1 +1 @@\n-1\n+2\n@@ -3 +3 @@\n-3\n+4\n", "^x: .*: hunk 2 is not found at line 3$"),
        ("--- a/y\n+++ b/y\n@@ -1 +1 @@\n-1\n+2\n", "^y: the patch does not apply: there is no such file$"),
        ("--- /dev/null\n+++ b/x\n@@ -0,0 +1 @@\n+2\n", "^x: .*: it is to be a new file, and there is one$"),
        ("--- a/x\n+++ /dev/null\n@@ -1 +0,0 @@\n-1\n", "^x: .*: it deletes the file and leaves 1 lines$"),
        ("--- a/x\n+++ b/x\n@@ -1,2 +1 @@\n-1\n", r"^patch, line 5: expected 2 old and 1 new lines in the hunk$"),
        ("--- a/x\n@@ -1 +1 @@\n", r"^patch, line 2: expected \+\+\+ after ---$"),
        ("@@ -1 +1 @@\n-1\n+2\n", "^patch, line 1: expected a file before the hunk$"),
        ("--- a/../x\n+++ b/../x\n@@ -1 +1 @@\n-1\n+2\n", r"expected paths below a folder, got '\.\./x'$"),
        ("diff --git a/x b/x\nGIT binary patch\n", "^patch, line 2: expected a text, got a binary file: x$"),
        ("nothing\n", "^patch: expected a unified diff, got one without a file$"),
    ],
)
def test_a_patch_that_does_not_apply_is_one_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        apply_text(text, {"x": b"1\n2\n"}.get)


def test_lines_chosen_to_make_a_comparison_slow_are_replaced_whole() -> None:
    one, other = (b"".join(b"%d\n" % (n * step % 5003) for n in range(5003)) for step in (2, 3))
    text = unified({"x": one}, {"x": other})
    assert text.count("\n@@ ") == 1
    assert apply_text(text, {"x": one}.get) == {"x": other}
