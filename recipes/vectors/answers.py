"""IGPO, MIG, TIPS, TRACE, R3 and NOUS: methods that ask how likely the true answer became."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from milepost.credit import advantage
from milepost.credit.answers import PROBE, Probe
from milepost.credit.combine.nous import Nous, entropy_bits
from milepost.credit.combine.r3 import R3, token_std, token_weights
from milepost.credit.core import assign
from milepost.credit.igpo import IGPO, answer_reward, f1
from milepost.credit.made import episode
from milepost.credit.peers.mig import MIG, watermark
from milepost.credit.peers.tips import TIPS
from milepost.credit.peers.trace import TRACE, trace_sum, values
from milepost.envs.core import Episode, FloatArray, Message
from milepost.recipes.vectors.family import Family

igpo, mig, tips, trace, r3, nous = (Family() for _ in range(6))
Rows = list[list[float]]


class Told:
    """A scorer that was told what to answer: one row of log-probabilities a state and text, in the order of asking."""

    def __init__(self, rows: Sequence[Sequence[float]]) -> None:
        self._rows = iter(rows)

    def logprobs(
        self,
        views: Sequence[Sequence[Message]],
        targets: Sequence[str],
        *,
        prefix: str = PROBE.prefix,
        suffix: str = PROBE.suffix,
        tools: Sequence[dict[str, Any]] = (),
    ) -> list[FloatArray]:
        """Return the next rows."""
        return [np.array(next(self._rows), np.float32) for _ in views]


def attempts(n_turns: Sequence[int], outcomes: Sequence[float], **at_reset: Any) -> list[Episode]:
    """Return a group of attempts whose task has an answer."""
    known = {"answer": "Paris", **at_reset}
    return [episode(o, n_turns=n, at_reset=known) for n, o in zip(n_turns, outcomes, strict=True)]


@igpo.computes(
    *("belief_log", "belief_prob", "info_gain_log", "info_gain_prob", "normalised_log_separate"),
    *("advantage_log_separate", "normalised_prob_joint", "advantage_prob_joint"),
)
def information_gain(answer_token_logprobs: list[Rows], outcome: list[float], gamma: float) -> dict[str, Any]:
    result: dict[str, Any] = {}
    variants: list[tuple[Any, Any]] = [("log", "separate"), ("prob", "joint")]
    for belief, pools in variants:
        method: Any = IGPO(scorer=Told([row for rows in answer_token_logprobs for row in rows]), belief=belief)
        group = attempts([len(rows) for rows in answer_token_logprobs], outcome)
        assign([method], [group])
        result[f"belief_{belief}"] = [
            method.beliefs([[np.array(x, np.float32)] for x in rows]) for rows in answer_token_logprobs
        ]
        result[f"info_gain_{belief}"] = [[t.credit["igpo"] for t in e.turns[:-1]] for e in group]
        for key, discount in (("normalised", 0.0), ("advantage", gamma)):
            sums: Any = advantage.pooled([group], "igpo", pools=pools, gamma=discount, last="outcome")
            result[f"{key}_{belief}_{pools}"] = sums[0]
    return result


@igpo.computes("f1", "f1_2", "reward_when_tags_unbalanced")
def outcome(prediction: str, golds: list[str], prediction2: str) -> dict[str, Any]:
    return {
        "f1": f1(prediction, golds),
        "f1_2": f1(prediction2, golds),
        "reward_when_tags_unbalanced": answer_reward(f"<answer>{prediction}", golds),
    }


@mig.computes("watermark", "gain", "total")
def monotone(length_norm_answer_logprob: list[float]) -> dict[str, Any]:
    method = MIG(scorer=Told([[x] for x in length_norm_answer_logprob]))
    (row,) = method.on_group(attempts([len(length_norm_answer_logprob)], [0.0]))
    return {"watermark": watermark(length_norm_answer_logprob), "gain": row[:-1], "total": sum(map(float, row[:-1]))}  # type: ignore[arg-type]


@tips.computes("potential", "delta", "turn_reward", "monotone_variant")
def teacher(alias_logprob_per_boundary: Rows, scale: float) -> dict[str, Any]:
    n_states, n_texts = len(alias_logprob_per_boundary), len(alias_logprob_per_boundary[0])
    group = attempts([n_states], [0.0], aliases=[f"alias {k}" for k in range(1, n_texts)])

    def row(scale: float, monotone: bool = False) -> Any:
        told = Told([[x] for state in alias_logprob_per_boundary for x in state])
        return TIPS(scorer=told, scale=scale, monotone=monotone).on_group(group)[0][:-1]

    scores = [[np.array([x], np.float32) for x in state] for state in alias_logprob_per_boundary]
    return {
        "potential": TIPS(scorer=Told([])).potentials(scores),
        "delta": row(1.0),
        "turn_reward": row(scale),
        "monotone_variant": row(scale, monotone=True),
    }


@trace.computes("value", "delta", "local_credit", "turn_credit", "token_adv_per_turn")
def gap(
    mean_answer_logprob_per_state: list[float],
    outcome_adv: float,
    K: int,
    gamma: float,
    gap_offset: float,
    terminal_scale: float,
    turn_weight: float,
    outcome_weight: float,
) -> dict[str, Any]:
    n_turns = len(mean_answer_logprob_per_state) - 1
    # Two attempts of outcomes +a and -a have z-scores of +1 and -1; the weights carry what the example's is.
    group = attempts([n_turns] * 2, [1.0, -1.0])

    def method(scale: float) -> TRACE:
        told = Told([[x] for x in mean_answer_logprob_per_state] * 2)
        return TRACE(scorer=told, window=K, gamma=gamma, gap_offset=gap_offset, terminal_scale=scale)

    whole = method(terminal_scale * outcome_adv)
    value = values(mean_answer_logprob_per_state, gap_offset)
    assign([whole], [group])
    rewards = advantage.rewards([group], [whole])
    sums = trace_sum([group], rewards, outcome_weight=outcome_weight * outcome_adv, turn_weight=turn_weight)
    return {
        "value": value,
        "delta": np.diff(value),
        "local_credit": method(0.0).on_group(group)[0],
        "turn_credit": rewards[0][0],
        "token_adv_per_turn": sums[0][0],
    }


@r3.computes("token_std", "weights", "r3", "uniform_mean_logprob")
def reflection(reference_token_logprobs_per_cot: Rows, masked_cot_logprobs: list[float]) -> dict[str, Any]:
    std = token_std(reference_token_logprobs_per_cot)
    told = Told([row for cot in reference_token_logprobs_per_cot for row in (masked_cot_logprobs, cot)])
    n = len(reference_token_logprobs_per_cot)
    rows = R3(scorer=told, probe=Probe("", "")).on_group(attempts([2] * n, [0.0] * n))
    return {
        "token_std": std,
        "weights": token_weights(std),
        "r3": [row[0] for row in rows],
        "uniform_mean_logprob": np.mean(reference_token_logprobs_per_cot, axis=1),
    }


@nous.computes("entropy_before", "entropy_after", "info_gain_bits")
def slots(slots_before: dict[str, list[float]], slots_after: dict[str, list[float]]) -> dict[str, Any]:
    beliefs = [slots_before, slots_after]
    return {
        "entropy_before": entropy_bits(slots_before),
        "entropy_after": entropy_bits(slots_after),
        "info_gain_bits": Nous(lambda e, t: beliefs[t]).on_group([episode(n_turns=1)])[0][0],
    }
