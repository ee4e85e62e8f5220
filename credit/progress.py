"""Progress: every turn earns what it brought the episode closer to its goal."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np

from milepost.credit.core import Credit
from milepost.credit.shaping import Terminal, shaped
from milepost.envs.core import ContractError, Episode, Stop


class Progress(Credit):
    """The rise of the potential: ``r_t = gamma * Phi(s_{t+1}) - Phi(s_t)``, live, turn by turn.

    With minus the planner's remaining length as Phi and gamma 1 it is the drop of that length. ``scale="initial"``
    divides by ``|Phi(s_0)|``, so that a solved task earns 1 in all, whatever its length; every attempt at a task has
    the same ``s_0``, so this is a potential still. ``terminal="zero"`` counts a terminal state's Phi as 0, which the
    theorem demands; the default takes the real Phi at every end, so that a lost game is charged for where it was lost.

    Source: Ng, Harada, Russell 1999. Needs: ``info["potential"]`` at reset and at every step.
    Pair with: ``advantage.turn_rtg``, and ``validity`` beside it.
    """

    name: ClassVar[str] = "progress"
    needs: ClassVar[frozenset[str]] = frozenset({"potential"})
    paper: ClassVar[str] = "Ng, Harada, Russell 1999"

    def __init__(
        self,
        *,
        gamma: float = 1.0,
        terminal: Terminal = "real",
        scale: Literal["none", "initial"] = "none",
    ) -> None:
        if scale not in ("none", "initial"):
            raise ValueError(f"scale: expected 'none' or 'initial', got {scale!r}")
        shaped([0.0], terminal=terminal)
        self.gamma = gamma
        self.terminal: Terminal = terminal
        self.scale = scale

    def on_turn(self, episode: Episode) -> float:
        """Return the newest turn's rise, in the potential's unit or in shares of the initial one."""
        t = len(episode.turns)
        phi = [_potential(episode, t - 1), _potential(episode, t)]
        (rise,) = shaped(phi, gamma=self.gamma, terminal=self.terminal, terminated=episode.stop is Stop.TERMINATED)
        if self.scale == "initial":
            rise /= abs(_potential(episode, 0)) or 1.0
        return rise


def _potential(episode: Episode, t: int) -> float:
    value: Any = episode.info_before(t).get("potential")
    if value is None or not np.isfinite(value):
        at = f"the step of turn {t - 1}" if t else "reset"
        raise ContractError(f"progress needs a finite info['potential'] from {at}; {episode.env_id} gave {value}")
    return float(value)
