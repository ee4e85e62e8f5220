"""Two real processes over gloo."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from ranks import run

from milepost.agents import distributed

COMMAND = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
SCRIPT = str(Path(__file__).with_name("ranks.py"))


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, SCRIPT, *arguments], capture_output=True, text=True, timeout=120, check=False)


def test_two_ranks_train_like_one_process(tmp_path: Path):
    done = torchrun(str(tmp_path / "weights"), "lives")
    assert done.returncode == 0, done.stderr
    theirs, their_metrics = torch.load(tmp_path / "weights")
    ours, our_metrics = run()
    assert (theirs - ours).abs().max() <= 1e-6
    for got, expected in zip(their_metrics, our_metrics, strict=True):
        assert got == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_a_rank_that_dies_ends_the_run_with_a_clear_line(tmp_path: Path):
    done = torchrun(str(tmp_path / "weights"), "dies")
    assert done.returncode != 0
    assert "rank 0 of 2: another process of this run died or hangs" in done.stderr
    assert not (tmp_path / "weights").exists()


@pytest.mark.slow
def test_ranks_die_with_their_launcher(tmp_path: Path):
    files = [tmp_path / f"pid-{rank}" for rank in range(2)]
    with subprocess.Popen([*COMMAND, SCRIPT, str(tmp_path / "pid"), "waits"], stderr=subprocess.DEVNULL) as launcher:
        deadline = time.monotonic() + 60
        while not all(file.exists() and file.read_text() for file in files) and time.monotonic() < deadline:
            time.sleep(0.1)
        launcher.kill()
    pids = [int(file.read_text()) for file in files]
    deadline = time.monotonic() + 10
    while any(map(lives, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(lives, pids))


def lives(pid: int) -> bool:
    """Return whether a process runs (one that ended and was not waited for does not)."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_more_processes_than_gpus_are_refused():
    assert [distributed.own_gpu(place, 2) for place in (0, 1)] == [0, 1]
    with pytest.raises(ValueError, match=r"process 2 of this machine needs a GPU of its own, got 1: .*PROCESSES=1"):
        distributed.own_gpu(1, 1)


def test_one_process_is_a_world_of_its_own():
    assert not distributed.init()
    assert (distributed.rank(), distributed.world()) == (0, 1)
    assert distributed.share([1, 2, 3]) == [1, 2, 3]
    assert distributed.gather("x") == ["x"]
    assert distributed.sum_numbers({"a": 2.0}) == {"a": 2.0}
