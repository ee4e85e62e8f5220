"""The two forms of an agent's turn: calls of typed tools, or one block of commands for a shell."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from milepost.envs.core import Observation
from milepost.envs.swe.answers import Room
from milepost.envs.swe.instance import ACTIVATE
from milepost.envs.swe.invoked import runs_tests
from milepost.envs.swe.oracle import Wanted, bash_moves, block, call, tool_moves
from milepost.envs.swe.problem import Problem
from milepost.envs.swe.testing import TOOLS
from milepost.envs.swe.tools import NAMES, Workbench, shown
from milepost.envs.tool_calls import read_move
from milepost.envs.tools import Tools
from milepost.sandbox.core import Result, Sandbox

MAX_CALLS = 4
MAX_HINTS = 3
HOW_TOOLS = """\
Fix the bug in the Python package of this workspace. Answer with one call of a tool, such as:
open(file="pkg/a.py", line=40)
scroll(direction="down")
search(text="def f", path=".")
find(name="a.py")
edit(file="pkg/a.py", old="text that is there once", new="text instead")
run_tests()
submit()
Submit when the tests pass; it ends the task."""
HOW_BASH = """\
Fix the bug in the Python package of this workspace. Answer with one block of shell commands, such as:
```bash
python3 -m pytest -q tests/test_a.py
```
The shell keeps its folder and variables. When the tests pass, submit, which ends the task:
```bash
submit
```"""
_BLOCK = re.compile(r"```[ \t]*(?:bash|sh|shell)?[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)
_TIME = re.compile(r" in \d+\.\d+s\b")
"""What pytest and unittest end with."""
DONE: Mapping[str, Sequence[Literal["edit", "tests"]]] = {
    "": ("edit",),
    "earlier": ("tests", "edit"),
    "last": ("edit", "tests"),
}


class Played(NamedTuple):
    """What a turn was and gave."""

    observation: Observation
    parses: bool
    """Whether all of it could be read."""
    valid: bool
    """Whether all of it was carried out."""
    allowed: bool
    """Whether it asked for what there is."""
    done: Sequence[Literal["edit", "tests"]]
    """Edits, and runs of tests, in order."""
    caption: str


class ToolActions:
    """Calls of the tools of ``Workbench``, in all the forms of ``milepost.envs.tools``."""

    instructions = HOW_TOOLS

    def __init__(self, room: Room, submit: Callable[[], str]) -> None:
        self._bench = Workbench(room, self._end)
        self._tools = Tools([getattr(self._bench, name) for name in NAMES], max_calls=MAX_CALLS)
        self.tools = self._tools.schemas
        self._submit, self._over = submit, False
        self._problem: Problem

    def begin(self, sandbox: Sandbox, problem: Problem) -> None:
        """Hear that an episode began."""
        self._bench.begin(sandbox, problem)
        self._problem, self._over = problem, False

    def play(self, move: str) -> Played:
        """Run the calls of a turn, in order; none after ``submit``."""
        calls, n_done = read_move(move).calls, len(self._bench.done)
        results = self._tools.run(move, over=lambda: self._over)
        made = [f"{result.name or 'something unreadable'}{'' if result.ok else ' (not done)'}" for result in results]
        return Played(
            results.observation(),
            parses=bool(calls) and not any(one.problem for one in calls),
            valid=results.ok,
            allowed=bool(calls) and all(one.name in NAMES for one in calls),
            done=self._bench.done[n_done:],
            caption=f"The agent called {', '.join(made)}." if calls else "The agent called no tool.",
        )

    def state(self) -> str:
        """Return which file is open, and where."""
        return repr(self._bench.view)

    def oracle(self, wanted: Wanted) -> list[str]:
        """Return edits, then ``submit()``."""
        return tool_moves(wanted, lambda text: not self._bench.syntax_error(text))

    def hints(self, files: Sequence[str]) -> list[str]:
        """Return turns of each kind but edits."""
        looks = [call("open", file=file, line=1) for file in files[:MAX_HINTS]]
        looks += [call("find", name=file.rpartition("/")[2]) for file in files[:1]]
        for test in shown(self._problem)[:1]:
            looks.append(call("search", text=re.split(r"::|\[", test)[1 if "::" in test else 0]))
        return [*looks, call("scroll"), call("run_tests"), call("submit")]

    def _end(self) -> str:
        self._over = True
        return self._submit()


class BashActions:
    """One fenced block of commands, run in a shell that lasts; the command ``submit`` alone ends the episode."""

    instructions = HOW_BASH
    tools: Sequence[dict[str, Any]] = ()

    def __init__(self, room: Room, submit: Callable[[], str]) -> None:
        self._room, self._submit = room, submit
        self._sandbox: Sandbox
        self._problem: Problem

    def begin(self, sandbox: Sandbox, problem: Problem) -> None:
        """Hear that an episode began."""
        self._sandbox, self._problem = sandbox, problem
        self._prepare()

    def play(self, move: str) -> Played:
        """Run the block of a turn."""
        blocks = [text.strip() for text in _BLOCK.findall(move)]
        if len(blocks) != 1 or not blocks[0] or "\0" in move:
            text = f"Nothing was run. Expected one block of commands, got {len(blocks)}:\n{block('commands')}"
            return Played(text, False, False, False, (), "The agent gave no block of commands.")
        command = blocks[0]
        if command == "submit":
            return Played(self._submit(), True, True, True, (), "The agent submitted.")
        # A lone surrogate is no character of a command.
        command = command.encode("utf-8", "replace").decode()
        try:
            session, most = self._sandbox.session(), 8 * self._room.chars
            found = session.run(command, timeout_s=self._room.timeout_s, max_output=most)
        except ValueError as error:
            return Played(f"Nothing was run: {error}.", True, False, True, (), "The agent's commands were not run.")
        if found.ended:
            self._prepare()
        ok = found.exit_code is not None
        # What else there is in a block may change files.
        done = DONE[runs_tests(command)]
        return Played(self._told(found), True, ok, True, done, f"The agent ran commands{'' if ok else ' (too long)'}.")

    def state(self) -> str:
        """Return nothing: what a shell knows is not seen."""
        return ""

    def oracle(self, wanted: Wanted) -> list[str]:
        """Return blocks that change files, then the one that submits."""
        return bash_moves(wanted, self._sandbox.workspace)

    def hints(self, files: Sequence[str]) -> list[str]:
        """Return turns of each kind but edits."""
        looks = [block(f"sed -n 1,20p {file}") for file in files[:MAX_HINTS]]
        tests = " ".join(dict.fromkeys(test.partition("::")[0] for test in shown(self._problem)))
        return [*looks, block("ls"), block(f"python3 -m pytest -q {tests} | tail -5"), block("submit")]

    def _prepare(self) -> None:
        """Let a new shell find what runs tests."""
        sandbox, command = self._sandbox, ACTIVATE
        if self._problem.image is None:
            path = f"{sandbox.workspace}/src:{sandbox.workspace}:{sandbox.place(TOOLS)}"
            options = "-p no:cacheprovider --color=no"
            command = f"export PYTHONPATH={path} PYTEST_ADDOPTS='{options}' COLUMNS=100"
        sandbox.session().run(command, timeout_s=20.0)

    def _told(self, found: Result) -> str:
        output = _TIME.sub("", found.output).rstrip()
        lines = [output] if output else []
        if found.timed_out:
            lines.append(f"[stopped after {self._room.timeout_s:g} s; the shell began anew]")
        elif found.exit_code:
            lines.append(f"[exit code {found.exit_code}]")
        return self._room.cut("\n".join(lines)) or "[no output]"


FORMS: dict[str, type[ToolActions | BashActions]] = {"tools": ToolActions, "bash": BashActions}
