"""Pointing at an element of a screen: whether it was hit, how much the boxes share, how alike their sizes are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from numpy.typing import ArrayLike

from milepost.credit import normalise
from milepost.credit.combine.arrays import alike, finite
from milepost.credit.normalise import Floats
from milepost.credit.visual.boxes import Box, Scored, first_box, scored, truth_of


class Target(NamedTuple):
    """What is right: the element's box, and the image's width and height in pixels."""

    box: Sequence[float]
    image: Sequence[float]


def reward(pred: Box, gt: Box, image: Sequence[float], *, alpha: float = 0.25, beta: float = 0.125) -> float:
    """Return ``hit + alpha * iou + beta * size``.

    A hit alone teaches small boxes, the overlap alone large ones; the size term keeps both.

    Source: Zhou et al. 2025, arXiv 2505.15810.
    Pair with: ``advantages`` and ``loss`` below.
    """
    return hit(pred, gt) + alpha * iou(pred, gt) + beta * size(pred, gt, image)


def rewards(texts: Sequence[str], targets: Sequence[Target], *, alpha: float = 0.25, beta: float = 0.125) -> Scored:
    """Return the rewards of answers, each the first ``[x1, y1, x2, y2]`` in it; 0 and counted without one."""

    def one(text: str, target: Target) -> float | None:
        gt = truth_of("gui_g1: the target", target.box)
        pred = first_box(text)
        return None if pred is None else reward(pred, gt, target.image, alpha=alpha, beta=beta)

    return scored(texts, targets, one)


def hit(pred: Box, gt: Box) -> float:
    """Return 1 where the middle of the box lies in the target, borders included, else 0."""
    x, y = (pred[0] + pred[2]) / 2, (pred[1] + pred[3]) / 2
    return float(gt[0] <= x <= gt[2] and gt[1] <= y <= gt[3])


def iou(pred: Box, gt: Box) -> float:
    """Return intersection over union of pixels: right and bottom edges are not part of a box.

    An intersection one pixel wide counts as none, as in the released code.
    """
    dx = min(pred[2], gt[2]) - 1 - max(pred[0], gt[0])
    dy = min(pred[3], gt[3]) - 1 - max(pred[1], gt[1])
    common = (dx + 1) * (dy + 1) if dx > 0 and dy > 0 else 0.0
    union = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (pred, gt)) - common
    return common / union if union > 0 else 0.0


def edges(pred: Box, gt: Box, image: Sequence[float]) -> list[float]:
    """[4] ``1 - |gt - pred| / dimension of the image`` for each edge."""
    width, height = image
    if not (width > 0 and height > 0):
        raise ValueError(f"gui_g1: image: expected a width and a height above 0, got {width}, {height}")
    return [1.0 - abs(g - p) / by for p, g, by in zip(pred, gt, (width, height, width, height), strict=True)]


def size(pred: Box, gt: Box, image: Sequence[float]) -> float:
    """Return the harmonic mean of the edges' scores.

    Differs: 0 where an edge is off by the image or more; the released code divides by zero or returns less than 0.
    """
    found = edges(pred, gt, image)
    return 4.0 / sum(1.0 / e for e in found) if min(found) > 0 else 0.0


def advantages(rewards: ArrayLike) -> Floats:
    """[G] reward less the group's mean; no division, which would favour tasks that are nearly solved or failed."""
    return normalise.center(rewards)


def loss(token_loss_sums: ArrayLike, rates: ArrayLike, *, constant: float = 64.0) -> float:
    """Return the mean over samples of ``sum of token losses * rate / constant``: long answers are not favoured.

    ``rates`` weigh difficulty, from the target's share of the image: small ones more.
    """
    sums, weights = finite("gui_g1: token losses", token_loss_sums, 1), finite("gui_g1: rates", rates, 1)
    alike("gui_g1: token losses and rates", sums, weights)
    return float((sums * weights).mean() / constant) if len(sums) else 0.0
