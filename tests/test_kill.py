"""A run that is killed at any moment and resumed ends where one that was not killed ends, bit for bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from guide_runs import LADDER, TEXTWORLD, metrics, weights, words
from nursery import Nursery
from safetensors.torch import load_file

from milepost.envs.runs import read_episodes, read_run

LONGER = ["--updates", "4", "--warmup-updates", "3", "--save-every", "1"]


def reached(run: Path) -> dict[str, Any]:
    """Return all that a run reached, without the clock and its own place."""
    clock = {"seconds", "peak_rss_bytes", "settings", "versions"}
    state = json.loads((run / "summary.json").read_text())
    episodes = {
        e.id: [(t.observation, t.action.text, t.reward, t.credit, t.advantage) for t in e.turns]
        for e in read_episodes(run)
    }
    summary = {key: value for key, value in state.items() if key not in clock}
    return {"metrics": metrics(run), "summary": summary, "episodes": episodes}


def assert_same(ours: Path, theirs: Path) -> None:
    assert reached(ours) == reached(theirs)
    for file in ("model/model.safetensors", f"checkpoints/{newest(theirs):06d}/trainer.safetensors"):
        a, b = load_file(ours / file), load_file(theirs / file)
        assert list(a) == list(b)
        assert all(torch.equal(a[name], b[name]) for name in a), file


def newest(run: Path) -> int:
    """Return the number of the newest checkpoint, 0 where there is none."""
    return max((int(path.name) for path in run.glob("checkpoints/*") if path.name.isdigit()), default=0)


def wait_for(happens: Callable[[], bool], pid: int) -> None:
    while not happens() and psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.001)


def kill(pid: int) -> None:
    """Kill the process; what it started must be gone soon."""
    children = psutil.Process(pid).children(recursive=True)
    os.kill(pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive, "a helper process outlives its parent"


def n_starts(run: Path) -> int:
    return read_run(run).starts if (run / "run.json").exists() else 0


@pytest.mark.slow
def test_a_run_that_is_killed_ten_times_ends_where_it_would_have_ended(tmp_path: Path):
    whole, killed, games = tmp_path / "whole", tmp_path / "killed", tmp_path / "cache" / "milepost" / "textworld"
    saves, chance = killed / "checkpoints", random.Random(0)
    moments = [("saving", n) for n in (0, 1, 2)] + [("between", n) for n in (0, 1, 1, 2, 2)]
    chance.shuffle(moments)
    half_done = {"compiling": 0, "saving": 0}
    with Nursery(tmp_path / "cache") as nursery:
        for moment, n_saves in [("compiling", 0), ("compiling", 0), *moments]:
            starts, save = n_starts(killed), newest(killed) + n_saves
            pid = nursery.start(words(killed, *LONGER, "--resume", env=TEXTWORLD))
            wait_for(lambda starts=starts: n_starts(killed) > starts, pid)
            if moment == "compiling":
                wait_for(lambda: any(games.glob("*/.*")), pid)
                time.sleep(chance.uniform(0.0, 0.2))
            elif moment == "saving":
                wait_for((saves / f".new-{save + 1:06d}").exists, pid)
                time.sleep(chance.uniform(0.0, 0.004))
            else:
                wait_for(lambda save=save: newest(killed) >= save, pid)
                time.sleep(chance.uniform(0.0, 0.2))
            kill(pid)
            assert nursery.wait() == -signal.SIGKILL, f"it ended before it was killed: {moment}"
            half_done["compiling"] += moment == "compiling" and any(games.glob("*/.*"))
            half_done["saving"] += any(saves.glob(".new-*"))
        assert min(half_done.values()) >= 1, half_done
        assert newest(killed) >= 9
        nursery.start(words(killed, *LONGER, "--resume", env=TEXTWORLD))
        assert nursery.wait() == 0
        nursery.start(words(whole, *LONGER, env=TEXTWORLD))
        assert nursery.wait() == 0
    assert n_starts(killed) == 11
    assert_same(killed, whole)


@pytest.mark.slow
def test_the_ladder_killed_and_resumed_ends_where_it_would_have_ended(tmp_path: Path):
    small = ["train", "ladder_gra", "--updates", "12", "--warmup-updates", "2", "--groups", "2", "--group", "2"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    with Nursery(tmp_path / "cache") as nursery:
        for checkpoint in ("000004", "000009"):
            pid = nursery.start([*small, "--out", str(killed), "--resume"])
            wait_for((killed / "checkpoints" / checkpoint).exists, pid)
            time.sleep(0.02)
            kill(pid)
            assert nursery.wait() == -signal.SIGKILL
        for out in (killed, whole):
            nursery.start([*small, "--out", str(out), *(["--resume"] if out == killed else [])])
            assert nursery.wait() == 0
    assert n_starts(killed) == 3
    assert metrics(killed) == metrics(whole)
    ours, theirs = weights(killed), weights(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.slow
def test_two_ranks_of_which_one_is_killed_end_where_they_would_have_ended(tmp_path: Path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launch += ["-m", "milepost.recipes.textworld_guide"]

    def torchrun(out: Path, *flags: str) -> subprocess.Popen[bytes]:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen([*launch, *words(out, *LONGER, *flags, env=LADDER)[2:]], **quiet)  # type: ignore[call-overload]

    for rank, checkpoint in enumerate(("000005", "000008")):
        launcher = torchrun(killed, "--resume")
        wait_for((killed / "checkpoints" / checkpoint).exists, launcher.pid)
        ranks = [p for p in psutil.Process(launcher.pid).children() if "textworld_guide" in " ".join(p.cmdline())]
        of = [p for p in ranks if p.environ().get("RANK") == str(rank)]
        of[0].kill()
        assert launcher.wait(timeout=60) != 0
        psutil.wait_procs(ranks, timeout=30)
    assert torchrun(killed, "--resume").wait(timeout=120) == 0
    assert torchrun(whole).wait(timeout=120) == 0
    assert_same(killed, whole)
