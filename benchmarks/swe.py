"""The parts of ``benchmarks/sandbox.py`` about ``milepost/SWE-v0``: grading beside the tests alone, turns a second."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

from contenders import PlainContainers
from table import Row, in_turn, row, timed

from milepost.envs.swe import places, test_tools, trials
from milepost.envs.swe.env import SweEnv
from milepost.envs.swe.grade import grade
from milepost.envs.swe.oracle import call
from milepost.envs.swe.tasks import SweTask, base, default_ids, texts
from milepost.envs.swe.testing import PYTHON, TOOLS, run_tests
from milepost.sandbox.bases import prepare
from milepost.sandbox.core import Node, Sandbox, Settings
from milepost.sandbox.make import make
from milepost.sandbox.pool import Pool

PACKAGES = ("unidiff", "cachetools", "inflection")
"""Of quick tests, about 70, 220 and 450 of them."""
BEYOND = "grading beyond the tests"
EPISODES = (1, 4, 16, 64)
N_LOOKS = 20
"""Turns of a scripted agent that reads only."""


def grading(backends: Sequence[str], repeats: int) -> list[Row]:
    """Grade patches that mend a bug, in a pool's sandbox, beside the tests alone where the patch is there already."""
    rows = []
    for name in PACKAGES:
        task = trials.task(default_ids(None, [name])[0])
        patch = {file: Node(data=clean) for file, (_, clean) in texts(task).items()}
        with ExitStack() as stack:
            jobs: dict[str, Callable[[], float]] = {}
            for backend in backends:
                pool = stack.enter_context(Pool(partial(make, backend), 1))
                sandbox = stack.enter_context(make(backend, _settings(task)))
                sandbox.put_tree(patch)
                jobs[backend] = partial(_graded, task, patch, pool)
                jobs[f"{backend}, tests alone"] = partial(_tested, task, sandbox)
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "tree"
            shutil.copytree(base(task), folder, symlinks=True)
            for file, node in patch.items():
                (folder / file).write_bytes(node.data)
            jobs["pytest, no sandbox"] = partial(_without_sandbox, task, folder)
            found = in_turn(jobs, repeats)
        rows += [row("grading", f"grading, {name}", who, took) for who, took in found.items()]
        figures = {one.who: one for one in rows[-len(found) :]}
        for backend in backends:
            whole, alone = figures[backend], figures[f"{backend}, tests alone"]
            more = [whole.best - alone.best, whole.median - alone.median]
            rows.append(Row("grading", f"{BEYOND}, {name}", backend, *more, n=repeats))
    return rows


def turns(backends: Sequence[str], repeats: int, plain: PlainContainers | None) -> list[Row]:
    """Play episodes side by side, each with a scripted agent and a thread: turns a second of all of them.

    Once the agent only looks; then it plays an episode from the reset to the grade: looks, mends, tests, submits.
    """
    rows = []
    tasks = [trials.task(one) for name in PACKAGES for one in default_ids(None, [name])][: max(EPISODES)]
    for n in EPISODES:
        chosen = [tasks[i % len(tasks)] for i in range(n)]
        looking: dict[str, list[float]] = {}
        whole: dict[str, list[float]] = {}
        for backend in backends:
            with ExitStack() as stack:
                envs = [stack.enter_context(closing(SweEnv(backend=backend))) for _ in range(n)]
                ways = list(zip(envs, chosen, strict=True))
                _at_once([partial(env.reset, seed=0, options={"task": task.id}) for env, task in ways])
                for _ in range(repeats):
                    looking.setdefault(backend, []).append(_rate([partial(_look, *way) for way in ways]))
                places._grades.clear()  # it would know the patches by the other backend
                whole[backend] = [_rate([partial(_episode, *way) for way in ways])]
        if plain:
            containers = _at_once([partial(plain.start, base(task)) for task in chosen])
            ways = zip(containers, [task.edits[0].file for task in chosen], strict=True)
            jobs = [partial(_look_plainly, *way) for way in ways]
            looking["Docker SDK, exec_run"] = [_rate(jobs) for _ in range(min(repeats, 2))]
            _at_once([partial(one.remove, force=True) for one in containers])
        rows += [row("turns", f"turns that look: {n} episodes", who, rates, "/s") for who, rates in looking.items()]
        rows += [row("turns", f"turns of whole episodes: {n}", who, rates, "/s") for who, rates in whole.items()]
    return rows


def _settings(task: SweTask) -> Settings:
    return Settings(base(task), {TOOLS: prepare(test_tools.tools())})


def _graded(task: SweTask, patch: dict[str, Node], pool: Pool) -> float:
    start = time.perf_counter()
    found = grade(task, patch, pool.take)
    took = (time.perf_counter() - start) * 1e3
    assert found.result == "resolved", found
    return took


def _tested(task: SweTask, sandbox: Sandbox) -> float:
    ids = [*task.fail_to_pass, *task.pass_to_pass]
    start = time.perf_counter()
    found = run_tests(sandbox, task.tests, ids)
    took = (time.perf_counter() - start) * 1e3
    assert found.passed(ids), found
    return took


def _without_sandbox(task: SweTask, folder: Path) -> float:
    places = f"{folder}/src:{folder}:{test_tools.tools()}"
    env = {"PYTHONPATH": places, "PYTHONDONTWRITEBYTECODE": "1", "PATH": os.defpath}
    argv = [PYTHON, "-s", "-S", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", folder]
    job = partial(subprocess.run, [*argv, *task.tests], cwd=folder, env=env, capture_output=True)
    return timed(job)


def _look(env: SweEnv, task: SweTask) -> int:
    file = task.edits[0].file
    for n in range(N_LOOKS):
        ways = (call("open", file=file, line=1 + n), call("search", text="return"), call("find", name="*.py"))
        *_, info = env.step((*ways, call("scroll"))[n % 4])
        assert info["valid"], info
    return N_LOOKS


def _episode(env: SweEnv, task: SweTask) -> int:
    env.reset(options={"task": task.id})
    file = task.edits[0].file
    script = [call("open", file=file, line=1), call("search", text="def "), call("scroll")]
    *edits, last = env.oracle()
    script += [*edits, call("run_tests"), last]
    for turn in script:
        _, outcome, over, *_ = env.step(turn)
    assert (outcome, over) == (1.0, True), task.id
    return len(script)


def _look_plainly(container: Any, file: str) -> int:
    ways = (f"sed -n 1,40p {file}", "grep -rnIF return . | sort", "find . -name '*.py'", f"sed -n 41,80p {file}")
    for n in range(N_LOOKS):
        found = container.exec_run(["sh", "-c", ways[n % 4]])
        assert found.exit_code == 0, found
    return N_LOOKS


def _rate(jobs: Sequence[Callable[[], int]]) -> float:
    start = time.perf_counter()
    n_turns = sum(_at_once(jobs))
    return n_turns / (time.perf_counter() - start)


def _at_once(jobs: Sequence[Callable[[], Any]]) -> list[Any]:
    with ThreadPoolExecutor(len(jobs)) as threads:
        return [done.result() for done in [threads.submit(job) for job in jobs]]
