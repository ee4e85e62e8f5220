"""The page about one's own environment is true as printed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import pytest

from milepost.envs.check import check

PAGE = Path(__file__).parents[1] / "docs" / "your-environment.md"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert len(block.splitlines()) <= 25
    (tmp_path / "my_module.py").write_text(block, encoding="utf-8")
    return tmp_path


def test_the_printed_environment_keeps_the_contract(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    monkeypatch.delitem(sys.modules, "my_module", raising=False)  # another test may have printed another page
    report = check("my_module:my/Guess-v0")
    assert report.ok, report.failures
    env = gym.make("my/Guess-v0")
    env.reset(options={"task": "7"})
    assert env.step("3")[0] == "Higher."
    assert env.step("nine")[0] == "No number."
    assert env.step("7")[1:3] == (1.0, True)


@pytest.mark.parametrize(
    ("name", "told"), [("check", "my_module:my/Guess-v0: keeps the contract"), ("eval", "100.0 % [84, 100]")]
)
def test_the_printed_command_checks_and_plays_it(folder: Path, name: str, told: str):
    (command,) = re.findall(rf"^milepost ({name} .*)$", PAGE.read_text(encoding="utf-8"), re.M)
    words = [sys.executable, "-m", "milepost.recipes.cli", *command.split()]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert told in done.stdout
