"""The tools of an agent that repairs a package: look, search, edit, run tests. Each answer is short and stable."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Sequence
from typing import Literal

from milepost.envs.swe.answers import MAX_LINE, Room, listed, tested, window
from milepost.envs.swe.problem import MEMORY, Problem
from milepost.envs.swe.testing import PYTHON
from milepost.envs.tool_schema import ToolError
from milepost.sandbox.core import Result, Sandbox

NAMES = ("open", "scroll", "search", "find", "edit", "run_tests", "submit")
MAX_FILE = 1 << 20
"""Bytes of a file that is opened or edited."""
FIND_S = 20.0
AROUND = 2
"""Lines shown before and after an edit."""
SYNTAX = (
    "import ast, sys, warnings\nwarnings.simplefilter('ignore')\n"
    "try: ast.parse(sys.stdin.buffer.read())\n"
    "except SyntaxError as error: sys.exit(f'line {error.lineno}: {error.msg}')\n"
    "except Exception as error: sys.exit(f'{type(error).__name__}: {error}')"
)
"""Run by the Python that runs the tests; what an agent wrote is not parsed outside its sandbox."""


class Workbench:
    """The tools, on the sandbox of the present episode."""

    def __init__(self, room: Room, submit: Callable[[], str]) -> None:
        self._room, self._submit = room, submit
        self._sandbox: Sandbox
        self._problem: Problem
        self.view: tuple[str, int] | None = None
        """The file that is open, and its first line that is shown."""
        self.done: list[Literal["edit", "tests"]] = []
        """Edits, and runs of tests, in order."""

    def begin(self, sandbox: Sandbox, problem: Problem) -> None:
        """Work on a problem from now on."""
        self._sandbox, self._problem, self.view, self.done = sandbox, problem, None, []

    def open(self, file: str, line: int = 1) -> str:
        """Show the lines of a file around one.

        Args:
            file: Its path.
            line: The line in the middle.
        """
        n = len(_lines(self._text(file)))
        if not 1 <= line <= max(n, 1):
            raise ToolError(f"{file} has {n} lines, got line {line}.")
        return self._window(file, line - self._room.lines // 2)

    def scroll(self, direction: Literal["down", "up"] = "down") -> str:
        """Show what follows or precedes in the open file."""
        if self.view is None:
            raise ToolError("No file is open.")
        file, first = self.view
        return self._window(file, first + (self._room.lines if direction == "down" else -self._room.lines))

    def search(self, text: str, path: str = ".") -> str:
        """Find a text in files.

        Args:
            text: It, within a line, as it stands there.
            path: A file or folder.
        """
        if not text or "\n" in text:
            raise ToolError(f"search: expected a text within a line, got {text!r:.80}.")
        # Sorted in there: the order of folders differs between file systems, and the end may not be shown.
        command = (
            'set -o pipefail; [ -e "$2" ] || exit 66; '
            'grep -rnHIF --exclude-dir=.git -e "$1" -- "$2" | LC_ALL=C sort -t: -k1,1 -k2,2n'
        )
        found = self._run(["/bin/bash", "-c", command, "search", text, self._below(path)])
        if found.exit_code == 66:
            raise ToolError(f"There is no {path!r}.")
        return self._list("match", "matches", found)

    def find(self, name: str) -> str:
        """Find files by their name.

        Args:
            name: A part of it, or a pattern such as *_test.py.
        """
        pattern = name if any(sign in name for sign in "*?[") else f"*{name}*"
        test = "-path" if "/" in name else "-name"
        if test == "-path":
            pattern = f"*{pattern}"
        command = 'find . -name .git -prune -o -type f "$1" "$2" -print | LC_ALL=C sort'
        return self._list("file", "files", self._run(["/bin/bash", "-c", command, "find", test, pattern]))

    def edit(self, file: str, old: str, new: str) -> str:
        """Replace a text of a file; it has to be there exactly once.

        Args:
            file: Its path.
            old: The text as it stands there, without line numbers; empty for a new file.
            new: What comes in its place.
        """
        text = self._text(file, new=not old)
        if old == new:
            raise ToolError("Not edited: the old text and the new one are the same.")
        at = text.find(old)
        if old and at < 0:
            raise ToolError(f"Not edited: the old text is not in {file}. Copy it as it stands there, indentation too.")
        if text and not old:
            raise ToolError(f"Not edited: {file} is there already; an empty old text makes a new file.")
        if old and text.rfind(old) != at:
            raise ToolError(f"Not edited: the old text is in {file} more than once. Copy more lines around it.")
        edited = text[:at] + new + text[at + len(old) :]
        if len(edited.encode()) > MAX_FILE:
            raise ToolError(f"Not edited: expected a file of at most {MAX_FILE} bytes.")
        if file.endswith(".py") and (why := self.syntax_error(edited)):
            raise ToolError(f"Not edited: {file} would not be Python any more: {why}.")
        self._write(file, edited)
        self.done.append("edit")
        line = text.count("\n", 0, at) + 1
        first, last = max(line - AROUND, 1), min(line + new.count("\n") + AROUND, len(_lines(edited)))
        return f"Edited. {self._window(file, first, max(last - first + 1, 1))}"

    def run_tests(self, tests: str = "") -> str:
        """Run tests: those that failed at first, or others.

        Args:
            tests: Files or test ids, one a line; "all" for all.
        """
        words = [line.strip() for line in tests.splitlines() if line.strip()]
        if any(word.startswith("-") for word in words):
            raise ToolError(f"run_tests: expected files or test ids, one a line, got {tests!r:.80}.")
        problem = self._problem
        ids = words or shown(problem)
        options = [word for word in problem.tests if word.startswith("-")]
        if words != ["all"] and ids and {*ids} <= {*problem.fail_to_pass, *problem.pass_to_pass}:
            files = [*options, *dict.fromkeys(test.partition("::")[0] for test in ids)]
        else:
            # Of hidden tests nothing is told, not even by the error that they are not there.
            there = [word for word in problem.tests if word in options or (problem.base / word).exists()]
            files, ids = there if words in ([], ["all"]) else [*options, *words], []
        try:
            found = problem.run(self._sandbox, ids or None, self._room.timeout_s, tests=files, memory=MEMORY)
        except ValueError as error:
            raise ToolError(f"run_tests: {error}.") from None
        self.done.append("tests")
        return self._room.cut(tested(found, self._room.timeout_s))

    def submit(self) -> str:
        """Hand in the package as it is. This ends the task."""
        return self._submit()

    def syntax_error(self, text: str) -> str:
        """Return what is wrong with a text as Python, nothing if it is Python."""
        python = PYTHON if self._problem.image is None else "python3"
        found = self._run([python, "-I", "-S", "-c", SYNTAX], text.encode("utf-8", "surrogateescape"))
        if found.exit_code == 0:
            return ""
        return (found.output.strip().splitlines() or ["it cannot be read"])[-1][:MAX_LINE]

    def _window(self, file: str, first: int, n: int | None = None) -> str:
        """Show lines of a file, and have it open there."""
        text, first = window(file, _lines(self._text(file)), first, n or self._room.lines, self._room)
        self.view = file, first
        return text

    def _list(self, one: str, several: str, found: Result) -> str:
        if found.timed_out:
            raise ToolError(f"This took longer than {FIND_S:g} s.")
        lines = found.head.decode("utf-8", "backslashreplace").splitlines()
        rows = [line.removeprefix("./") for line in lines]
        return listed(rows, one, several, self._room, found.n_omitted > 0)

    def _text(self, file: str, new: bool = False) -> str:
        """Return a file's text; the empty one of a file that is to be made."""
        path = self._below(file)
        try:
            return self._sandbox.read(path, max_bytes=MAX_FILE).decode()
        except UnicodeDecodeError:
            raise ToolError(f"{file} is no text.") from None
        except ValueError as error:
            if new and self._run(["test", "-e", path, "-o", "-L", path]).exit_code:
                return ""
            raise ToolError(f"{file}: {error}." if file not in str(error) else f"{error}.") from None

    def _write(self, file: str, text: str) -> None:
        path = self._below(file)
        mode = self._run(["stat", "-c", "%a", "--", path])
        try:
            self._sandbox.write(path, text.encode(), mode=int(mode.output, 8) if mode.exit_code == 0 else 0o644)
        except (ValueError, UnicodeEncodeError) as error:
            raise ToolError(f"Not edited: {error}.") from None

    def _below(self, path: str) -> str:
        """Return a path as seen from the workspace."""
        inside = posixpath.normpath(path or ".")
        if posixpath.isabs(inside):
            inside = posixpath.relpath(inside, self._sandbox.workspace)
        if inside.split("/")[0] == ".." or "\0" in path:
            raise ToolError(f"Expected a path of the workspace, got {path!r:.80}.")
        return inside

    def _run(self, command: Sequence[str], stdin: bytes = b"") -> Result:
        try:
            return self._sandbox.run(command, timeout_s=FIND_S, stdin=stdin)
        except ValueError as error:
            raise ToolError(f"{error}.") from None


def shown(problem: Problem) -> list[str]:
    """Return the failing tests that the statement names; all of them where it names none and none is hidden."""
    lines = set(problem.statement.splitlines())
    named = [test for test in problem.fail_to_pass if test in lines]
    return named or ([] if problem.hidden else list(problem.fail_to_pass))


def _lines(text: str) -> list[str]:
    """Return lines as editors and Python number them: only a line feed ends one."""
    return text.removesuffix("\n").split("\n") if text else []
