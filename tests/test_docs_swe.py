"""The page about software engineering is true: its commands run in its order, and its tables name what there is."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from swe_cheats import CHEATS
from swe_packages import real_tools

from milepost.envs.swe.env import WORTH
from milepost.envs.swe.tasks import default_ids
from milepost.envs.swe.tools import NAMES, Workbench

PAGE = (Path(__file__).parents[1] / "docs" / "swe.md").read_text(encoding="utf-8")
PLACE = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def rows(head: str) -> list[list[str]]:
    """Return the cells of the table whose head begins so."""
    table = PAGE[PAGE.index(head) :].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, env=PLACE, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.slow
def test_the_program_of_the_page_solves_a_bug(tmp_path: Path):
    real_tools()
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.S | re.M)
    out = run([sys.executable, "-c", code], tmp_path)
    assert "There is a bug in inflection 0.5.1." in out
    assert re.search(r"^resolved \{'format': 1.0, .*'regressions': -?0.0\} (docker|bubblewrap)$", out, re.M)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_commands_of_the_page_run_in_its_order(tmp_path: Path):
    real_tools()
    (block,) = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.S | re.M)
    commands = [shlex.split(line, comments=True) for line in block.splitlines()]
    assert [command[1] for command in commands] == ["eval", "swe", "swe", "eval"]
    for command in commands:
        few = ["--episodes", "2"] if "swe-mini" in command else []  # all fifty take minutes
        run([*command, *few], tmp_path)
    assert len((tmp_path / "verified.jsonl").read_text().splitlines()) == 27
    assert len((tmp_path / "tasks.jsonl").read_text().splitlines()) == 2


def test_the_tools_of_the_page_are_the_tools():
    told = [re.findall(r"`(\w+)\((.*?)\)`", row[0])[0] for row in rows("| call | does |")]
    real = [(name, [*inspect.signature(getattr(Workbench, name)).parameters][1:]) for name in NAMES]
    assert [(name, given.split(", ") if given else []) for name, given in told] == real


def test_the_worths_of_the_page_are_the_worths():
    table = {row[0].strip('`"'): row[1:] for row in rows("| `outcome=` |")}
    for name, worth in WORTH.items():
        assert [float(cell) for cell in table[name]] == list(worth.values())
    assert table["fraction"][0] == "1"


def test_the_counts_of_the_page_are_the_counts():
    assert all(f"{len(default_ids(split))}" in PAGE for split in ("train", "valid", "test"))
    table = rows("| kind | scripts |")
    assert sum(int(row[1]) for row in table) == len(CHEATS)
    assert sum(int(row[2]) for row in table) == sum(cheat.fools_exit_code for cheat in CHEATS.values())
    assert f"{len(CHEATS)} cheating scripts" in PAGE
