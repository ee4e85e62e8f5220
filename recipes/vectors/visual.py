"""GUI: GUI-G1. VRFT: Visual-RFT. VT: V-Triune. UIG: UI-Genie."""

from __future__ import annotations

from typing import Any

from milepost.credit.visual import gui_g1, ui_genie, v_triune, visual_rft
from milepost.credit.visual.boxes import iou, truth_of
from milepost.recipes.vectors.family import Family

gui, vrft, vt, uig = Family(), Family(), Family(), Family()


@gui.computes("hit", "iou", "edge", "box", "total")
def terms(pred: Any, gt: Any, image: list[float], alpha: float, beta: float) -> dict[str, Any]:
    ours, theirs = truth_of("pred", pred), truth_of("gt", gt)
    return {
        "hit": gui_g1.hit(ours, theirs),
        "iou": gui_g1.iou(ours, theirs),
        "edge": gui_g1.edges(ours, theirs, image),
        "box": gui_g1.size(ours, theirs, image),
        "total": gui_g1.reward(ours, theirs, image, alpha=alpha, beta=beta),
    }


@gui.computes("total_on_parse_failure")
def unread(parse_failure: str, gt: list[float], image: list[float]) -> dict[str, Any]:
    return {"total_on_parse_failure": gui_g1.rewards([parse_failure], [gui_g1.Target(gt, image)]).rewards[0]}


@gui.computes("advantage", "loss")
def step(group_rewards: Any, token_loss_sum: Any, rate: Any, norm_const: float) -> dict[str, Any]:
    return {
        "advantage": gui_g1.advantages(group_rewards),
        "loss": gui_g1.loss(token_loss_sum, rate, constant=norm_const),
    }


@vrft.computes("matched", "iou_v1", "iou_v2", "confidence", "total_with_format")
def detection(pred: Any, gt: Any, iou_threshold: float) -> dict[str, Any]:
    preds = [visual_rft.Detection(truth_of("pred", p["box"]), p["conf"]) for p in pred]
    boxes = [truth_of("gt", box) for box in gt]
    found = visual_rft.matched(preds, boxes, iou_threshold=iou_threshold)
    entries = [{"Position": p["box"], "Confidence": p["conf"]} for p in pred]
    text = f"<think>two things</think>\n<answer>{entries}</answer>"
    return {
        "matched": [list(match) for match in found],
        "iou_v1": visual_rft.overlap(found, len(boxes), version=1),
        "iou_v2": visual_rft.overlap(found, len(boxes)),
        "confidence": visual_rft.confidence(found),
        "total_with_format": visual_rft.reward(text, boxes, iou_threshold=iou_threshold),
    }


@vt.computes("thresholds", "iou", "reward_at", "single_box_reward_at")
def stricter(pred: Any, gt: Any, progress: list[float]) -> dict[str, Any]:
    preds, gts = ([v_triune.Labelled(x["label"], truth_of("box", x["box"])) for x in side] for side in (pred, gt))
    return {
        "thresholds": [v_triune.threshold(p) for p in progress],
        "iou": [iou(a.box, b.box) for a, b in zip(preds, gts, strict=True)],
        "reward_at": [v_triune.blended(preds, gts, p) for p in progress],
        "single_box_reward_at": [v_triune.single(preds[0].box, gts[0].box, p) for p in progress],
    }


@uig.computes("score_from_logits", "score_from_probs")
def plus_and_minus(logit_plus: float, logit_minus: float, prob_plus: float, prob_minus: float) -> dict[str, Any]:
    return {
        "score_from_logits": ui_genie.score(logit_plus, logit_minus).item(),
        "score_from_probs": ui_genie.score_of_probs(prob_plus, prob_minus),
    }
