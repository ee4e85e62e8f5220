"""Tasks by id and from a file, and what of them lies on the disk; no test of a package is run here."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from swe_packages import TINY, offer

from milepost.envs.swe.packages import PACKAGES
from milepost.envs.swe.tasks import SweTask, TaskId, base, default_ids, gold, read, texts, write
from milepost.recipes.evaluate.panel_file import read_panel


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SweTask:
    """The package ``tiny`` with a bug, whose tests nobody ran."""
    offer(tmp_path, monkeypatch)
    told = TaskId.parse("tiny-1.0:tiny.py:hard:3")
    return SweTask(str(told), "tiny", "1.0", "train", "hard", told.edits(), "?", ("t::a",), ("t::b",), 0.5)


def test_an_id_alone_gives_the_same_bug_again(task: SweTask) -> None:
    assert str(TaskId.parse(task.id)) == task.id
    assert TaskId.parse(task.id).edits() == task.edits
    assert TaskId.parse(task.id.replace(":3", ":4")).edits() != task.edits
    assert 2 <= len(task.edits) <= 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tiny", r"^SWE task: expected an id like inflection-0.5.1:inflection/__init__.py:easy:0, got 'tiny'$"),
        ("tini-1.0:tiny.py:easy:1", r"^no package 'tini' \(did you mean 'tiny'\?\)"),
        ("tiny-1.1:tiny.py:easy:1", "expected version 1.0 of tiny, got 1.1$"),
        ("tiny-1.0:tiny.py:simple:1", "expected a level of easy, medium, hard, got 'simple'$"),
        ("tiny-1.0:test_tiny.py:easy:1", "expected one of tiny.py, got test_tiny.py$"),
        ("tiny-1.0:../tiny.py:easy:1", "expected one of tiny.py, got ../tiny.py$"),
    ],
)
def test_what_is_no_id_is_refused(task: SweTask, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TaskId.parse(text).edits()


def test_the_base_has_the_bug_and_nothing_that_tells_the_fix(task: SweTask) -> None:
    folder = base(task)
    assert sorted(os.listdir(folder)) == ["setup.py", "test_tiny.py", "tiny.py"]
    buggy = (folder / "tiny.py").read_bytes()
    assert buggy == texts(task)["tiny.py"][0] != TINY.encode()
    assert base(task) == folder


def test_the_gold_patch_is_the_difference_from_the_bug_to_the_original(task: SweTask) -> None:
    lines = gold(task).splitlines()
    assert lines[:3] == ["diff --git a/tiny.py b/tiny.py", "--- a/tiny.py", "+++ b/tiny.py"]
    buggy, clean = (text.decode().splitlines() for text in texts(task)["tiny.py"])
    assert [line[1:] for line in lines[3:] if line[0] == "-"] == [line for line in buggy if line not in clean]
    assert all(line[1:] in clean for line in lines[3:] if line[0] == "+")


def test_a_patch_that_does_not_fit_the_package_is_one_line(task: SweTask) -> None:
    wrong = replace(task.edits[0], before="nothing like it")
    with pytest.raises(ValueError, match=r"^SWE task tiny-1.0:tiny.py:hard:3: tiny.py: the patch does not apply: exp"):
        base(replace(task, edits=(wrong,)))
    with pytest.raises(ValueError, match=r"the patch does not apply: the package has no '/etc/passwd'$"):
        gold(replace(task, edits=(replace(wrong, file="/etc/passwd"),)))


def test_tasks_come_back_from_a_file_as_they_were_written(task: SweTask, tmp_path: Path) -> None:
    file = tmp_path / "new" / "tasks.jsonl"
    other = replace(task, id="tiny-1.0:tiny.py:hard:4", statement="ä\n")
    write(file, [task, other])
    assert read(file) == [task, other]
    assert [path.name for path in file.parent.iterdir()] == ["tasks.jsonl"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("{", "expected JSON: Expecting property name"),
        ("[]", "expected an object, got list"),
        ({"statement": None}, "statement: expected str, got None"),
        ({"extra": 1}, "expected id, package, version, .*, got edits, extra, "),
        ({"fail_to_pass": [1]}, "expected lists of test ids"),
        ({"edits": [{"file": "a"}]}, "expected file, operator, begin, end, before, after, got file"),
        ({"level": "easy"}, "expected the package, version and level of its id"),
        ({"id": "x"}, "expected an id like"),
        ({"seconds": "1"}, "seconds: expected number, got '1'"),
        ({"edits": []}, "edits: expected at least one, got none"),
        ({"fail_to_pass": []}, "fail_to_pass: expected at least one, got none"),
        ({"split": "tset"}, "split: expected one of train, valid, test, got 'tset'"),
        ({}, "id: tiny-1.0:tiny.py:hard:3 is there twice"),
    ],
)
def test_a_broken_line_is_named_with_what_is_wrong(
    task: SweTask, tmp_path: Path, change: str | dict[str, object], message: str
) -> None:
    good = json.dumps(asdict(task))
    bad = change if isinstance(change, str) else json.dumps(asdict(task) | change)
    file = tmp_path / "tasks.jsonl"
    file.write_text(f"{good}\n{bad}\n")
    with pytest.raises(ValueError, match=rf"tasks.jsonl, line 2: .*{message}"):
        read(file)


def test_a_file_without_tasks_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(ValueError, match=r"empty.jsonl: expected tasks, one a line, got none$"):
        read(tmp_path / "empty.jsonl")


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^tasks: no file "):
        read(tmp_path / "none.jsonl")


def test_the_default_list_has_500_tasks_each_package_20_and_the_test_split_50() -> None:
    ids = default_ids()
    assert len(ids) == len(set(ids)) == 500
    per_package = {name: len(default_ids(names=[name])) for name in PACKAGES}
    assert min(per_package.values()) >= 20
    assert len(default_ids("test")) >= 50
    assert sum(len(default_ids(split)) for split in ("train", "valid", "test")) == 500
    levels = [TaskId.parse(one).level for one in ids]
    assert min(map(levels.count, ("easy", "medium", "hard"))) >= 100


def test_the_panel_has_fifty_tasks_of_the_test_split_balanced_over_packages_and_levels():
    (entry,) = read_panel("swe-mini").entries
    assert len(entry.tasks) == len(set(entry.tasks)) == 50
    assert set(entry.tasks) <= set(default_ids("test"))
    packages, levels = (Counter(task.split(":")[i] for task in entry.tasks) for i in (0, 2))
    assert len(packages) == 4
    assert min(packages.values()) >= 12
    assert set(levels.values()) == {16, 17}
