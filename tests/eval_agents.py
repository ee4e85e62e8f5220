"""Agents for the tests of evaluation: what they answer depends on the request alone."""

from __future__ import annotations

import os
import time
import zlib
from typing import Any

from milepost.agents.core import Request
from milepost.envs.core import Action, Usage

LADDER = "milepost/Ladder-v0"


def choose(text: str, seed: int) -> str:
    """Climb mostly, dust sometimes, by the text and the seed."""
    return "dust" if zlib.crc32(f"{text} {seed}".encode()) % 8 == 0 else "climb"


def priced(request: Request) -> Action:
    """Answer for 0.01, ten tokens in and one out."""
    usage = Usage(10, 0, 1, 0.0, 0.01)
    return Action(choose(str(request.messages[-1]["content"]), request.seed), usage=usage)


def slow(messages: list[dict[str, Any]], seed: int, episode: str) -> str:
    """Answer after some milliseconds; note in the file ``EVAL_TEST_LOG`` in which episode."""
    with open(os.environ["EVAL_TEST_LOG"], "a") as log:
        log.write(f"{episode}\n")
    time.sleep(0.008)
    return choose(str(messages[-1]["content"]), seed)


def counted(results: dict[str, Any]) -> dict[str, Any]:
    """Return results without the clock."""
    if isinstance(results, dict):
        return {key: counted(value) for key, value in results.items() if key != "seconds"}
    return results
