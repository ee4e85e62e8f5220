"""Many tasks at once: bugs tried in parallel, balanced over packages, levels and operators, the same for a seed.

Candidates of a package are tried in rounds, as many as it lacks; which they are depends on the seed and on what came
of those before, never on how many are tried at the same time or how long they take.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import ParamSpec, TypeVar

from milepost.envs.swe import places
from milepost.envs.swe.mutate import Edit, possible_edits
from milepost.envs.swe.packages import Package
from milepost.envs.swe.sources import source
from milepost.envs.swe.tasks import LEVELS, SweTask, TaskId
from milepost.envs.swe.trials import Rejected, clean_run, trial
from milepost.sandbox.core import Limits, SandboxError

P = ParamSpec("P")
R = TypeVar("R")

SEEDS_PER_BUILD = 100_000
"""Seeds of tasks that a build's seed has for itself."""
MAX_TRIES = 40
"""Candidates per task that a package may take."""
MAX_SHARE = 0.2
"""Of an operator among a package's edits; a package with few edits may have two of each."""


@dataclass
class Built:
    """What a build gave."""

    tasks: list[SweTask] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)
    """Bugs that made no task, by reason."""
    short: dict[str, int] = field(default_factory=dict)
    """Packages that gave fewer tasks than they should, by how many are missing."""


@dataclass
class _Row:
    """One package's way to its share."""

    package: Package
    n: int
    candidates: Iterator[TaskId]
    tasks: list[SweTask] = field(default_factory=list)
    seen: set[tuple[Edit, ...]] = field(default_factory=set)

    def next_round(self) -> list[TaskId]:
        """Return as many candidates as tasks are missing, whose operators are not used too often yet."""
        used = Counter(edit.operator for task in self.tasks for edit in task.edits)
        room, missing, chosen = max(2, int(MAX_SHARE * self.n)), self.n - len(self.tasks), []
        for candidate in self.candidates if missing else ():
            edits = candidate.edits()
            if edits not in self.seen and all((used + _operators(edits))[edit.operator] <= room for edit in edits):
                self.seen.add(edits)
                used += _operators(edits)
                chosen.append(candidate)
            if len(chosen) == missing:
                break
        return chosen


def build(
    n: int,
    chosen: Sequence[Package],
    *,
    backend: str = "auto",
    allow: Iterable[str] = (),
    jobs: int = 2,
    seed: int = 0,
    after_round: Callable[[list[SweTask]], None] | None = None,
) -> Built:
    """Build tasks, as many of each package, with a progress bar where someone watches.

    Args:
        n: Tasks in all.
        chosen: Packages.
        backend: Where tests run.
        allow: Names of limits that may go unenforced there.
        jobs: Bugs that are tried at the same time.
        seed: Another one gives other tasks.
        after_round: Is given the tasks so far, now and then.

    Raises:
        ValueError: There are fewer tasks than packages, a package cannot be used, or there is no such limit.
        MachineError: The package index does not answer, or a sandbox broke; what was found out is kept.
    """
    if n < len(chosen):
        raise ValueError(f"SWE build: expected at least one task for each of {len(chosen)} packages, got n={n}")
    backend, allow = places.found(backend), places.allowed(backend, allow)
    places.refuse_unenforced(backend, Limits(), allow)
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    share = [n // len(chosen) + (i < n % len(chosen)) for i in range(len(chosen))]
    rows = [_Row(one, k, candidates(one, k, seed)) for one, k in zip(chosen, share, strict=True)]
    built = Built()
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    pool = ThreadPoolExecutor(jobs, "swe-build")
    try:
        with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
            watched = bar.add_task("tasks", total=n)
            list(pool.map(lambda one: twice(clean_run, one, backend, allow), chosen))
            while batch := [candidate for row in rows for candidate in row.next_round()]:
                tried = pool.map(lambda candidate: twice(trial, candidate, backend, allow=allow), batch)
                for candidate, found in zip(batch, tried, strict=True):
                    if isinstance(found, Rejected):
                        built.rejected[found.reason] += 1
                    else:
                        rows[chosen.index(candidate.package)].tasks.append(found)
                        bar.advance(watched)
                built.tasks = [task for row in rows for task in row.tasks]
                if after_round:
                    after_round(built.tasks)
    finally:
        pool.shutdown(cancel_futures=True)
    built.short = {row.package.name: row.n - len(row.tasks) for row in rows if len(row.tasks) < row.n}
    return built


def candidates(package: Package, n: int, seed: int = 0) -> Iterator[TaskId]:
    """Yield bugs to try for ``n`` tasks: levels in turn, files by how much there is to edit in them."""
    tree = source(package)
    sizes = {file: len(possible_edits(file, (tree / file).read_bytes())) for file in package.files(tree)}
    files = [file for file, size in sizes.items() if size >= 20]
    rng = random.Random(f"{seed} {package.name}")
    every = (
        TaskId(package, file, LEVELS[k % len(LEVELS)], seed * SEEDS_PER_BUILD + k)
        for k, file in enumerate(rng.choices(files, [sizes[file] for file in files], k=MAX_TRIES * n))
    )
    return islice(every, MAX_TRIES * n)


def twice(run: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Try again, in another sandbox, what one broke in: one failure of the machine in hours is no reason to stop."""
    try:
        return run(*args, **kwargs)
    except SandboxError:
        return run(*args, **kwargs)


def _operators(edits: Sequence[Edit]) -> Counter[str]:
    return Counter(edit.operator for edit in edits)
