"""The tools of a repairing agent: what each answers, refuses, and leaves out."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from sandboxes import open_one
from swe_envs import EASY, MIDDLE, START, TOTAL, TURNED, tiny_tasks

from milepost.envs.swe import test_tools
from milepost.envs.swe.answers import Room
from milepost.envs.swe.problem import of_task
from milepost.envs.swe.tasks import base
from milepost.envs.swe.testing import TOOLS
from milepost.envs.swe.tools import Workbench
from milepost.envs.tool_schema import ToolError
from milepost.sandbox.bases import prepare
from milepost.sandbox.client import GuestSandbox
from milepost.sandbox.core import Settings


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuestSandbox]:
    with tiny_tasks(tmp_path_factory.mktemp("swe")):
        settings = Settings(base(EASY), {TOOLS: prepare(test_tools.tools())})
        with open_one("bubblewrap", settings) as one:
            yield one


@pytest.fixture
def bench(sandbox: GuestSandbox) -> Workbench:
    return on(sandbox)


def on(sandbox: GuestSandbox, room: Room | None = None) -> Workbench:
    """Return tools on a sandbox that is as new."""
    sandbox.reset()
    made = Workbench(room or Room(), lambda: "handed in")
    made.begin(sandbox, of_task(EASY))
    return made


def text_of(sandbox: GuestSandbox, file: str = "tiny.py") -> str:
    return sandbox.read(file).decode()


def test_open_shows_numbered_lines_around_one_and_scroll_goes_on_from_there(sandbox: GuestSandbox):
    bench = on(sandbox, Room(lines=4))
    with pytest.raises(ToolError, match="No file is open"):
        bench.scroll()
    assert bench.open("tiny.py", 6) == (
        "tiny.py, lines 4-7 of 16:\n4|def total(numbers, start=0):\n5|    result = start\n"
        "6|    for number in numbers:\n7|        if number > 100 and number < 50:"
    )
    assert bench.scroll("down").startswith("tiny.py, lines 8-11 of 16:\n8|            result += 1")
    assert bench.scroll("up").startswith("tiny.py, lines 4-7 of 16:")
    assert bench.scroll("up").startswith("tiny.py, lines 1-4 of 16:")
    assert [bench.scroll() for _ in range(9)][-1].startswith("tiny.py, lines 13-16 of 16:")


def test_lines_are_numbered_as_python_numbers_them(bench: Workbench, sandbox: GuestSandbox):
    sandbox.write("odd.py", "a = 1\n\x0cb = '\u2028'\nc = 3\n")
    assert bench.open("odd.py").startswith("odd.py, lines 1-3 of 3:")
    assert bench.search("c = 3", "odd.py") == "1 match:\nodd.py:3:c = 3"


def test_a_long_line_and_a_long_file_are_cut_and_it_is_said(sandbox: GuestSandbox):
    bench = on(sandbox, Room(lines=40, chars=500))
    sandbox.write("long.txt", "x" * 1000 + "\n" + "short\n" * 500)
    first, *lines = bench.open("long.txt").split("\n")
    assert lines[0] == "1|" + "x" * 198 + " [... 802 characters more]"
    assert len("\n".join(lines)) <= 500
    assert first == f"long.txt, lines 1-{len(lines)} of 501:"
    found = bench.search("short").split("\n")
    assert found[0] == "500 matches:"
    assert found[-1] == f"[... {500 - (len(found) - 2)} left out; ask for something narrower ...]"
    assert len("\n".join(found[1:-1])) <= 500


@pytest.mark.parametrize(
    ("file", "line", "said"),
    [
        ("nothing.py", 1, "nothing.py"),
        ("/etc/passwd", 1, "Expected a path of the workspace"),
        ("../x", 1, "Expected a path of the workspace"),
        ("a\0b", 1, "Expected a path of the workspace"),
        ("out", 1, "out"),
        ("tiny.py", 17, "tiny.py has 16 lines, got line 17"),
        ("tiny.py", 0, "tiny.py has 16 lines, got line 0"),
        ("binary", 1, "binary is no text"),
        (".", 1, "."),
    ],
)
def test_what_cannot_be_opened_is_said(bench: Workbench, sandbox: GuestSandbox, file: str, line: int, said: str):
    sandbox.write("binary", b"\xff\xfe\x00")
    sandbox.run("ln -s /etc/passwd out")
    with pytest.raises(ToolError) as error:
        bench.open(file, line)
    assert said in str(error.value)


def test_search_takes_a_text_as_it_stands_and_lists_places_in_order(bench: Workbench):
    assert bench.search("middle(") == (
        "3 matches:\ntest_tiny.py:5:def test_middle(): assert middle(2, 6) == 4\n"
        "test_tiny.py:6:def test_turned(): assert middle(9, 3) == 6\ntiny.py:13:def middle(low, high):"
    )
    assert bench.search("mid.le") == "0 matches."
    assert bench.search("-r", "test_tiny.py") == "0 matches."
    for text, path, said in (("", ".", "a text within a line"), ("a\nb", ".", "a text within"), ("a", "no", "no 'no'")):
        with pytest.raises(ToolError, match=said):
            bench.search(text, path)


def test_find_takes_a_part_of_a_name_a_pattern_or_a_path(bench: Workbench, sandbox: GuestSandbox):
    sandbox.write("deep/folder/tiny.txt", "")
    assert bench.find("tiny.py") == "2 files:\ntest_tiny.py\ntiny.py"
    assert bench.find("t*y.py") == "2 files:\ntest_tiny.py\ntiny.py"
    assert bench.find("folder/tiny") == "1 file:\ndeep/folder/tiny.txt"
    assert bench.find("nothing") == "0 files."


def test_an_edit_replaces_a_text_that_is_there_once_and_shows_the_place(bench: Workbench, sandbox: GuestSandbox):
    before = text_of(sandbox)
    shown = bench.edit("tiny.py", "(low + high) * 2", "(low + high) // 2")
    assert shown == (
        "Edited. tiny.py, lines 14-16 of 16:\n14|    if low > high:\n15|        low, high = high, low\n"
        "16|    return (low + high) // 2"
    )
    assert text_of(sandbox) == before.replace("* 2", "// 2")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("nothing like it", "x", "the old text is not in tiny.py"),
        ("5|    result = start", "x", "the old text is not in tiny.py"),
        ("number", "x", "more than once"),
        ("", "x = 1\n", "is there already; an empty old text makes a new file"),
        ("low > high", "low > high", "are the same"),
        ("return result", "return (result", "would not be Python any more: line 10: '(' was never closed"),
        ("    return result", "  return result", "would not be Python any more: line 10: unindent"),
    ],
)
def test_an_edit_that_cannot_be_is_refused_and_changes_nothing(
    bench: Workbench, sandbox: GuestSandbox, old: str, new: str, said: str
):
    with pytest.raises(ToolError) as error:
        bench.edit("tiny.py", old, new)
    assert said in str(error.value)
    assert sandbox.diff() == {}


def test_two_places_that_overlap_are_two(bench: Workbench, sandbox: GuestSandbox):
    sandbox.write("a.txt", "aaa")
    with pytest.raises(ToolError, match="more than once"):
        bench.edit("a.txt", "aa", "b")


def test_what_would_break_a_parser_is_no_python(bench: Workbench, sandbox: GuestSandbox):
    for text in ("(" * 5000 + ")" * 5000, "-" * 100_000 + "1", "x = '\\N{'", "\0", "# coding: nothing\n"):
        with pytest.raises(ToolError, match=r"would not be Python any more: |NUL"):
            bench.edit("new.py", "", text)
    assert sandbox.diff() == {}


def test_an_empty_old_text_makes_a_file_where_there_is_none(bench: Workbench, sandbox: GuestSandbox):
    assert bench.edit("pkg/new.py", "", "x = 1\n").startswith("Edited. pkg/new.py, lines 1-1 of 1:\n1|x = 1")
    assert text_of(sandbox, "pkg/new.py") == "x = 1\n"
    with pytest.raises(ToolError, match=r"nothing\.py"):
        bench.edit("nothing.py", "x", "y")


def test_an_edit_keeps_what_a_file_may_and_writes_through_no_link(bench: Workbench, sandbox: GuestSandbox):
    sandbox.write("run.sh", "echo a\n", mode=0o755)
    bench.edit("run.sh", "echo a", "echo b")
    assert sandbox.run("./run.sh").output == "b\n"
    sandbox.run("ln -s /tmp/elsewhere link; echo x > /tmp/elsewhere")
    with pytest.raises(ToolError):
        bench.edit("link", "", "y")
    assert sandbox.run("cat /tmp/elsewhere").output == "x\n"


def test_tests_are_those_of_the_statement_or_those_that_are_named(bench: Workbench):
    assert bench.run_tests() == (
        f"0 of 2 tests pass.\n{MIDDLE}\n    assert 16 == 4\n     +  where 16 = middle(2, 6)\n"
        f"{TURNED}\n    assert 24 == 6\n     +  where 24 = middle(9, 3)"
    )
    assert bench.run_tests("all").startswith("2 of 4 tests pass.")
    assert bench.run_tests("test_tiny.py").startswith("2 of 4 tests pass.")
    assert bench.run_tests(f"{START}\n{TOTAL}") == "2 of 2 tests pass."
    assert bench.run_tests("nothing.py").startswith(
        "The tests did not come to their end.\nERROR: file or directory not"
    )
    with pytest.raises(ToolError, match="expected files or test ids"):
        bench.run_tests("--collect-only")
    assert bench.done == ["tests"] * 5


@pytest.mark.parametrize(
    ("code", "timeout_s", "said"),
    [
        ("while True: pass", 3.0, "The tests took longer than 3 s and were stopped."),
        ("import os; os._exit(0)", 60.0, "The tests did not come to their end."),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 60.0, "The tests did not come to their end."),
        ("x = bytearray(1 << 33)", 60.0, "MemoryError"),
        ("import os\nwhile True: os.write(1, b'y' * 65536)", 3.0, "were stopped|No space left on device"),
        ("print('z' * 100_000)", 60.0, "0 of 2 tests pass."),
    ],
)
def test_what_tested_code_does_to_itself_is_told_in_few_words(
    sandbox: GuestSandbox, code: str, timeout_s: float, said: str
):
    bench = on(sandbox, Room(chars=600, timeout_s=timeout_s))
    sandbox.write("tiny.py", f"{code}\n{text_of(sandbox)}")
    answer = bench.run_tests()
    assert re.search(said, answer)
    assert len(answer) < 700
    assert sandbox.run("echo alive").output == "alive\n"


def test_a_text_is_cut_in_its_middle_and_it_is_said():
    room = Room(lines=4, chars=40)
    assert room.cut("1\n2\n3\n4") == "1\n2\n3\n4"
    assert room.cut("1\n2\n3\n4\n5\n6\n7") == "1\n2\n[... 3 lines left out ...]\n6\n7"
    assert room.cut("a" * 30 + "b" * 30) == "a" * 20 + "\n[... 20 characters left out ...]\n" + "b" * 20
