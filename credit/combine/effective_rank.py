"""How many directions the hidden states of an answer use, how that changes, and an advantage that rewards it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from milepost.credit.cards import method
from milepost.credit.combine.arrays import alike, finite, sigmoid
from milepost.credit.normalise import Floats


@method("effective_rank", "metric", level="episode", needs="token_model", paper="arXiv 2509.23808")
def effective_rank(hidden: ArrayLike) -> float:
    """Return ``exp(entropy of the normalised singular values)`` of ``[A, D]`` hidden states less their mean.

    0 for fewer than two tokens, or where all are alike: there is no direction.

    Source: Huang et al. 2025, arXiv 2509.23808 (VERL); Roy and Vetterli 2007 (the rank).
    """
    states = finite("effective_rank: hidden", hidden, 2)
    return erank(np.linalg.svd(states - states.mean(0), compute_uv=False)) if len(states) > 1 else 0.0


def erank(singular_values: ArrayLike) -> float:
    """Return ``exp(-sum p log p)``, ``p = s / sum s`` of ``[n]`` singular values: 1 to n, and 0 where all are 0."""
    s = finite("effective_rank: singular values", singular_values, 1)
    if (s < 0).any():
        raise ValueError(f"effective_rank: singular values: expected none below 0, got {s.min():g}")
    if not len(s) or s.max() < 1e-12:
        return 0.0
    p = s[s > 0] / s.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


class Dynamics(NamedTuple):
    """An answer's effective rank and its differences."""

    rank: float
    velocity: float
    acceleration: float


def dynamics(hidden: ArrayLike, *, stride: int = 40) -> Dynamics:
    """Return rank, mean velocity and mean acceleration of ``[A, D]`` hidden states, read every ``stride`` tokens.

    The rank of the first 1, 2, 3, ... strides is a series; velocity is each member less the mean of those before it,
    acceleration the difference of two velocities. 0 where an answer is too short to have one.
    """
    if stride < 1:
        raise ValueError(f"effective_rank: stride: expected at least 1 token, got {stride}")
    states = finite("effective_rank: hidden", hidden, 2)
    series = [effective_rank(states[:n]) for n in range(stride, len(states) + 1, stride)]
    velocities = [now - float(np.mean(series[:i])) for i, now in enumerate(series) if i]
    changes = np.diff(velocities)
    mean = float(np.mean(velocities)) if velocities else 0.0
    return Dynamics(effective_rank(states), mean, float(changes.mean()) if len(changes) else 0.0)


class Verl:
    """The signal Phi of an answer: how far its rank and velocity are above what is usual, an EMA over batches.

    ``Phi = beta * tanh(dev rank) + (1 - beta) * tanh(dev velocity)``, ``beta = sigmoid(2 * dev acceleration)``, and
    ``dev x = (x - ema) / (|ema| + 1e-8)``, cut at plus and minus 5: where the rank speeds up, exploring counts.

    Differs: the EMA begins with the first batch, whose Phi is so 0; the released one begins at 0, against which every
    first deviation is the largest there is.

    Args:
        ema: How much of the newest batch's mean enters the EMA.
        gain: What the deviation of the acceleration is multiplied by.
        limit: The largest deviation.
    """

    def __init__(self, *, ema: float = 0.3, gain: float = 2.0, limit: float = 5.0) -> None:
        self.ema, self.gain, self.limit = ema, gain, limit
        self.usual: Dynamics | None = None

    def phi(self, batch: Sequence[Dynamics]) -> list[float]:
        """[E] the signal of each answer of a batch; pure. Zeros before the first ``update``."""
        if self.usual is None or not batch:
            return [0.0] * len(batch)
        now, usual = finite("effective_rank: dynamics", batch, 2), np.array(self.usual)
        deviations = np.clip((now - usual) / (np.abs(usual) + 1e-8), -self.limit, self.limit)
        beta = sigmoid(self.gain * deviations[:, 2])
        bounded = np.tanh(deviations)
        return [float(x) for x in beta * bounded[:, 0] + (1.0 - beta) * bounded[:, 1]]

    def update(self, batch: Sequence[Dynamics]) -> None:
        """Take a batch's means into the EMA, after its ``phi``."""
        if batch:
            mean = finite("effective_rank: dynamics", batch, 2).mean(0)
            usual = mean if self.usual is None else (1.0 - self.ema) * np.array(self.usual) + self.ema * mean
            self.usual = Dynamics(*(float(x) for x in usual))

    def state_dict(self) -> dict[str, Any]:
        """Return the EMA."""
        return {"usual": None if self.usual is None else self.usual._asdict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` returned."""
        self.usual = None if state["usual"] is None else Dynamics(**state["usual"])


def shaped(advantages: ArrayLike, phi: ArrayLike, *, kappa: float = 2.0) -> Floats:
    """[...] ``A + min(relu(Phi), |A| / kappa)``: a bonus that never turns a sign and is 0 where A is."""
    if not kappa > 1:
        raise ValueError(f"effective_rank: kappa: expected above 1, got {kappa}")
    a, p = finite("effective_rank: advantages", advantages), finite("effective_rank: phi", phi)
    alike("effective_rank: advantages and phi", a, p)
    return np.asarray(a + np.minimum(np.maximum(p, 0.0), np.abs(a) / kappa), dtype=np.float64)
