"""Tasks of a package of two files, written by hand, to play in real sandboxes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sandboxes import need
from swe_packages import TINY, offer, real_tools

from milepost.envs.hooks import TurnHooks
from milepost.envs.make import make
from milepost.envs.swe import test_tools
from milepost.envs.swe.mutate import Edit
from milepost.envs.swe.tasks import SweTask, write

TASK = "tiny-1.0:tiny.py:easy:0"
TWO = "tiny-1.0:tiny.py:hard:0"
TOTAL, START, MIDDLE, TURNED = (f"test_tiny.py::test_{name}" for name in ("total", "start", "middle", "turned"))
SAID = f"""There is a bug in tiny 1.0. These 2 tests fail:

{MIDDLE}
    assert 16 == 4

{TURNED}
    assert 24 == 6

Correct the package so that all tests pass. Do not change the tests."""
FIX = ("return (low + high) * 2", "return (low + high) // 2")
OTHER_FIX = ("result = start + 1", "result = start")


def edit(before: str, after: str) -> Edit:
    """Return the edit of a text that is in tiny.py once."""
    begin = len(TINY[: TINY.index(before)].encode())
    return Edit("tiny.py", "?", begin, begin + len(before.encode()), before, after)


EASY = SweTask(
    TASK, "tiny", "1.0", "train", "easy", (edit("// 2", "* 2"),), SAID, (MIDDLE, TURNED), (TOTAL, START), 0.2
)
HARD = replace(
    EASY,
    id=TWO,
    level="hard",
    edits=(edit("= start\n", "= start + 1\n"), edit("// 2", "* 2")),
    fail_to_pass=(MIDDLE, START, TOTAL, TURNED),
    pass_to_pass=(),
)


@contextmanager
def tiny_tasks(folder: Path, *tasks: SweTask) -> Iterator[Path]:
    """Write tasks into a file, with the package behind them and a cache of one's own, for as long as this lasts."""
    tools = real_tools()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(test_tools, "tools", lambda: tools)
        offer(folder, patch)
        write(folder / "tasks.jsonl", tasks or (EASY, HARD))
        yield folder / "tasks.jsonl"


def options(file: Path, backend: str = "bubblewrap", **more: Any) -> dict[str, Any]:
    """Return options of the environment; what landlock cannot enforce may go unenforced."""
    allow = ["disk", "processes"] if backend == "landlock" else []
    return {"tasks": str(file), "backend": need(backend), "allow": allow, **more}


@contextmanager
def begun(file: Path, task: str = TASK, **more: Any) -> Iterator[TurnHooks]:
    """Begin an episode, and close its environment in the end."""
    env = TurnHooks(make("milepost/SWE-v0", **options(file, **more)))
    try:
        env.reset(options={"task": task})
        yield env
    finally:
        env.close()


def oracle(env: TurnHooks) -> list[str]:
    """Return what is left to do."""
    moves: list[str] = env.get_wrapper_attr("oracle")()
    return moves


def solve(env: TurnHooks) -> dict[str, Any]:
    """Play the oracle's moves; return the info of the last."""
    info: dict[str, Any] = {}
    for move in oracle(env):
        *_, info = env.step(move)
    return info
