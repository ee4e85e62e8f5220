"""Weights of objectives by their gradients: what helps all the others gets more."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from milepost.credit.cards import method
from milepost.credit.combine.arrays import finite
from milepost.credit.normalise import Floats


@method("gradient_weights", "schedule", level="episode", channel="reward", paper="arXiv 2509.11452")
def gradient_weights(weights: ArrayLike, influences: ArrayLike, *, eta: float, mu: float = 1e-5) -> Floats:
    """[K] new weights ``softmax(log w + eta * I / mu)``; they sum to 1. Start with equal ones.

    Args:
        weights: ``[K]`` of the objectives, at least 0; one of 0 stays 0.
        influences: ``[K]``, or ``[S, K]`` of S train steps, whose mean counts.
        eta: The policy's learning rate of now.
        mu: How slowly weights move. 1e-5 is second hand.

    Source: Lu et al. 2025, arXiv 2509.11452.
    """
    w, found = finite("gradient_weights: weights", weights, 1), finite("gradient_weights: influences", influences)
    if (w < 0).any() or not w.any():
        raise ValueError(f"gradient_weights: weights: expected none below 0 and one above, got {w.tolist()}")
    if mu <= 0:
        raise ValueError(f"gradient_weights: mu: expected a positive number, got {mu}")
    if found.ndim not in (1, 2) or found.size == 0 or found.shape[-1] != len(w):
        raise ValueError(f"gradient_weights: expected {len(w)} influences, one a weight, got shape {found.shape}")
    with np.errstate(divide="ignore"):
        logits = np.log(w) + eta * found.reshape(-1, len(w)).mean(0) / mu
    scaled = np.exp(logits - logits.max())
    return np.asarray(scaled / scaled.sum(), dtype=np.float64)


def influences(gradients: ArrayLike) -> Floats:
    """[K] ``I_k = <grad J_k, sum_j grad J_j>`` of ``[K, P]`` gradients, each objective's own term included.

    P may be a chosen part of the layers.
    """
    g = finite("gradient_weights: gradients", gradients, 2)
    return np.asarray(g @ g.sum(0), dtype=np.float64)
