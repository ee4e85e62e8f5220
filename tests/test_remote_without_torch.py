"""Who evaluates what is behind an endpoint installs milepost[eval] and nothing more: no torch, no simulator."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from wheels import ALONE, installed, run

from milepost.envs.scripted_endpoint import serve_in_process

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installed(tmp_path_factory.mktemp("remote"), "[eval]")


def evaluated(python: Path, folder: Path, *words: str) -> dict:
    milepost = python.parent / "milepost"
    return json.loads(run(milepost, "eval", "milepost/Ladder-v0", *words, "--json", "--out", "run", cwd=folder))


def test_there_is_no_torch(python, tmp_path):
    code = "import importlib.util as u; print([n for n in ('torch', 'transformers', 'textworld') if u.find_spec(n)])"
    assert run(python, "-c", code, cwd=tmp_path) == "[]\n"


def test_an_endpoint_is_evaluated(python, tmp_path):
    with serve_in_process("climb") as base_url:
        found = evaluated(python, tmp_path, "--agent", "openai:scripted", "--base-url", base_url)
    # the ladders of the split test: two of five rungs and two of six, climbed without a step too many
    assert (found["n"], found["complete"], found["failed"]) == (4, True, 0)
    assert found["success"]["rate"] == 1.0
    assert found["turns"] == 5.5
    line = run(python.parent / "milepost", "export", "run", "--to", "openai-chat", cwd=tmp_path)
    assert line == "run/openai-chat.jsonl: 4 episodes\n"


def test_an_endpoint_that_dusts_has_not_solved_anything(python, tmp_path):
    with serve_in_process("dust") as base_url:
        found = evaluated(python, tmp_path, "--agent", "openai:scripted", "--base-url", base_url)
    assert (found["n"], found["complete"], found["failed"], found["success"]["rate"]) == (4, True, 0, 0.0)


def test_the_oracle_is_evaluated(python, tmp_path):
    found = evaluated(python, tmp_path, "--agent", "oracle")
    assert (found["n"], found["complete"], found["success"]["rate"]) == (4, True, 1.0)


def test_a_local_model_says_which_extra_it_needs(python, tmp_path):
    command = [python.parent / "milepost", "eval", "milepost/Ladder-v0", "--agent", "local:tiny"]
    ran = subprocess.run(command, cwd=tmp_path, env=ALONE, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (2, "milepost: this needs torch: pip install 'milepost[train]'\n")
