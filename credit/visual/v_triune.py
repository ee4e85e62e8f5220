"""Detection scored by an overlap that is asked for more strictly as training goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from milepost.credit.visual.boxes import Box, Scored, answer_of, box_of, distinct, iou, objects, scored, value_of

TAGS = ("<think>\n", "\n</think>\n", "\n<answer>\n", "\n</answer>")
"""What a text answer has once each, with these line breaks."""


class Labelled(NamedTuple):
    """A box and what is in it."""

    label: str
    box: Box


class Matches(NamedTuple):
    """What a matcher found: the overlaps that pay, and how many pairs it used up."""

    overlaps: list[float]
    n_pairs: int


Matcher = Callable[[Sequence[Labelled], Sequence[Labelled], float], Matches]


def threshold(progress: float) -> float:
    """Return the least IoU that pays: 0.85 in the first tenth of training, 0.95 in the first quarter, then 0.99.

    Source: Ma et al. 2025, arXiv 2505.18129.
    """
    if not 0 <= progress <= 1:
        raise ValueError(f"v_triune: progress: expected a share of training from 0 to 1, got {progress}")
    return 0.85 if progress <= 0.10 else 0.95 if progress <= 0.25 else 0.99


def single(pred: Box, gt: Box, progress: float) -> float:
    """Return the IoU of one box where it reaches the threshold, else 0."""
    share = iou(pred, gt)
    return share if share >= threshold(progress) else 0.0


def iou_first(preds: Sequence[Labelled], gts: Sequence[Labelled], least: float) -> Matches:
    """Pair the largest overlap of all that are left, down to ``least``; a wrong label uses up both boxes for 0.

    Differs: takes the pair that is the largest; the released loop overwrites its indices and takes the last.
    """
    left_p, left_g, overlaps, n = list(range(len(preds))), list(range(len(gts))), [], 0
    shares = np.array([[iou(p.box, g.box) for g in gts] for p in preds])
    while left_p and left_g:
        open_pairs = shares[np.ix_(left_p, left_g)]
        p, g = divmod(int(open_pairs.argmax()), len(left_g))
        if open_pairs[p, g] < least:
            break
        pred, gt = left_p.pop(p), left_g.pop(g)
        overlaps.append(float(shares[pred, gt]) if preds[pred].label == gts[gt].label else 0.0)
        n += 1
    return Matches(overlaps, n)


def label_first(preds: Sequence[Labelled], gts: Sequence[Labelled], least: float) -> Matches:
    """Give each target in turn the free prediction of its label that overlaps most, if by ``least``."""
    free, overlaps = list(preds), []
    for gt in gts:
        options = [(iou(p.box, gt.box), -i) for i, p in enumerate(free) if p.label == gt.label]
        share, at = max(options, default=(0.0, 0))
        if options and share >= least:
            free.pop(-at)
            overlaps.append(share)
    return Matches(overlaps, len(overlaps))


def score(
    preds: Sequence[Labelled],
    gts: Sequence[Labelled],
    least: float,
    *,
    weight: float = 0.0,
    matcher: Matcher = iou_first,
) -> float:
    """Return ``((1 - w) * mean_iou + w * completeness) * 0.6^| |pred| - |GT| |``.

    ``mean_iou`` is over the targets; ``completeness = 1 - (missed share + share of false alarms) / 2`` counts boxes
    that the matcher did not use up. With no target: 1 where nothing was predicted, else 0.
    """
    found = distinct(preds, lambda p: p)
    if not gts:
        return float(not found)
    pairs = matcher(found, gts, least)
    missed = 1.0 - pairs.n_pairs / len(gts)
    false = 1.0 - pairs.n_pairs / len(found) if found else 0.0
    whole = (1.0 - weight) * sum(pairs.overlaps) / len(gts) + weight * (1.0 - (missed + false) / 2)
    return float(whole * 0.6 ** abs(len(found) - len(gts)))


def average_precision(preds: Sequence[Labelled], gts: Sequence[Labelled], least: float) -> float:
    """Return the mean over the targets' labels of the area under precision by recall, predictions in their order.

    One image; precision at a recall is the best at that or a higher one.
    """
    areas = []
    for label in dict.fromkeys(g.label for g in gts):
        free = [g.box for g in gts if g.label == label]
        n_targets, hits = len(free), []
        for pred in (p for p in preds if p.label == label):
            share, at = max(((iou(pred.box, box), -i) for i, box in enumerate(free)), default=(0.0, 0))
            hits.append(bool(free) and share >= least)
            if hits[-1]:
                free.pop(-at)
        precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        best = np.maximum.accumulate(precision[::-1])[::-1] if hits else precision
        areas.append(float((best * np.array(hits, dtype=float)).sum()) / n_targets)
    return float(np.mean(areas)) if areas else float(not preds)


def mean_average_precision(preds: Sequence[Labelled], gts: Sequence[Labelled]) -> float:
    """Return average precision, mean over thresholds 0.50, 0.55, ... 0.95."""
    return float(np.mean([average_precision(preds, gts, least) for least in np.arange(50, 100, 5) / 100]))


PARTS: Mapping[str, Callable[[Sequence[Labelled], Sequence[Labelled], float, float], float]] = MappingProxyType(
    {
        "iou_first": lambda p, g, least, w: score(p, g, least, weight=w),
        "label_first": lambda p, g, least, w: score(p, g, least, weight=w, matcher=label_first),
        "map": lambda p, g, least, w: mean_average_precision(p, g),
        "map50": lambda p, g, least, w: average_precision(p, g, 0.5),
        "map75": lambda p, g, least, w: average_precision(p, g, 0.75),
    }
)
"""What ``blended`` blends."""


def blended(
    preds: Sequence[Labelled],
    gts: Sequence[Labelled],
    progress: float,
    ratios: Mapping[str, float] | None = None,
    *,
    weight: float = 0.0,
) -> float:
    """Return the mean of ``PARTS`` by their ratios; None: ``iou_first`` alone."""
    shares = ratios or {"iou_first": 1.0}
    if (unknown := set(shares) - set(PARTS)) or sum(shares.values()) <= 0:
        told = f"got {', '.join(sorted(unknown))}" if unknown else "with a sum above 0"
        raise ValueError(f"v_triune: ratios: expected some of {', '.join(PARTS)}, {told}")
    found, least = distinct(preds, lambda p: p), threshold(progress)
    return sum(r * PARTS[k](found, gts, least, weight) for k, r in shares.items()) / sum(shares.values())


def joined(accuracy: float, form: float, *, a_acc: float = 1.0, a_fmt: float = 0.1) -> float:
    """Return ``(a_acc * R_acc + a_fmt * R_fmt) / (a_acc + a_fmt)``."""
    return (a_acc * accuracy + a_fmt * form) / (a_acc + a_fmt)


def tags(text: str) -> float:
    """Return a quarter for each of ``TAGS`` that occurs exactly once: the format of a text task."""
    return sum(text.count(tag) == 1 for tag in TAGS) / 4


def rewards(
    texts: Sequence[str],
    gts: Sequence[Sequence[Labelled]],
    progress: float,
    ratios: Mapping[str, float] | None = None,
    *,
    weight: float = 0.0,
) -> Scored:
    """Return detection rewards: accuracy joined with 1 for format where at least one box is valid, else 0, counted."""

    def one(text: str, gt: Sequence[Labelled]) -> float | None:
        preds = detections(text)
        return None if not preds else joined(blended(preds, gt, progress, ratios, weight=weight), 1.0)

    return scored(texts, gts, one)


def detections(text: str) -> list[Labelled]:
    """Return the valid ``{"label": .., "bbox_2d": [..]}`` of an answer's list; boxes with ``x1 > x2`` are left out."""
    items = objects(answer_of(text)) or []
    pairs = [(value_of(item, "label"), box_of(value_of(item, "bbox_2d", "box", "position"))) for item in items]
    return [Labelled(str(label), box) for label, box in pairs if label is not None and box is not None]
