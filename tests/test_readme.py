"""What the README and the pages beside it print is true: the loop runs, links and commands lead somewhere."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from milepost.recipes.cli import COMMANDS, recipe_names

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "AGENTS.md", *sorted((ROOT / "docs").glob("*.md"))]


def printed(page: Path, language: str) -> list[str]:
    """Return the blocks of a page that are fenced as this language."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.S | re.M)
    return [block for told, block in fenced if told == language]


def test_the_loop_of_ones_own_runs_as_printed(tmp_path: Path):
    (code,) = printed(ROOT / "README.md", "python")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    metrics, credit = (ast.literal_eval(line) for line in done.stdout.splitlines())
    assert metrics["credit/gra/not_finite"] == 0
    climbs, rests, dusts = [0.0, 0.0, 0.0, 0.0, 0.0, 1.0], [0.0] * 8, [0.0] * 8
    assert credit == [climbs, rests, dusts, climbs]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page: Path):
    links = re.findall(r"\]\(([^)\s]+)\)|<img[^>]* src=\"([^\"]+)\"", page.read_text(encoding="utf-8"))
    ours = [link for pair in links for link in pair if link and not re.match(r"[a-z]+:|#", link)]
    assert [link for link in ours if not (page.parent / link.partition("#")[0]).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_printed_command_is_there(page: Path):
    lines = [line for language in ("bash", "") for block in printed(page, language) for line in block.splitlines()]
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[:1] == ["milepost"]:
            assert words[1] in COMMANDS, line
            assert words[1] != "train" or words[2] in recipe_names(), line
        elif words[:1] == ["python"]:
            assert (ROOT / words[1]).exists(), line
        elif words[:1] == ["make"]:
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M), line
