"""Outcome alone: the baseline of every method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from milepost.credit.core import Credit, Level, Rewards
from milepost.envs.core import Episode


class Outcome(Credit):
    """The last turn earns the outcome; the others were not judged.

    Pair with: ``advantage.rloo`` or ``advantage.grpo``.
    """

    name: ClassVar[str] = "outcome"
    needs: ClassVar[frozenset[str]] = frozenset({"outcome"})
    includes_outcome: ClassVar[bool] = True
    level: ClassVar[Level] = "episode"
    pair: ClassVar[str] = "rloo"

    def on_group(self, group: Sequence[Episode]) -> Rewards:
        """[G][T] None, and the outcome at the end (None where it was not scored)."""
        return [[None] * (len(episode.turns) - 1) + [episode.outcome] for episode in group]
