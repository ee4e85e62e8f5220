"""Small runs of the Guide's recipe, for the tests of what it does and survives."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from milepost.envs.runs import read_metrics
from milepost.recipes.cli import main

SMALL = shlex.split(
    "--model tiny --dtype fp32 --lora 4 --rl-layers 2 --n-train 4 --n-test 2 --n-probe 1 --games 2 --group 2 "
    "--warmup-updates 2 --warmup-demos 2 --updates 2 --probe-every 1 --save-every 1 --max-new-tokens 6"
)
"""Two updates of each training, a checkpoint after every one."""
LADDER = ["--env", "milepost/Ladder-v0", "--option", "max_episode_steps=5"]
TEXTWORLD = ["--level", "w1-o2-q1", "--max-turns", "2"]


def words(out: Path, *flags: str, env: list[str] = LADDER) -> list[str]:
    """Return the arguments of ``milepost`` for a small run; later flags win."""
    return ["train", "textworld_guide", *SMALL, *env, "--out", str(out), *flags]


def train(out: Path, *flags: str, env: list[str] = LADDER) -> int:
    """Train in this process; return the exit code."""
    return main(words(out, *flags, env=env))


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Return the trained model."""
    return load_file(run / "model" / "model.safetensors")


def metrics(run: Path) -> list[dict[str, Any]]:
    """Return the metrics without the clock."""
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in read_metrics(run)]
