"""Token rewards from DPO: a preference-trained model says what each token was worth."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from milepost.credit.cards import method
from milepost.credit.combine.arrays import alike, finite
from milepost.credit.normalise import Floats


@method("rto", "combiner", level="token", needs="token_model", channel="reward", paper="arXiv 2404.18922")
def rto(
    dpo_logratios: ArrayLike,
    policy_logratios: ArrayLike,
    final: float | None = None,
    *,
    beta1: float = 0.05,
    clip: float = 0.05,
    beta2: float = 0.01,
    beta3: float = 1.0,
    final_clip: float = 10.0,
) -> Floats:
    """[A] ``clip(beta1 * log(pi_dpo / pi_ref), -c, c) - beta2 * log(pi / pi_ref)``, the last plus ``beta3 * r``.

    ``beta * log(pi* / pi_ref)`` is ``Q - V`` of the token MDP, so it says which token was better than expected.

    Args:
        dpo_logratios: ``[A]`` nats, of the sampled tokens under the DPO model over the reference.
        policy_logratios: ``[A]`` nats, of the same tokens under the policy over the reference: the KL penalty.
        final: The sequence's reward, cut at plus and minus ``final_clip``; None: never judged, adds nothing.

    Source: Zhong et al. 2024, arXiv 2404.18922; Rafailov et al. 2024, arXiv 2404.12358 (why).
    Pair with: token GAE, ``returns.token_gae``.
    """
    ours = finite("rto: dpo_logratios", dpo_logratios, 1)
    theirs = finite("rto: policy_logratios", policy_logratios, 1)
    alike("rto: log-ratios", ours, theirs)
    rewards = np.clip(beta1 * ours, -clip, clip) - beta2 * theirs
    if final is not None:
        if not np.isfinite(final):
            raise ValueError(f"rto: final: expected a finite number, got {final}")
        if not len(rewards):
            raise ValueError("rto: a final reward needs a token to lie on, got a sequence of none")
        rewards[-1] += beta3 * np.clip(final, -final_clip, final_clip)
    return rewards
