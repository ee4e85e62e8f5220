"""Potential-based shaping: rewards for coming closer that leave the best policy the best."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

Terminal = Literal["real", "zero"]
"""What the potential of a terminal state counts as: what it is, or 0."""


def shaped(
    potentials: Sequence[float], *, gamma: float = 1.0, terminal: Terminal = "real", terminated: bool = True
) -> list[float]:
    """Return ``[T]`` ``F_t = gamma * Phi(s_{t+1}) - Phi(s_t)`` from the ``[T + 1]`` potentials of the states passed.

    Discounted by the same gamma they telescope to ``gamma^T * Phi(s_T) - Phi(s_0)``. The best policy stays the best if
    F is added to the reward, gamma is that of the returns, nothing rescales F by group afterwards, and the last term
    does not depend on how the episode ended: ``terminal="zero"`` makes it 0 in every terminal state. Where an episode
    was cut (``terminated=False``) the state is not terminal and its real potential stands.

    Source: Ng, Harada, Russell 1999 (terminal="zero").
    """
    if terminal not in get_args(Terminal):
        raise ValueError(f"terminal: expected 'real' or 'zero', got {terminal!r}")
    phi = list(potentials)
    if not phi:
        raise ValueError("potentials: expected one per state, that is one more than turns, got none")
    if terminated and terminal == "zero":
        phi[-1] = 0.0
    return [gamma * after - before for before, after in pairwise(phi)]
