"""An evaluation that is killed at any moment and resumed reaches what one that was not killed reaches."""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from eval_agents import LADDER, counted

from milepost.envs.core import Stop
from milepost.envs.runs import read_episodes, read_run

N = 80


def start(out: Path, log: Path, *flags: str, concurrency: int = 7) -> subprocess.Popen[str]:
    words = ["eval", LADDER, "--agent", "eval_agents:slow", "--attempts", str(N // 4), "--out", str(out)]
    return subprocess.Popen(
        [sys.executable, "-m", "milepost.recipes.cli", *words, "--concurrency", str(concurrency), *flags],
        cwd=Path(__file__).parent,
        env={**os.environ, "EVAL_TEST_LOG": str(log)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(out: Path) -> set[str]:
    """Return the ids of the episodes on disk that count."""
    if not (out / "run.json").exists():
        return set()
    return {episode.id for episode in read_episodes(out) if episode.stop and episode.stop.counts}


def n_lines(out: Path) -> int:
    """Return about how many episodes are on disk, however half-written the last is."""
    return sum(shard.read_bytes().count(b"\n") for shard in out.glob("episodes/*.jsonl"))


def wait_for_more(out: Path, process: subprocess.Popen[str]) -> None:
    before = n_lines(out)
    while n_lines(out) == before and process.poll() is None:
        time.sleep(0.002)


def results(out: Path) -> dict[str, Any]:
    return counted(json.loads((out / "results.json").read_text()))


@pytest.fixture(scope="module", name="whole")
def what_an_uninterrupted_run_reaches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("whole")
    process = start(folder / "run", folder / "log", concurrency=16)
    assert process.communicate(timeout=120)[1].startswith(f"{N} of {N} done") or process.returncode == 0
    told = results(folder / "run")
    assert told["complete"]
    assert 0 < told["success"]["rate"] < 1
    return told


@pytest.mark.filterwarnings("ignore:.*the last line is cut off")
def test_killed_many_times_it_reaches_the_same_and_plays_no_finished_episode_again(whole, tmp_path: Path):
    out, log, chance = tmp_path / "run", tmp_path / "log", random.Random(5)
    n_kills = 0
    for concurrency in (1, 64, 7, 3, 16, 2):
        kept, n_asked = finished(out), len(log.read_text().splitlines()) if log.exists() else 0
        process = start(out, log, "--resume", concurrency=concurrency)
        wait_for_more(out, process)
        time.sleep(chance.uniform(0.0, 0.04))
        process.send_signal(signal.SIGKILL)
        n_kills += process.wait() == -signal.SIGKILL
        process.communicate()
        again = set(log.read_text().splitlines()[n_asked:])
        assert not again & kept
        assert kept <= finished(out)
        if (out / "results.json").exists():
            break
    assert n_kills >= 3
    process = start(out, log, "--resume", concurrency=64)
    process.communicate(timeout=120)
    assert process.returncode == 0
    assert read_run(out).starts == n_kills + 1
    assert results(out) == whole


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_stopped_it_counts_what_is_finished_and_says_how_to_go_on(name: str, whole, tmp_path: Path):
    out, log = tmp_path / "run", tmp_path / "log"
    process = start(out, log)
    wait_for_more(out, process)
    process.send_signal(signal.Signals[name])
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    last = stderr.splitlines()[-1]
    assert last.startswith("stopped; what was finished is kept. Go on with: milepost eval ")
    assert "Traceback" not in stderr
    part = json.loads((out / "results.json").read_text())
    assert 1 <= part["played"] == len(finished(out)) < N
    assert not part["complete"]
    assert {e.stop for e in read_episodes(out)} <= {Stop.TERMINATED, Stop.MAX_TURNS, Stop.CANCELLED}
    again = shlex.split(last.partition("milepost eval ")[2])
    ran = subprocess.run(
        [sys.executable, "-m", "milepost.recipes.cli", "eval", *again, "--json"],
        cwd=Path(__file__).parent,
        env={**os.environ, "EVAL_TEST_LOG": str(log)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0
    assert counted(json.loads(ran.stdout)) | {"paid": 0} == whole | {"paid": 0}
