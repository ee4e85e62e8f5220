"""What an episode and its grade need to know of a task, wherever it comes from: our own list, or a file in the form of
SWE-bench (``bench``)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Protocol

from milepost.envs.swe import logs, test_tools
from milepost.envs.swe.originals import originals
from milepost.envs.swe.packages import package
from milepost.envs.swe.tasks import SweTask, base, gold, texts
from milepost.envs.swe.testing import TOOLS, TestRun, run_tests
from milepost.sandbox.bases import prepare
from milepost.sandbox.core import Limits, Node, Sandbox, Settings

MAX_CPU_S = 40
MEMORY = 1 << 30
TIMEOUT_S = 90.0


@dataclass(frozen=True, eq=False)
class Problem:
    """One bug to mend, and how it is seen that it is gone."""

    id: str
    statement: str
    base: Path
    """What the workspace begins with; it is never changed."""
    gold: str
    """The patch that mends it, as a unified diff."""
    texts: Mapping[str, tuple[bytes | None, bytes | None]]
    """The files of that patch: what they are, and what they become; None is no file."""
    fail_to_pass: tuple[str, ...]
    pass_to_pass: tuple[str, ...]
    tests: tuple[str, ...]
    """Files and folders with tests, and options of pytest."""
    counts: Callable[[str], bool]
    """Whether a path is among the sources of which changes are graded; ``patch`` refuses more than this."""
    hidden: Mapping[str, bytes | None] = field(default_factory=dict)
    """Tests, and what configures them, as they are when it is graded, and not before; None is no file."""
    split: str = ""
    level: str = ""
    image: str | None = None
    """Docker's image to play and grade in."""
    workspace: str | None = None
    """Where the image has the repository, which the workspace is put over: what is installed from there is it."""
    command: str | None = None
    """A shell command that runs tests, with ``{tests}`` in it; None: pytest of the test tools, in a guarded run."""
    parser: str = "pytest"
    """Of what the command prints; see ``logs``."""
    timeout_s: float = TIMEOUT_S
    """For a graded run."""
    cpu_s: int = MAX_CPU_S
    """Seconds of a processor for it: so long costs a patch that hangs."""
    limits: Limits = field(default_factory=Limits)
    """Of the sandbox that it is graded in."""

    @property
    def judged(self) -> tuple[Hashable, ...]:
        """What decides a grade beside the patch, and where it is graded."""
        wanted = self.fail_to_pass, self.pass_to_pass, self.tests, frozenset(self.hidden.items())
        return (
            self.base,
            *wanted,
            self.image,
            self.workspace,
            self.command,
            self.parser,
            self.timeout_s,
            self.cpu_s,
            self.limits,
        )

    def settings(self, limits: Limits | None = None, allow: frozenset[str] = frozenset()) -> Settings:
        """Return how a sandbox with its workspace begins."""
        mounts = {TOOLS: prepare(test_tools.tools())}
        env = {"PYTHONDONTWRITEBYTECODE": "1"}  # byte code would be a difference that says nothing
        limits = limits or self.limits
        hidden = originals() if self.image is None else ()
        return Settings(self.base, mounts, hidden, env, limits, allow, self.image, self.workspace)

    def run(
        self,
        sandbox: Sandbox,
        ids: Sequence[str] | None = None,
        timeout_s: float = 60.0,
        *,
        tests: Sequence[str] | None = None,
        cpu_s: int | None = None,
        memory: int | None = None,
        guarded: bool = False,
    ) -> TestRun:
        """Run tests in a sandbox; see ``run_tests``. A command of its own is bounded by its time alone.

        Raises:
            SandboxError: The sandbox is gone.
        """
        words = self.tests if tests is None else tests
        if self.command is None:
            return run_tests(sandbox, words, ids, timeout_s, cpu_s=cpu_s, memory=memory, guarded=guarded)
        return logs.run(sandbox, self.command, self.parser, words, ids, timeout_s)

    def check(self, sandbox: Sandbox) -> None:
        """Run its command where nothing was changed.

        Raises:
            ValueError: It does not tell of the tests that pass there, or of none at all: it is no command for them.
        """
        self._reveal(sandbox)
        run = self.run(sandbox, None, self.timeout_s)
        known = set(self.pass_to_pass) & run.outcomes.keys() if self.pass_to_pass else run.outcomes
        if not known:
            lines = [line for line in run.output.splitlines() if line.strip()] or ["nothing"]
            what = "its PASS_TO_PASS" if self.pass_to_pass else "a test"
            raise ValueError(f"{self.id}: test_command: expected the outcomes of {what}, got: {lines[-1][:200]}")

    def judge(self, sandbox: Sandbox) -> TestRun:
        """Put the hidden tests and run all that decide."""
        self._reveal(sandbox)
        wanted = [*self.fail_to_pass, *self.pass_to_pass]
        return self.run(sandbox, wanted, self.timeout_s, cpu_s=self.cpu_s, memory=MEMORY, guarded=True)

    def _reveal(self, sandbox: Sandbox) -> None:
        """Put the tests that were hidden until now."""
        sandbox.put_tree({path: None if data is None else Node(data=data) for path, data in self.hidden.items()})


class Origin(Protocol):
    """What a problem can be had from."""

    def problem(self) -> Problem:
        """Return it."""
        ...


def of_task(task: SweTask | Problem | Origin) -> Problem:
    """Return the problem of a task.

    Raises:
        ValueError: See ``source`` and ``texts``.
        MachineError: The package index does not answer, or there is no room.
    """
    if not isinstance(task, SweTask):
        return task if isinstance(task, Problem) else task.problem()
    tree = base(task)
    files = frozenset(package(task.package).files(tree))
    folders = {PurePosixPath(file).parent for file in files} - {PurePosixPath(".")}

    def counts(path: str) -> bool:
        place = PurePosixPath(path)
        return path in files or (place.suffix == ".py" and any(place.is_relative_to(folder) for folder in folders))

    return Problem(
        id=task.id,
        statement=task.statement,
        base=tree,
        gold=gold(task),
        texts=texts(task),
        fail_to_pass=task.fail_to_pass,
        pass_to_pass=task.pass_to_pass,
        tests=task.tests,
        counts=counts,
        split=task.split,
        level=task.level,
        timeout_s=TIMEOUT_S,
        # Ten times what they take without the bug, which was measured here: a slower machine gives them more.
        cpu_s=min(5 + round(10 * task.seconds), MAX_CPU_S),
    )
