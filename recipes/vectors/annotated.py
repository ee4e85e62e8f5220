"""ONI: rewards from an annotator's labels. CALM: sub-goals that an annotator sees achieved."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from milepost.credit import advantage
from milepost.credit.calm import CALM
from milepost.credit.captions import combined, episodic_counts
from milepost.credit.core import Credit, assign
from milepost.credit.made import episode
from milepost.credit.moments import Moments
from milepost.credit.oni import Retrieval, thresholded
from milepost.credit.subgoals import Mode, confusion
from milepost.envs.core import Episode, Message
from milepost.recipes.vectors.family import Family

oni, calm = Family(), Family()


class Told:
    """An annotator whose answers are given."""

    def __init__(self, answers: Sequence[str] = ()) -> None:
        self.answers = list(answers)

    def annotate(self, prompts: Sequence[Sequence[Message]]) -> list[str]:
        """Return the answers, each once, in order."""
        return [self.answers.pop(0) for _ in prompts]


@oni.computes("episodic_count", "intrinsic", "total", "enqueued_for_annotation")
def retrieval(
    messages: list[str],
    label_table: dict[str, float],
    extrinsic: list[float],
    ext_coef: float,
    llm_coef: float,
    count_exponent: float,
) -> dict[str, Any]:
    played = episode(caption=["", *messages], credit={"extrinsic": extrinsic})
    method = Retrieval(table=label_table, annotator=Told(), llm_coef=llm_coef, exponent=count_exponent)
    return {
        "episodic_count": episodic_counts(messages),
        "intrinsic": method.intrinsic(messages),
        "total": earned(played, {"extrinsic": ext_coef, method: 1.0}, method),
        "enqueued_for_annotation": [caption for (caption,) in method.queue.waiting],
    }


@oni.computes("loss_first_preferred", "loss_tie")
def preferences(rank_scores: list[float], tie_label: list[float]) -> dict[str, Any]:
    import torch

    from milepost.credit.oni_models import ranking_loss
    from milepost.credit.prompts import read_ranking

    def loss(label: Sequence[float]) -> float:
        return ranking_loss(torch.tensor([rank_scores]), torch.tensor([label])).item()

    first, _ = read_ranking('{"best_description": 1}')
    return {"loss_first_preferred": loss(first), "loss_tie": loss(tie_label)}


@oni.computes("rms_mean", "rms_var", "normalised", "thresholded", "llm_term")
def ranking(
    batch_scores: list[float], threshold: float, counts: list[int], llm_coef: float, count_exponent: float
) -> dict[str, Any]:
    moments = Moments()
    moments.update(batch_scores)
    z = moments.normalised(batch_scores)
    passed = thresholded(z, threshold)
    return {
        "rms_mean": moments.mean,
        "rms_var": moments.var,
        "normalised": z,
        "thresholded": passed,
        "llm_term": combined(passed, counts, llm_coef=llm_coef, exponent=count_exponent),
    }


@calm.computes("tp", "fp", "fn", "tn", "precision", "recall", "f1", "accuracy")
def judgements(gold: list[bool], predicted: list[bool]) -> dict[str, Any]:
    return confusion(gold, predicted)


@calm.computes("every_termination", "first_only")
def bonuses(terminated: dict[str, list[int]], env_reward: list[float], bonus: dict[str, float]) -> dict[str, Any]:
    answers = [json.dumps(dict(zip(terminated, turn, strict=True))) for turn in zip(*terminated.values(), strict=True)]
    modes: tuple[Mode, ...] = ("every_termination", "first_only")
    found: dict[str, Any] = {}
    for mode in modes:
        texts = [f"move {t}" for t in range(len(answers))]
        played = episode(texts=texts, credit={"env": env_reward}, at_reset={"subgoals": list(terminated)})
        method = CALM(annotator=Told(answers), weights=bonus, mode=mode)
        found[mode] = earned(played, {"env": 1.0, method: 1.0}, method)
    return found


def earned(played: Episode, weights: dict[str | Credit, float], method: Credit) -> list[float | None]:
    """[T] the weighted sum of the labels of the only episode, after the method was asked."""
    assign([method], [[played]])
    return advantage.rewards([[played]], weights, outcome=0.0)[0][0]
