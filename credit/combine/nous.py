"""Nous: a turn earns the bits of uncertainty about the task that it removed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import ClassVar

from milepost.credit.core import Credit, Rewards
from milepost.envs.core import ContractError, Episode

Slots = Mapping[str, Sequence[float]]
"""For each slot of a structured description of the task the probabilities of its values, which sum to 1."""
TOLERANCE = 1e-3
"""How far from 1 a sum of probabilities may lie: beliefs are often elicited from a model, in a few digits."""


class Nous(Credit):
    """``r_t = H(belief before turn t) - H(belief after it)``, in bits; ``H`` is the sum of the slots' entropies.

    A row sums to all the uncertainty that was removed. No true answer is needed if the belief is elicited from a model.

    Args:
        belief: ``belief(episode, t)`` is what is believed before turn t, t = 0..T (T: at the end). Where a state's
            belief is unknown (None) the turns on both sides of it were not judged. An environment that knows its
            posterior gives it in ``info``, under a key of its own:
            ``Nous(lambda episode, t: episode.info_before(t)["belief"])``.

    Source: arXiv 2510.27410. Needs: ``belief``. Pair with: ``advantage.turn_rtg``.
    """

    name: ClassVar[str] = "nous"
    needs: ClassVar[frozenset[str]] = frozenset({"belief"})
    paper: ClassVar[str] = "arXiv 2510.27410"

    def __init__(self, belief: Callable[[Episode, int], Slots | None]) -> None:
        self.belief = belief

    def on_group(self, group: Sequence[Episode]) -> Rewards:
        """[G][T] bits removed."""
        return [self._row(episode) for episode in group]

    def _row(self, episode: Episode) -> list[float | None]:
        bits = [self._bits(episode, t) for t in range(len(episode.turns) + 1)] if episode.turns else []
        return [None if before is None or after is None else before - after for before, after in pairwise(bits)]

    def _bits(self, episode: Episode, t: int) -> float | None:
        try:
            slots = self.belief(episode, t)
        except KeyError as error:
            where = f"the step of turn {t - 1}" if t else "reset"
            raise ContractError(f"nous: the belief needs {error} from {where}; {episode.env_id} gave none") from None
        try:
            return None if slots is None else entropy_bits(slots)
        except ValueError as error:
            raise ContractError(f"nous: episode {episode.id!r}, the belief before turn {t}: {error}") from None


def entropy_bits(slots: Slots) -> float:
    """Return the sum of the Shannon entropies of the slots, in bits.

    Raises:
        ValueError: A slot has a negative or nan probability, or they do not sum to 1.
    """
    total = 0.0
    for name, probabilities in slots.items():
        if not (abs(sum(probabilities) - 1.0) <= TOLERANCE and min(probabilities) >= 0.0):
            raise ValueError(f"slot {name!r}: expected probabilities that sum to 1, got {list(probabilities)}")
        total -= sum(p * math.log2(p) for p in probabilities if p > 0.0)
    return total
