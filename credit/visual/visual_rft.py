"""Detection and classification with verifiable rewards: boxes, confidence, format."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from milepost.credit.visual.boxes import (
    Box,
    Scored,
    answer_of,
    box_of,
    distinct,
    iou,
    number,
    objects,
    scored,
    value_of,
)


class Detection(NamedTuple):
    """A predicted box, and how sure the model is of it, 0 to 1."""

    box: Box
    conf: float


class Match(NamedTuple):
    """A prediction and what it shares with the true box that it took; 0 where it took none."""

    iou: float
    conf: float


def reward(text: str, gt: Sequence[Box], *, iou_threshold: float = 0.5) -> float | None:
    """Return ``R_iou + R_conf + R_fmt`` of an answer, None where its boxes cannot be read.

    Source: Liu et al. 2025, arXiv 2503.01785.
    """
    preds = detections(text)
    if preds is None:
        return None
    found = matched(preds, gt, iou_threshold=iou_threshold)
    return overlap(found, len(gt)) + confidence(found) + well_formed(text)


def rewards(texts: Sequence[str], gts: Sequence[Sequence[Box]], *, iou_threshold: float = 0.5) -> Scored:
    """Return the rewards of answers; 0, format included, and counted where the boxes cannot be read."""
    return scored(texts, gts, lambda text, gt: reward(text, gt, iou_threshold=iou_threshold))


def matched(preds: Sequence[Detection], gt: Sequence[Box], *, iou_threshold: float = 0.5) -> list[Match]:
    """[P] what each prediction overlaps, the surest first; of equal boxes the first stays.

    Each takes the free true box with which it shares most, if that is more than the threshold.
    """
    free = list(gt)
    result = []
    for pred in sorted(distinct(preds, lambda p: p.box), key=lambda p: -p.conf):
        share, at = max(((iou(pred.box, box), -i) for i, box in enumerate(free)), default=(0.0, 0))
        if share > iou_threshold:
            free.pop(-at)
        result.append(Match(share if share > iou_threshold else 0.0, pred.conf))
    return result


def overlap(found: Sequence[Match], n_gt: int, *, version: Literal[1, 2] = 2) -> float:
    """Return the sum of matched IoU over the larger of the numbers of true and of predicted boxes, at most 1.

    Version 1 divides by the predictions alone, so that leaving boxes out costs nothing. Nothing predicted: 0.
    """
    by = len(found) if version == 1 else max(n_gt, len(found))
    return min(1.0, sum(m.iou for m in found) / by) if by else 0.0


def confidence(found: Sequence[Match]) -> float:
    """Return the mean of ``c`` where a prediction matched, of ``1 - c`` where not, cut at 0 and 1; 0 of none."""
    total = sum(m.conf if m.iou > 0 else 1.0 - m.conf for m in found)
    return min(1.0, max(0.0, total / len(found))) if found else 0.0


def well_formed(text: str) -> float:
    """Return 1 where the whole answer is ``<think>..</think><answer>..</answer>``, else 0."""
    return float(re.fullmatch(r"<think>.*?</think>\s*<answer>.*?</answer>", text.strip(), re.DOTALL) is not None)


def classified(label: str, truth: str) -> float:
    """Return 1 where one label contains the other, but for case, spaces and underscores; an empty one gets 0."""
    a, b = (re.sub(r"[\s_]", "", x.lower()) for x in (label, truth))
    return float(bool(a and b) and (a in b or b in a))


def detections(text: str) -> list[Detection] | None:
    """Return the boxes of an answer, a list of ``{"Position": [x1, y1, x2, y2], "Confidence": c}``; None: unreadable.

    An entry without a box, or without a confidence in [0, 1], makes it unreadable: beyond that range a wrong box could
    earn anything (the card clips the mean alone).
    """
    items = objects(answer_of(text))
    if items is None:
        return None
    found = []
    for item in items:
        box, conf = box_of(value_of(item, "position", "box", "bbox_2d")), number(value_of(item, "confidence", "conf"))
        if box is None or conf is None or not 0 <= conf <= 1:
            return None
        found.append(Detection(box, conf))
    return found
