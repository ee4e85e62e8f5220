"""A teacher of software engineering: it looks at the bug before it mends it, and slips now and then."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from milepost.agents.core import Request
from milepost.envs.core import Action, Episode
from milepost.envs.swe.diffs import NOWHERE, files
from milepost.envs.swe.oracle import call
from milepost.envs.tool_calls import read_move


class Demonstrator:
    """Opens the file where the bug is, makes the oracle's edit, submits; a share ``noise`` of its turns is any other.

    The oracle alone would edit what it was never shown, which nobody can learn. The place comes from the gold patch.
    """

    version = 0
    reference = True
    """It looks into the environment, which a real agent may not."""

    def __init__(self, noise: float = 0.0) -> None:
        if not 0.0 <= noise < 1.0:
            raise ValueError(f"noise: expected a share of 0..1, below 1, got {noise}")
        self.noise = noise
        self.slips: set[tuple[str, int]] = set()
        """(episode id, turn) of what it did at random: to be shown, not to be imitated."""

    def act(self, requests: Sequence[Request]) -> list[Action]:
        """Return the next step of the repair, or a slip, for each request."""
        return [Action(self._move(request)) for request in requests]

    def forget(self, episode_ids: Sequence[str]) -> None:
        """Slips are kept: they are looked up once the episode is over."""

    def _move(self, request: Request) -> str:
        episode: Episode = request.env.get_wrapper_attr("episode")
        turn = len(episode.turns)
        moves: list[str] = request.env.get_wrapper_attr("oracle")()
        others = [move for move in episode.info_before(turn)["actions"] if move not in moves]
        draw = random.Random(f"{request.seed} slip")
        if others and draw.random() < self.noise:
            self.slips.add((request.episode, turn))
            return str(draw.choice(others))
        (edit,) = read_move(moves[0]).calls
        file, line = place(episode.info_before(0)["answer"])
        if (
            edit.name == "edit"
            and edit.arguments["old"]
            and not any(_shows(m["content"], file, line) for m in request.messages)
        ):
            return call("open", file=file, line=line)
        return moves[0]


def place(patch: str) -> tuple[str, int]:
    """Return the file of a unified diff, and the number of the first line that it takes away or puts another before."""
    for before, after, hunks in files(patch):
        for n_before, old, new in hunks:
            same = takewhile(lambda pair: pair[0] == pair[1], zip(old, new, strict=False))
            return after if before == NOWHERE else before, n_before + 1 + len(list(same))
    raise ValueError(f"a patch that changes no file: {patch!r:.80}")


def _shows(content: Any, file: str, line: int) -> bool:
    text = str(content)
    return text.removeprefix("Edited. ").startswith(f"{file}, lines ") and f"\n{line}|" in text
