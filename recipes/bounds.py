"""Which numbers make sense as settings of a training run; all others are refused before anything is played."""

from __future__ import annotations

import math
from typing import Any

COUNTED = [
    "n_train",
    "games",
    "group",
    "probe_every",
    "save_every",
    "max_turns",
    "max_new_tokens",
    "max_context",
    "warmup_demos",
    "rl_layers",
]
"""Whole numbers from 1."""
FROM_ZERO = ["n_test", "n_probe", "warmup_updates", "updates", "lora", "patience", "seed"]
"""Whole numbers from 0."""
POSITIVE = ["lr", "warmup_lr", "credit_lr", "loss_constant"]
SHARES = ("gamma",)
"""From 0 to 1."""
PARTS = ("noise", "haste")
"""From 0, below 1."""
FINITE = ("step_weight",)


def check_numbers(args: Any) -> None:
    """Refuse settings of a recipe that leave nothing to do or mean nothing.

    Raises:
        ValueError: It names the flag, and says what was expected.
    """
    rules = (
        (COUNTED, "1 or more", lambda value: value >= 1),
        (FROM_ZERO, "0 or more", lambda value: value >= 0),
        (POSITIVE, "a positive number", lambda value: 0 < value < math.inf),
        (SHARES, "a share of 0..1", lambda value: 0 <= value <= 1),
        (PARTS, "a share of 0..1, below 1", lambda value: 0 <= value < 1),
        (FINITE, "a number", math.isfinite),
    )
    for names, expected, holds in rules:
        for name in names:
            if hasattr(args, name) and not holds(value := getattr(args, name)):
                raise ValueError(f"--{name.replace('_', '-')}: expected {expected}, got {value}")
