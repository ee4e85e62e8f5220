"""Validity: a move that was not executed costs a little."""

from __future__ import annotations

from typing import ClassVar

from milepost.credit.core import Credit
from milepost.envs.core import Episode


class Validity(Credit):
    """``r_t = -penalty`` for a turn whose move was not executed, else 0; None where the environment does not say.

    Source: the penalty of 0.1 is that of Feng et al. 2025, arXiv 2505.10978 (GiGPO).
    Needs: ``info["valid"]`` at steps. Pair with: ``advantage.turn_rtg``, beside ``progress``.
    """

    name: ClassVar[str] = "validity"
    needs: ClassVar[frozenset[str]] = frozenset({"valid"})
    paper: ClassVar[str] = "arXiv 2505.10978"

    def __init__(self, penalty: float = 0.1) -> None:
        self.penalty = penalty

    def on_turn(self, episode: Episode) -> float | None:
        """Return what the newest turn's move cost."""
        valid = episode.turns[-1].info.get("valid")
        return None if valid is None else 0.0 if valid else -self.penalty
