"""How far a policy strays from a base policy, in states: what keeps a proxy reward close to the true one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from milepost.credit.cards import method
from milepost.credit.combine.arrays import alike, finite
from milepost.credit.normalise import FLAT, Floats

Penalty = Literal["sqrt_chi2", "chi2", "kl"]
COEFFICIENTS = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01)
"""What the paper tries for ``lam``, in standard deviations of the base policy's rewards."""
PAPER = "arXiv 2403.03185"


@method("occupancy", "combiner", level="episode", channel="reward", paper=PAPER)
def objective(
    proxy: ArrayLike, policy: ArrayLike, base: ArrayLike, *, lam: float, penalty: Penalty = "sqrt_chi2"
) -> float:
    """Return ``E_mu[proxy] - lam * sqrt(chi2(mu_pi || mu_base))``, to be made large.

    Args:
        proxy: ``[S]`` reward of each state, or of each pair of state and action.
        policy: ``[S]`` how often the policy is there (mu_pi, sums to 1): visits, not per-step action probabilities.
        base: ``[S]`` the same of the base policy.
        lam: One of ``COEFFICIENTS`` times the deviation of the base policy's rewards.
        penalty: ``chi2`` and ``kl`` are the paper's variants.

    Source: Laidlaw et al. 2024, arXiv 2403.03185.
    """
    r, p = finite("occupancy: proxy", proxy, 1), _occupancy("policy", policy)
    alike("occupancy: proxy and policy", r, p)
    strayed = _known(penalty)(p, base)
    return float(r @ p) - (lam * strayed if lam else 0.0)


def chi2(policy: ArrayLike, base: ArrayLike) -> float:
    """Return ``sum mu_pi^2 / mu_base - 1``; infinite where the policy goes where the base policy never was."""
    p, b = _pair(policy, base)
    if (p[b == 0] > 0).any():
        return math.inf
    there = b > 0
    return max(0.0, float((p[there] ** 2 / b[there]).sum()) - 1.0)


def sqrt_chi2(policy: ArrayLike, base: ArrayLike) -> float:
    """Return ``sqrt(chi2)``, in the units of a deviation."""
    return math.sqrt(chi2(policy, base))


def kl(policy: ArrayLike, base: ArrayLike) -> float:
    """Return ``sum mu_pi log(mu_pi / mu_base)`` in nats; infinite as ``chi2`` is."""
    p, b = _pair(policy, base)
    there = p > 0
    if (b[there] == 0).any():
        return math.inf
    return max(0.0, float((p[there] * np.log(p[there] / b[there])).sum()))


def estimated(logratios: ArrayLike, penalty: Penalty = "sqrt_chi2") -> float:
    """Return the divergence from a discriminator's ``d = log(mu_pi / mu_base)``, nats, in states the policy visits.

    ``chi2 ~= E_mu_pi[exp(d)] - 1`` and ``kl ~= E_mu_pi[d]``; noise below 0 counts as 0.
    """
    _known(penalty)
    d = finite("occupancy: logratios", logratios).ravel()
    if not len(d):
        raise ValueError("occupancy needs logratios: a discriminator's, of at least one visited state, got none")
    if penalty == "kl":
        return max(0.0, float(d.mean()))
    with np.errstate(over="ignore"):
        square = max(0.0, float(np.exp(d).mean()) - 1.0)
    return math.sqrt(square) if penalty == "sqrt_chi2" else square


class Correlation(NamedTuple):
    """How far proxy and true reward agree; None where one of them does not vary."""

    base: float | None
    policy: float | None
    drop: float | None
    """Base less policy. Above 0: the paper's definition of reward hacking."""


def correlation(
    base_proxy: ArrayLike, base_true: ArrayLike, policy_proxy: ArrayLike, policy_true: ArrayLike
) -> Correlation:
    """Return the correlation of proxy and true reward under base and trained policy, and its drop."""
    base, policy = _correlation(base_proxy, base_true), _correlation(policy_proxy, policy_true)
    return Correlation(base, policy, None if base is None or policy is None else base - policy)


def _correlation(proxy: ArrayLike, true: ArrayLike) -> float | None:
    x, y = finite("occupancy: proxy rewards", proxy, 1), finite("occupancy: true rewards", true, 1)
    alike("occupancy: proxy and true rewards", x, y)
    if len(x) < 2 or min(x.std(), y.std()) < FLAT:
        return None
    return float(np.corrcoef(x, y)[0, 1])


PENALTIES: Mapping[str, Callable[[ArrayLike, ArrayLike], float]] = MappingProxyType(
    {"sqrt_chi2": sqrt_chi2, "chi2": chi2, "kl": kl}
)


def _known(penalty: str) -> Callable[[ArrayLike, ArrayLike], float]:
    if penalty not in PENALTIES:
        raise ValueError(f"occupancy: penalty: expected one of {', '.join(PENALTIES)}, got {penalty!r}")
    return PENALTIES[penalty]


def _pair(policy: ArrayLike, base: ArrayLike) -> tuple[Floats, Floats]:
    p, b = _occupancy("policy", policy), _occupancy("base", base)
    alike("occupancy: policy and base", p, b)
    return p, b


def _occupancy(name: str, values: ArrayLike) -> Floats:
    found = finite(f"occupancy: {name}", values, 1)
    if (found < 0).any() or abs(found.sum() - 1.0) > 1e-6:
        raise ValueError(f"occupancy: {name}: expected shares of visits that sum to 1, got a sum of {found.sum():g}")
    return found
