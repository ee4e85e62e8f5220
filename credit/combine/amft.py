"""Imitation against reward: the coefficient between the two losses, moved by a validation gradient and by entropy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from milepost.credit.cards import method
from milepost.credit.combine.arrays import alike, finite


@method("amft", "schedule", level="episode", channel="loss", paper="arXiv 2508.06944")
def amft(
    mu: float,
    slope: float,
    entropy: float,
    target_entropy: float,
    *,
    eta_meta: float = 1e-4,
    eta_entropy: float = 5e-4,
    low: float = 0.05,
    high: float = 0.95,
) -> float:
    """Return the next mu: ``clip(mu - eta_meta * dL_val/dmu + eta_entropy * (H_target - H), low, high)``.

    The loss is ``(1 - mu) * L_RL + mu * L_SFT`` (``blended``). Call it every 20 train steps; begin with 0.5 to 0.8.

    Args:
        mu: The share of imitation.
        slope: ``dL_val/dmu``, of ``val_slope``.
        entropy: Of the policy now, nats per token.
        target_entropy: As measured after the warm-up by imitation.

    Source: He et al. 2025, arXiv 2508.06944.
    Differs: the derivative is subtracted, so that mu descends the validation loss; the released controller adds it.
    """
    finite("amft: mu, slope, entropy, target_entropy", [mu, slope, entropy, target_entropy])
    moved = mu - eta_meta * slope + eta_entropy * (target_entropy - entropy)
    return float(np.clip(moved, low, high))


def val_slope(alignment: float, *, lr: float) -> float:
    """Return ``dL_val/dmu = -lr * <grad L_val, grad L_SFT - grad L_RL>`` after one step of size ``lr``."""
    return -lr * alignment


def alignment(val: ArrayLike, sft: ArrayLike, rl: ArrayLike) -> float:
    """Return ``<grad L_val, grad L_SFT - grad L_RL>`` of three ``[P]`` gradients."""
    v, s, r = (finite(f"amft: gradient of {n}", g, 1) for n, g in (("val", val), ("sft", sft), ("rl", rl)))
    alike("amft: gradients", v, s, r)
    return float(v @ (s - r))


def blended(rl_loss: Any, sft_loss: Any, mu: float) -> Any:
    """Return ``(1 - mu) * L_RL + mu * L_SFT``, of numbers or of tensors."""
    return (1.0 - mu) * rl_loss + mu * sft_loss
