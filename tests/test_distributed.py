"""Two real processes over gloo."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ranks import run

from milepost.agents import distributed


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = str(Path(__file__).with_name("ranks.py"))
    return subprocess.run([*command, script, *arguments], capture_output=True, text=True, timeout=120, check=False)


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


def test_one_process_is_a_world_of_its_own():
    assert not distributed.init()
    assert (distributed.rank(), distributed.world()) == (0, 1)
    assert distributed.share([1, 2, 3]) == [1, 2, 3]
    assert distributed.gather("x") == ["x"]
    assert distributed.sum_numbers({"a": 2.0}) == {"a": 2.0}
