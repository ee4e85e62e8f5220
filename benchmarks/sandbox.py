"""What sandboxes and milepost/SWE-v0 cost, beside the usual ways in the same run: minima and medians.

    python benchmarks/sandbox.py --json sandbox.json    all of it, about 15 minutes: a table, and the same as JSON
    python benchmarks/sandbox.py commands starts        these parts alone
    python benchmarks/sandbox.py --repeats 3 --no-rex   a glance

Contenders take turns within a round, so that a busy machine disturbs all of them alike. Docker's rows come where an
engine answers. SWE-ReX is installed into an environment of its own below a temporary folder (``--no-rex``: leave it
out). Memory counts pages in shares. Rows appear on standard error as they come, the table on standard output.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import swe
from contenders import PlainContainers, Rex, git_reset
from table import BACKENDS, Row, Target, as_json, machine, markdown, progress, rounds, row, timed

from milepost.sandbox.bases import SETTLED_S, prepare
from milepost.sandbox.core import Sandbox, Settings
from milepost.sandbox.make import capabilities, make
from milepost.sandbox.pool import Pool

N_MANY = 64
CHANGE = "for n in $(seq 20); do echo x >> d$n/f0; echo y > new$n; rm d$n/f1; done"
Jobs = dict[str, Callable[[], float]]


class Bench:
    """The parts of the benchmark."""

    def __init__(self, repeats: int, backends: list[str], folder: Path, rex: Rex | None, plain: PlainContainers | None):
        self.repeats, self.backends, self.folder, self.rex, self.plain = repeats, backends, folder, rex, plain
        self.few = max(1, min(repeats, 5))

    def commands(self) -> list[Row]:
        """Send ``true`` to a sandbox that is there."""
        with ExitStack() as stack:
            jobs: Jobs = {}
            for backend in self.backends:
                jobs[backend] = partial(timed, partial(stack.enter_context(make(backend)).run, ["true"]))
            if self.plain:
                container = stack.enter_context(self.plain.one())
                jobs["Docker SDK, exec_run"] = lambda: timed(lambda: container.exec_run(["true"]))
                argv = ["docker", "exec", container.id, "true"]
                if shutil.which("docker"):
                    jobs["docker exec"] = lambda: timed(lambda: subprocess.run(argv, check=True, capture_output=True))
            if self.rex:
                jobs["SWE-ReX local, run_in_session"] = self.rex.run
            return rounds("commands", "a command (`true`)", jobs, self.repeats)

    def starts(self) -> list[Row]:
        """Start a sandbox until it answers, with and without a base; closing is not counted."""
        repository = self._repository()
        empty: Jobs = {one: partial(started, one, Settings()) for one in self.backends}
        prepared: Jobs = {one: partial(started, one, Settings(base=prepare(repository))) for one in self.backends}
        raw: Jobs = {one: partial(started, one, Settings(base=repository)) for one in self.backends}
        if self.plain:
            empty["Docker SDK, run and first exec_run"] = self._plain_start
        if self.rex:
            empty["SWE-ReX local, start and session"] = self.rex.start
        n = max(1, self.repeats // 2)
        return [
            *rounds("starts", "a start", empty, n),
            *rounds("starts", "a start, 40 MB base, prepared", prepared, n),
            *rounds("starts", "a start, 40 MB base, looked through", raw, n),
        ]

    def resets(self) -> list[Row]:
        """Undo 20 edits, 20 new and 20 deleted files in a git repository of 40 MB in 2,000 files."""
        repository = self._repository()
        copy = self.folder / "copy"
        shutil.copytree(repository, copy, symlinks=True)

        def reset(sandbox: Sandbox) -> float:
            assert sandbox.run(CHANGE).exit_code == 0
            took = timed(sandbox.reset)
            assert sandbox.diff() == {}
            return took

        with ExitStack() as stack:
            jobs: Jobs = {}
            for backend in self.backends:
                jobs[backend] = partial(reset, stack.enter_context(make(backend, Settings(base=prepare(repository)))))
            jobs["git reset --hard && git clean -fdx"] = git_reset(copy, CHANGE)
            if self.plain:
                jobs["a fresh plain container, SDK"] = self._plain_again
            return rounds("resets", "a reset, 40 MB in 2,000 files", jobs, self.repeats)

    def cycles(self) -> list[Row]:
        """Start, run a command, close, by several workers for two seconds each: cycles a second."""
        rows = []
        for n in (1, 2, 4, 8):
            ways: dict[str, Callable[[], Any]] = {one: partial(cycle, one) for one in self.backends}
            if self.plain:
                ways["Docker SDK: run, exec_run, remove"] = self._plain_start
            for who, job in ways.items():
                rates = [a_second(job, n) for _ in range(self.few)]
                rows.append(row("cycles", f"start, run, close: {n} workers", who, rates, "/s"))
        return rows

    def many(self) -> list[Row]:
        """Have 64 at once, each of which has run a command: memory, and how long closing takes."""
        rows = []
        for backend in self.backends:
            starting, sizes, closing = [], [], []
            for _ in range(self.few):
                pool = Pool(partial(make, backend), N_MANY)
                starting.append(timed(partial(pool.warm, n=N_MANY)))
                sizes.append(memory() / 1e6)
                closing.append(timed(pool.close))
            for what, found, unit in [("start", starting, "ms"), ("memory of", sizes, "MB"), ("close", closing, "ms")]:
                rows.append(row("many", f"{what} {N_MANY}", backend, found, unit))
        return rows

    def grading(self) -> list[Row]:
        """Grade a patch, beside the tests alone."""
        return swe.grading(self.backends, self.few)

    def turns(self) -> list[Row]:
        """Play episodes side by side."""
        return swe.turns(self.backends, self.few, self.plain)

    def _repository(self) -> Path:
        folder = self.folder / "repository"
        return folder if folder.exists() else make_repository(folder)

    def _plain_start(self) -> float:
        assert self.plain
        start = time.perf_counter()
        with self.plain.one():
            return (time.perf_counter() - start) * 1e3

    def _plain_again(self) -> float:
        assert self.plain
        with ExitStack() as stack:
            old = self.plain.start()
            return timed(lambda: (old.remove(force=True), stack.enter_context(self.plain.one())))


PARTS = ("commands", "starts", "resets", "cycles", "many", "grading", "turns")


def started(backend: str, settings: Settings) -> float:
    """Return the milliseconds of a start; closing is not counted."""
    start = time.perf_counter()
    with make(backend, settings):
        return (time.perf_counter() - start) * 1e3


def cycle(backend: str) -> None:
    """Start, use and close a sandbox."""
    with make(backend) as sandbox:
        sandbox.run(["true"])


def a_second(job: Callable[[], Any], n_workers: int, seconds: float = 2.0) -> float:
    """Return how often a second several workers do a job."""
    done, start = [0] * n_workers, time.perf_counter()

    def work(n: int) -> None:
        while time.perf_counter() < start + seconds:
            job()
            done[n] += 1

    threads = [threading.Thread(target=work, args=(n,)) for n in range(n_workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.perf_counter() - start)


def memory() -> int:
    """Return the bytes (pages in shares) of all that descends from here, and of containers' processes and shims."""
    parents = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            parents[int(name)] = int(Path("/proc", name, "stat").read_bytes().rpartition(b")")[2].split()[1])
    try:
        import docker

        mine = docker.from_env().containers.list(filters={"label": f"milepost.pid={os.getpid()}"})
        roots = {one.attrs["State"]["Pid"] for one in mine}
    except Exception:  # there is no engine
        roots = set()
    shims = {parents[pid] for pid in roots if pid in parents}  # an engine's process beside each container
    found, ring = set(shims), {os.getpid()} | shims
    while ring := {pid for pid, parent in parents.items() if parent in ring} - found:
        found |= ring
    total = 0
    for pid in found:
        with suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) << 10
    return total


def make_repository(folder: Path, n_files: int = 2000, n_bytes: int = 40_000_000) -> Path:
    """Make a git repository; its content is random, so that git's own copy is as large again."""
    rng = random.Random(0)
    for n in range(n_files):
        path = folder / f"d{n // 20}" / f"f{n % 20}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(n_bytes // n_files))
    git = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@x"]
    for argv in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        subprocess.run(git + argv, check=True)
    time.sleep(2 * SETTLED_S)
    return folder


def targets(rows: list[Row]) -> list[Target]:
    """Return what the project wants of these figures."""
    found: list[Target] = []

    def want(what: str, got: float, most: float) -> None:
        found.append(Target(f"{what}: at most {most:g}", got, got <= most))

    for one in rows:
        what, ours = f"{one.what}, {one.who}", one.who in BACKENDS
        if one.part == "commands" and ours:
            want(f"{what}, ms, minimum", one.best, 5)
            for other in rows:
                if other.part == "commands" and other.who not in BACKENDS:
                    times = other.median / one.median
                    found.append(
                        Target(f"{other.who} beside {one.who}, medians: at least 10 times", times, times >= 10)
                    )
        elif one.part == "starts" and one.who == "bubblewrap" and "looked" not in one.what:
            want(f"{what}, ms, minimum", one.best, 30)
        elif one.part == "resets" and one.who == "bubblewrap":
            want(f"{what}, ms, minimum", one.best, 15)
        elif one.part == "many" and "memory" in one.what:
            want(f"{what}, MB, median", one.median, 1500)
        elif one.part == "many" and "close" in one.what:
            want(f"{what}, ms, median", one.median, 2000)
        elif one.part == "grading" and one.what.startswith(swe.BEYOND):
            want(f"{what}, ms, median", one.median, 150)
    rates = [one.median for one in rows if one.part == "cycles" and one.who == "bubblewrap"]
    if rates:
        found.append(Target("cycles a second, bubblewrap, medians: at least 40", max(rates), max(rates) >= 40))
    return found


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="of " + ", ".join(PARTS))
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--backends", default=",".join(BACKENDS))
    parser.add_argument("--no-rex", action="store_true")
    parser.add_argument("--json", type=Path, help="a file for the same as JSON")
    args = parser.parse_args()
    there = capabilities()
    backends = [name for name in args.backends.split(",") if there[name]["available"]]
    about = {"machine": machine(), "backends": {one: there[one]["version"] for one in backends}}
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        parts = args.parts or PARTS
        rex = plain = None
        if not args.no_rex and {"commands", "starts"} & set(parts):
            rex = stack.enter_context(closing(Rex(Path(folder))))
            about["backends"]["swe-rex"] = rex.version
        if "docker" in backends:
            plain = stack.enter_context(closing(PlainContainers()))
        bench = Bench(args.repeats, backends, Path(folder), rex, plain)
        for part in parts:
            made = getattr(bench, part)()
            progress(made)
            rows += made
    about["load_after"] = machine()["load"]
    print(markdown(rows, targets(rows)))
    if args.json:
        args.json.write_text(as_json(about, rows, targets(rows)))


if __name__ == "__main__":
    main()
