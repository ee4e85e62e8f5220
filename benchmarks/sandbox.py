"""What sandboxes cost, beside the usual ways in the same run: minima and medians.

    python benchmarks/sandbox.py                        all of it: minutes; Docker's rows where an engine answers
    python benchmarks/sandbox.py commands starts        these parts alone
    python benchmarks/sandbox.py --repeats 5 --json     a glance, for programs

Contenders take turns within a round, so that a busy machine disturbs all of them alike. SWE-ReX is installed into an
environment of its own below a temporary folder (``--no-rex``: leave it out). Milliseconds unless said otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from milepost.sandbox.core import Sandbox, Settings
from milepost.sandbox.make import capabilities, make
from milepost.sandbox.pool import Pool

N_MANY = 64
REX = """
import asyncio, sys, time
from swerex.deployment.local import LocalDeployment
from swerex.runtime.abstract import BashAction, CreateBashSessionRequest

async def main():
    deployment = LocalDeployment()
    await deployment.start()
    await deployment.runtime.create_session(CreateBashSessionRequest())
    print("ready", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        await deployment.runtime.run_in_session(BashAction(command="true"))
        print((time.perf_counter() - start) * 1e3, flush=True)
    await deployment.stop()

asyncio.run(main())
"""


class Row(NamedTuple):
    """A line of the table."""

    part: str
    what: str
    minimum: float
    median: float
    unit: str = "ms"
    n: int = 1


def timed(job: Callable[[], Any]) -> float:
    """Return how long a job took, in milliseconds."""
    start = time.perf_counter()
    job()
    return (time.perf_counter() - start) * 1e3


def rounds(part: str, jobs: dict[str, Callable[[], float]], repeats: int) -> list[Row]:
    """Let contenders take turns; a job returns its own milliseconds. The first round is not counted."""
    found: dict[str, list[float]] = {what: [] for what in jobs}
    for n in range(repeats + 1):
        for what, job in jobs.items():
            took = job()
            if n:
                found[what].append(took)
    return [Row(part, what, min(took), median(took), n=repeats) for what, took in found.items()]


class Bench:
    """The parts of the benchmark."""

    def __init__(self, repeats: int, rex: bool, backends: list[str], folder: Path) -> None:
        self.repeats, self.rex, self.backends, self.folder = repeats, rex, backends, folder

    def commands(self) -> list[Row]:
        """Send ``true`` to a sandbox that is there."""
        with ExitStack() as stack:
            jobs: dict[str, Callable[[], float]] = {}
            for backend in self.backends:
                sandbox = stack.enter_context(opened(backend))
                jobs[f"{backend}, milepost"] = partial(timed, partial(sandbox.run, ["true"]))
            if "docker" in self.backends:
                container = own_containers()[0]
                jobs["docker, SDK exec_run"] = lambda: timed(lambda: container.exec_run(["true"]))
                argv = ["docker", "exec", container.id, "true"]
                if shutil.which("docker"):
                    jobs["docker exec"] = lambda: timed(lambda: subprocess.run(argv, check=True, capture_output=True))
            if self.rex:
                jobs["SWE-ReX local, run_in_session"] = stack.enter_context(swe_rex(self.folder))
            return rounds("commands", jobs, self.repeats)

    def starts(self) -> list[Row]:
        """Start a sandbox, until it answers; and start, run and close one."""
        jobs: dict[str, Callable[[], float]] = {}
        for backend in self.backends:
            jobs[f"{backend}, start"] = partial(start_only, backend, Settings())
        return rounds("starts", jobs, self.repeats)

    def resets(self) -> list[Row]:
        """Undo 20 edits, 20 new and 20 deleted files in a git repository of 40 MB in 2,000 files."""
        repository = make_repository(self.folder / "repository")
        settings = Settings(base=repository)
        change = "for n in $(seq 20); do echo x >> d$n/f0; echo y > new$n; rm d$n/f1; done"
        git = ["sh", "-c", "git reset -q --hard && git clean -qfdx"]
        copy = self.folder / "copy"
        shutil.copytree(repository, copy, symlinks=True)

        def with_git() -> float:
            subprocess.run(["sh", "-c", change], cwd=copy, check=True)
            return timed(lambda: subprocess.run(git, cwd=copy, check=True))

        def with_us(sandbox: Sandbox) -> float:
            assert sandbox.run(change).exit_code == 0
            took = timed(sandbox.reset)
            assert sandbox.diff() == {}
            return took

        with ExitStack() as stack:
            jobs: dict[str, Callable[[], float]] = {}
            for backend in self.backends:
                sandbox = stack.enter_context(opened(backend, settings))
                jobs[f"{backend}, reset"] = partial(with_us, sandbox)
            jobs["git reset --hard && git clean -fdx"] = with_git
            if "docker" in self.backends:
                jobs["a fresh container"] = lambda: start_only("docker", settings)
            return rounds("resets", jobs, self.repeats)

    def cycles(self) -> list[Row]:
        """Start, run a command, close, by several workers for two seconds each: cycles a second."""
        rows = []
        for backend in self.backends:
            for n in (1, 2, 4, 8):
                rates = [cycles_a_second(backend, n) for _ in range(max(1, min(self.repeats, 5)))]
                rows.append(Row("cycles", f"{backend}, {n} workers", max(rates), median(rates), "/s", len(rates)))
        return rows

    def many(self) -> list[Row]:
        """Have 64 at once, each of which has run a command: memory, and how long closing takes."""
        rows = []
        for backend in self.backends:
            took, sizes, starting = [], [], []
            for _ in range(max(1, min(self.repeats, 3))):
                pool = Pool(partial(make, backend), N_MANY)
                starting.append(timed(partial(pool.warm, n=N_MANY)))
                sizes.append(memory() / 1e6)
                took.append(timed(pool.close))
            for what, found, unit in [("start", starting, "ms"), ("memory", sizes, "MB"), ("close", took, "ms")]:
                rows.append(Row("many", f"{backend}, {what} {N_MANY}", min(found), median(found), unit, len(found)))
        return rows


PARTS = ("commands", "starts", "resets", "cycles", "many")


@contextmanager
def opened(backend: str, settings: Settings | None = None) -> Iterator[Sandbox]:
    """Start a sandbox, and close it."""
    sandbox = make(backend, settings)
    try:
        yield sandbox
    finally:
        sandbox.close()


def start_only(backend: str, settings: Settings) -> float:
    """Return how long a start took; closing is not counted."""
    start = time.perf_counter()
    sandbox = make(backend, settings)
    took = (time.perf_counter() - start) * 1e3
    sandbox.close()
    return took


def cycles_a_second(backend: str, n_workers: int, seconds: float = 2.0) -> float:
    """Let workers start, use and close sandboxes."""
    done, end, start = [0] * n_workers, time.perf_counter() + seconds, time.perf_counter()

    def work(n: int) -> None:
        while time.perf_counter() < end:
            with opened(backend) as sandbox:
                sandbox.run(["true"])
            done[n] += 1

    threads = [threading.Thread(target=work, args=(n,)) for n in range(n_workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.perf_counter() - start)


def own_containers() -> list[Any]:
    """Return the containers of this process."""
    import docker

    return docker.from_env().containers.list(filters={"label": f"milepost.pid={os.getpid()}"})


def memory() -> int:
    """Return the bytes (PSS: shared pages in shares) of all that descends from here, and of containers' processes."""
    parents = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            parents[int(name)] = int(Path("/proc", name, "stat").read_bytes().rpartition(b")")[2].split()[1])
        except OSError:
            continue
    try:
        roots = {c.attrs["State"]["Pid"] for c in own_containers()}
    except Exception:
        roots = set()
    shims = {parents[pid] for pid in roots if pid in parents}  # an engine's process beside each container
    found, ring = set(shims), {os.getpid()} | shims
    while ring := {pid for pid, parent in parents.items() if parent in ring} - found:
        found |= ring
    total = 0
    for pid in found:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) << 10
    return total


@contextmanager
def swe_rex(folder: Path) -> Iterator[Callable[[], float]]:
    """Install SWE-ReX below a folder and start its local deployment."""
    venv.create(folder / "rex", with_pip=True)
    python = folder / "rex" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "swe-rex"], check=True, stdout=sys.stderr)
    process = subprocess.Popen(
        [python, "-c", REX], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    given, said = process.stdin, process.stdout
    while said.readline().strip() != "ready":
        if process.poll() is not None:
            raise RuntimeError("SWE-ReX did not start")

    def run() -> float:
        given.write("\n")
        given.flush()
        return float(said.readline())

    try:
        yield run
    finally:
        given.close()
        process.wait()


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
    return folder


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="of " + ", ".join(PARTS))
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--backends", default="bubblewrap,docker")
    parser.add_argument("--no-rex", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    there = capabilities()
    backends = [name for name in args.backends.split(",") if there[name]["available"]]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args.repeats, not args.no_rex, backends, Path(folder))
        for part in args.parts or PARTS:
            for row in getattr(bench, part)():
                rows.append(row)
                if not args.json:
                    figures = f"{row.minimum:10.1f} {row.median:10.1f} {row.unit:4} n={row.n}"
                    print(f"{row.part:9} {row.what:40} {figures}", flush=True)
    if args.json:
        print(json.dumps([row._asdict() for row in rows], indent=1))


if __name__ == "__main__":
    main()
