"""The Practitioner's Guide's dense rewards: the score's increases, scaled so that a win adds up to 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from milepost.credit.core import Credit, Rewards
from milepost.envs.core import ContractError, Episode


class Dense(Credit):
    """``r_k = interm_k / n``, where ``interm_k`` is the increase of the environment's score in turn k.

    ``n`` is the number of turns that scored if the episode was won, else ``max_total`` (1 for TextWorld), at least 1.
    It takes the place of the outcome. ``sparse=True`` gives the outcome to the last turn and 0 to the others.

    Source: Wang and Ammanabrolu 2025, arXiv 2510.01132.
    Needs: ``info["reward_components"][term]`` at every step (0 where a turn has no such component), an outcome.
    Pair with: ``advantage.rloo``, ``advantage.grpo`` (both use the sum) or ``advantage.turn_rtg``.
    """

    name: ClassVar[str] = "dense"
    needs: ClassVar[frozenset[str]] = frozenset({"reward_components", "outcome"})
    includes_outcome: ClassVar[bool] = True
    paper: ClassVar[str] = "arXiv 2510.01132"
    pair: ClassVar[str] = "rloo"

    def __init__(self, *, term: str = "score", max_total: float = 1.0, sparse: bool = False) -> None:
        self.term = term
        self.max_total = max_total
        self.sparse = sparse

    def on_group(self, group: Sequence[Episode]) -> Rewards:
        """[G][T] shares of a win."""
        return [self._row(episode) for episode in group]

    def _row(self, episode: Episode) -> list[float]:
        final = episode.outcome or 0.0
        if self.sparse:
            return [0.0] * (len(episode.turns) - 1) + [final]
        components = [turn.info.get("reward_components") for turn in episode.turns]
        if not any(components):
            raise ContractError(f"dense needs info['reward_components'][{self.term!r}]; {episode.env_id} gave none")
        return dense([float((c or {}).get(self.term, 0.0)) for c in components], final, self.max_total)


def dense(increases: Sequence[float], final: float, max_total: float = 1.0) -> list[float]:
    """[T] the score's increases over the number of turns that scored (a win, ``final > 0``) or ``max_total``."""
    n = sum(x > 0 for x in increases) if final > 0 else max_total
    return [x / max(1, n) for x in increases]
