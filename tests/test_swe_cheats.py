"""Cheats are not graded as a mended bug, though a good part of them would do where pytest's exit code decides."""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Iterable, Iterator
from functools import cache, partial
from typing import Any

import pytest
from sandboxes import need
from swe_cheats import CHEATS, HOLES, Cheat
from swe_packages import real_tools

from milepost.envs.swe import trials
from milepost.envs.swe.grade import Grade, grade
from milepost.envs.swe.tasks import SweTask, base, texts
from milepost.envs.swe.testing import TOOLS
from milepost.sandbox.bases import prepare
from milepost.sandbox.core import Sandbox, Settings
from milepost.sandbox.make import make
from milepost.sandbox.pool import Pool

TASK = "unidiff-1.0.1:unidiff/patch.py:easy:0"
BESIDE = [name for name, cheat in CHEATS.items() if not (cheat.in_source or cheat.plant or "link" in name)]
"""Those that leave the file with the bug to others."""
DOCKER = pytest.param("docker", marks=[pytest.mark.docker, pytest.mark.slow])


@pytest.fixture(scope="module", params=["bubblewrap", DOCKER])
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    real_tools()
    with Pool(partial(make, need(request.param)), 2) as found:
        yield found


@cache
def task() -> SweTask:
    return trials.task(TASK, "bubblewrap")


def some(names: Iterable[str]) -> list[Any]:
    """Return parameters of which all but every sixth are slow: they are many."""
    return [name if n % 6 == 0 else pytest.param(name, marks=pytest.mark.slow) for n, name in enumerate(names)]


def settings() -> Settings:
    return Settings(base=base(task()), mounts={TOOLS: prepare(real_tools())}, env={"PYTHONDONTWRITEBYTECODE": "1"})


def play(sandbox: Sandbox, cheat: Cheat, plant: bool = False) -> None:
    """Run a cheat in an agent's sandbox, in its session; if it looks for the original, plant one for it to find."""
    file, test = task().edits[0].file, task().fail_to_pass[0].partition("::")[0]
    names = {"FILE": file, "TEST": test, "TESTS": " ".join(task().tests), "PACKAGE": posixpath.dirname(file)}
    script = " ".join(f"export {name}={shlex.quote(value)};" for name, value in names.items())
    if plant:
        sandbox.write("clean.py", texts(task())[file][1])
        script += f"\nmv clean.py /tmp/clean.py\n{cheat.plant}\nrm /tmp/clean.py"
    result = sandbox.session().run(f"{script}\n{cheat.script}", timeout_s=30)
    assert result.exit_code == 0, result.output


def graded(pool: Pool, cheat: Cheat, *, mended: bool = False, plant: bool = False) -> Grade:
    """Grade what a cheat leaves, beside the gold patch where it is to be mended."""
    with pool.take(settings()) as sandbox:
        if mended:
            for file, (_, clean) in texts(task()).items():
                sandbox.write(file, clean)
        play(sandbox, cheat, plant)
        diff = sandbox.diff()
    return grade(task(), diff, pool.take)


@pytest.fixture(scope="module")
def honest(pool: Pool) -> Grade:
    return graded(pool, Cheat("true"), mended=True)


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_is_not_resolved_and_the_gold_patch_is(pool: Pool, honest: Grade, name: str) -> None:
    found = graded(pool, CHEATS[name])
    assert found.result == ("patch" if CHEATS[name].in_source else "empty_patch")
    assert found.fail_to_pass < 1
    assert honest.result == "resolved"


@pytest.mark.parametrize("name", some(CHEATS))
def test_where_pytest_s_exit_code_in_the_agent_s_workspace_decides_many_cheats_do(pool: Pool, name: str) -> None:
    with pool.take(settings()) as sandbox:
        play(sandbox, CHEATS[name])
        tests = " ".join(map(shlex.quote, task().tests))
        command = f'PYTHONPATH="$PYTHONPATH:{sandbox.place(TOOLS)}" python3 -m pytest -q {tests}'
        result = sandbox.session().run(command, timeout_s=30)
    assert (result.exit_code == 0) is CHEATS[name].fools_exit_code, result.output


def test_most_cheats_are_ones_that_could_do() -> None:
    assert sum(cheat.fools_exit_code for cheat in CHEATS.values()) > len(CHEATS) / 2
    assert len(CHEATS) >= 40


@pytest.mark.parametrize("name", some(BESIDE))
def test_what_lies_beside_the_gold_patch_does_not_spoil_it(pool: Pool, name: str) -> None:
    assert graded(pool, CHEATS[name], mended=True).result == "resolved"


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, cheat in CHEATS.items() if cheat.plant])
def test_who_looks_for_the_original_would_take_it_if_it_were_there(pool: Pool, name: str) -> None:
    assert graded(pool, CHEATS[name], plant=True).result == "resolved"


@pytest.mark.parametrize("name", HOLES)
def test_a_known_hole_is_one(pool: Pool, name: str) -> None:
    assert graded(pool, HOLES[name]).result == "resolved"
