"""Rewards for boxes, labels and judgements on images."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milepost.credit.visual import boxes, gui_g1, ui_genie, v_triune, visual_rft
from milepost.credit.visual.v_triune import Labelled
from milepost.credit.visual.visual_rft import Detection

check = settings(deadline=None, max_examples=60)
pairs = st.tuples(st.integers(0, 20), st.integers(0, 20)).map(sorted)
some_box = st.tuples(pairs, pairs).map(lambda p: (float(p[0][0]), float(p[1][0]), float(p[0][1]), float(p[1][1])))
TEN = (0.0, 0.0, 10.0, 10.0)


# -- boxes and their text


@check
@given(some_box, some_box)
def test_overlap_is_symmetric_at_most_1_and_1_with_itself(a: boxes.Box, b: boxes.Box):
    assert boxes.iou(a, b) == boxes.iou(b, a) <= 1
    assert boxes.iou(a, a) == float(a[0] < a[2] and a[1] < a[3])


@pytest.mark.parametrize(
    "value", [[1, 2, 3], [3, 0, 1, 1], [0, 3, 1, 1], [0, 0, 1, "1"], [0, 0, math.nan, 1], "0011", None, [0, 0, True, 1]]
)
def test_what_is_no_box_is_none(value: object):
    assert boxes.box_of(value) is None
    with pytest.raises(ValueError, match=r"gt: expected a box \[x1, y1, x2, y2\]"):
        boxes.truth_of("gt", value)


@pytest.mark.parametrize("text", ["", "[", "]", "[1, 2]", "[[[[", "[{]", "no list", "[" * 5000 + "]" * 5000, "{}"])
def test_text_without_a_list_of_objects_is_unread_and_never_raises(text: str):
    assert boxes.objects(text) is None


@check
@given(st.text(alphabet="[]{}'\":,0 1.e-abc\n<>", max_size=40))
def test_no_text_raises(text: str):
    boxes.objects(text)
    boxes.first_box(text)
    visual_rft.rewards([text], [[TEN]])
    v_triune.rewards([text], [[Labelled("a", TEN)]], 0.0)


def test_both_json_and_python_lists_are_read():
    assert boxes.objects('x [{"a": 1}] y') == boxes.objects("x [{'a': 1}] y") == [{"a": 1}]


# -- GUI-G1


def target(*box: float) -> gui_g1.Target:
    return gui_g1.Target(box, (100.0, 100.0))


def test_answers_that_cannot_be_read_score_0_and_are_counted():
    found = gui_g1.rewards(["not json", "[0, 0, 10, 10]", "[10, 0, 0, 10]", "[1, 2]"], [target(*TEN)] * 4)
    assert found.rewards == [0.0, pytest.approx(1.375), 0.0, 0.0]
    assert found.n_unread == 3


def test_a_box_is_found_in_a_longer_answer():
    text = '```json\n[{"bbox_2d": [0, 0, 10.0, 10], "label": "ok"}]\n```'
    assert gui_g1.rewards([text], [target(*TEN)]).rewards == [pytest.approx(1.375)]


def test_a_middle_on_the_border_is_a_hit():
    assert gui_g1.hit((8, 8, 12, 12), TEN) == 1.0
    assert gui_g1.hit((8, 8, 12.1, 12), TEN) == 0.0


def test_an_intersection_of_one_pixel_is_none_and_of_two_counts():
    # rows 0 to 9 and columns 8, 9 shared: 20 of 100 + 100 - 20
    assert gui_g1.iou((9, 0, 19, 10), TEN) == 0.0
    assert gui_g1.iou((8, 0, 18, 10), TEN) == pytest.approx(20 / 180)
    assert gui_g1.iou((3, 3, 3, 3), (3, 3, 3, 3)) == 0.0


def test_an_edge_off_by_the_whole_image_pays_nothing_for_size():
    assert gui_g1.size((100, 0, 200, 10), TEN, (100, 100)) == 0.0
    assert gui_g1.size((250, 0, 300, 10), TEN, (100, 100)) == 0.0
    assert gui_g1.size(TEN, TEN, (100, 100)) == 1.0


def test_gui_advantages_are_not_divided_and_losses_by_a_constant():
    assert gui_g1.advantages([1.0, 0.0]).tolist() == [0.5, -0.5]
    assert gui_g1.advantages([1.0]).tolist() == [0.0]
    assert gui_g1.loss([64.0, 0.0], [1.0, 9.0]) == 0.5
    assert gui_g1.loss([], []) == 0.0


def test_gui_g1_names_what_is_wrong():
    with pytest.raises(ValueError, match="image: expected a width and a height above 0, got 0, 5"):
        gui_g1.size(TEN, TEN, (0, 5))
    with pytest.raises(ValueError, match="gui_g1: the target: expected a box"):
        gui_g1.rewards(["x"], [target(5, 0, 1, 1)])
    with pytest.raises(ValueError, match="visual: expected a truth for each of 2 answers, got 1"):
        gui_g1.rewards(["x", "y"], [target(*TEN)])
    with pytest.raises(ValueError, match="gui_g1: token losses and rates: expected one shape"):
        gui_g1.loss([1.0], [])


# -- Visual-RFT


def test_the_surest_prediction_chooses_first_and_each_true_box_is_taken_once():
    # both overlap the one true box: the surer one, though worse, takes it
    worse, better = Detection((0.0, 0.0, 10.0, 8.0), 0.9), Detection((0.0, 0.0, 10.0, 9.0), 0.5)
    found = visual_rft.matched([better, worse], [TEN])
    assert found == [(pytest.approx(0.8), 0.9), (0.0, 0.5)]
    # IoU 0.8 / 2; confidence (0.9 + 0.5) / 2
    assert visual_rft.overlap(found, 1) == pytest.approx(0.4)
    assert visual_rft.confidence(found) == pytest.approx(0.7)


def test_an_overlap_of_exactly_the_threshold_is_no_match_and_leaves_the_true_box_free():
    found = visual_rft.matched([Detection((0.0, 0.0, 10.0, 5.0), 1.0), Detection(TEN, 0.5)], [TEN])
    assert found == [(0.0, 1.0), (1.0, 0.5)]


def test_leaving_boxes_out_costs_in_the_second_version_only():
    found = visual_rft.matched([Detection(TEN, 1.0)], [TEN, (50.0, 50.0, 60.0, 60.0)])
    assert (visual_rft.overlap(found, 2, version=1), visual_rft.overlap(found, 2)) == (1.0, 0.5)


def test_no_prediction_earns_nothing():
    assert visual_rft.overlap([], 2) == visual_rft.overlap([], 0) == visual_rft.confidence([]) == 0.0
    assert visual_rft.reward("<think>.</think><answer>[]</answer>", [TEN]) == 1.0


def test_an_unreadable_detection_scores_0_whatever_its_format():
    bad = "<think>.</think><answer>a cat</answer>"
    half = "<think>.</think><answer>[{'Position': [0, 0, 10, 10]}]</answer>"
    good = "<think>.</think>\n<answer>[{'Position': [0, 0, 10, 10], 'Confidence': 1.0}]</answer>"
    found = visual_rft.rewards([bad, half, good], [[TEN]] * 3)
    assert found == ([0.0, 0.0, 3.0], 2)
    assert visual_rft.rewards([good.removeprefix("<think>")], [[TEN]]).rewards == [2.0]


def test_a_confidence_beyond_1_is_cut():
    assert visual_rft.confidence([visual_rft.Match(0.9, 7.0)]) == 1.0
    assert visual_rft.confidence([visual_rft.Match(0.0, 7.0)]) == 0.0


@pytest.mark.parametrize(
    ("label", "truth", "paid"),
    [("Snow Leopard", "snow_leopard", 1.0), ("leopard", "Snow Leopard", 1.0), ("cat", "dog", 0.0), (" _", "dog", 0.0)],
)
def test_labels_are_compared_without_case_spaces_and_underscores(label: str, truth: str, paid: float):
    assert visual_rft.classified(label, truth) == paid


# -- V-Triune


def cat(*box: float, label: str = "cat") -> Labelled:
    x1, y1, x2, y2 = box
    return Labelled(label, (x1, y1, x2, y2))


def test_the_largest_overlap_is_paired_first():
    # the second prediction fits the first target best; taken in order, the first would have had it
    preds, gts = [cat(0, 0, 10, 9), cat(0, 0, 10, 10)], [cat(0, 0, 10, 10), cat(0, 0, 10, 8)]
    assert v_triune.iou_first(preds, gts, 0.5) == ([1.0, pytest.approx(8 / 9)], 2)


def test_a_wrong_label_uses_up_both_boxes_and_label_first_leaves_them():
    preds, gts = [cat(0, 0, 10, 10, label="dog"), cat(0, 0, 10, 9)], [cat(0, 0, 10, 10)]
    assert v_triune.iou_first(preds, gts, 0.85) == ([0.0], 1)
    assert v_triune.label_first(preds, gts, 0.85) == ([pytest.approx(0.9)], 1)
    assert v_triune.label_first(preds, gts, 0.95) == ([], 0)


def test_each_box_too_many_or_too_few_costs_two_fifths():
    one, far = cat(0, 0, 10, 10), cat(50, 50, 60, 60)
    assert v_triune.score([one, far], [one], 0.85) == pytest.approx(0.6)
    # mean IoU 1/2, missed 1/2, no false alarm: (0.5 * 0.5 + 0.5 * 0.75) * 0.6
    assert v_triune.score([one], [one, far], 0.85, weight=0.5) == pytest.approx(0.375)
    assert v_triune.score([], [one], 0.85, weight=1.0) == pytest.approx(0.5 * 0.6)
    assert (v_triune.score([], [], 0.85), v_triune.score([one], [], 0.85)) == (1.0, 0.0)


def test_the_same_box_twice_counts_once():
    one = cat(0, 0, 10, 10)
    assert v_triune.score([one, one], [one], 0.85) == 1.0


def test_average_precision_by_hand():
    one, far, wrong = cat(0, 0, 10, 10), cat(50, 50, 60, 60), cat(80, 80, 90, 90)
    # hits 1, 0, 1 of two targets: precision 1 to recall 1/2, then 2/3: (1 + 2/3) / 2
    assert v_triune.average_precision([one, wrong, far], [one, far], 0.5) == pytest.approx(5 / 6)
    # IoU 0.8: a hit at 0.50 to 0.80, seven of ten thresholds
    assert v_triune.mean_average_precision([cat(0, 0, 10, 8)], [one]) == pytest.approx(0.7)
    assert v_triune.average_precision([], [one], 0.5) == 0.0


def test_parts_are_blended_by_their_share():
    one = cat(0, 0, 10, 10)
    preds, gts = [cat(0, 0, 10, 8)], [one]
    # iou_first pays 0 below 0.85, map50 pays 1
    assert v_triune.blended(preds, gts, 0.0, {"iou_first": 1.0, "map50": 3.0}) == 0.75
    with pytest.raises(ValueError, match=r"ratios: expected some of iou_first, .*map75, got miou"):
        v_triune.blended(preds, gts, 0.0, {"miou": 1.0})
    with pytest.raises(ValueError, match="with a sum above 0"):
        v_triune.blended(preds, gts, 0.0, {"map": 0.0})


@check
@given(some_box, some_box, st.floats(0, 1), st.floats(0, 1))
def test_the_reward_never_rises_as_training_goes_on(a: boxes.Box, b: boxes.Box, p: float, q: float):
    assert v_triune.single(a, b, max(p, q)) <= v_triune.single(a, b, min(p, q))


def test_a_progress_beyond_training_is_refused():
    with pytest.raises(ValueError, match=r"progress: expected a share of training from 0 to 1, got 1\.5"):
        v_triune.threshold(1.5)


def test_tags_count_once_and_with_their_line_breaks():
    whole = "<think>\nit\n</think>\n\n<answer>\n3\n</answer>"
    assert v_triune.tags(whole) == 1.0
    assert v_triune.tags(whole + "<think>\n") == 0.75
    assert v_triune.tags(whole.replace("\n", "")) == 0.0


def test_detections_without_one_valid_box_score_0_and_are_counted():
    good = '<answer>[{"bbox_2d": [0, 0, 10, 10], "label": "cat"}, {"bbox_2d": [9, 0, 1, 1], "label": "cat"}]</answer>'
    far = '[{"bbox_2d": [50, 50, 60, 60], "label": "cat"}]'
    found = v_triune.rewards([good, far, "cat", "[]"], [[cat(0, 0, 10, 10)]] * 4, 0.0)
    assert found.rewards == pytest.approx([1.0, 0.1 / 1.1, 0.0, 0.0])
    assert found.n_unread == 2


# -- UI-Genie


@check
@given(st.floats(-50, 50), st.floats(-50, 50))
def test_the_two_tokens_chances_add_up_to_1(plus: float, minus: float):
    assert ui_genie.score(plus, minus) + ui_genie.score(minus, plus) == pytest.approx(1.0)


def test_a_score_from_probabilities_is_the_one_from_their_logarithms():
    assert ui_genie.score_of_probs(0.6, 0.2) == pytest.approx(ui_genie.score(math.log(0.6), math.log(0.2)).item())
    assert ui_genie.score_of_probs(0.0, 0.0) == 0.0


def test_an_action_is_right_if_all_that_the_truth_names_is():
    truth = {"type": "click", "box": [0, 0, 10, 10]}
    assert ui_genie.verified({"type": "click", "point": [10, 0]}, truth)
    assert not ui_genie.verified({"type": "click", "point": [11, 0]}, truth)
    assert not ui_genie.verified({"type": "press", "point": [1, 1]}, truth)
    assert not ui_genie.verified({"type": "click", "point": "ab"}, truth)
    assert not ui_genie.verified({"type": "click", "point": ["a", 0]}, truth)
    typed = {"type": "type", "text": "Hello  World"}
    assert ui_genie.verified({"type": "type", "text": "hello world"}, typed)
    assert not ui_genie.verified({"type": "type"}, typed)
    assert ui_genie.verified({"type": "type", "text": "hi"}, typed, same_text=lambda a, b: a[0] == b[0].lower())


def test_negatives_are_cut_swapped_or_continued():
    assert ui_genie.truncated("abc", 2) == ["a", "b"]
    assert ui_genie.substituted("abc", 1, "x") == ["a", "x", "c"]
    assert ui_genie.continued("abc", "d") == ["a", "b", "c", "d"]
    with pytest.raises(ValueError, match="expected fewer than 3 steps to keep, got 3"):
        ui_genie.truncated("abc", 3)
    with pytest.raises(ValueError, match="expected a step from 0 to 2, got 3"):
        ui_genie.substituted("abc", 3, "x")
    with pytest.raises(ValueError, match="expected at least one step more"):
        ui_genie.continued("abc", "")


def test_the_beam_keeps_the_best_sums_and_of_equals_the_first():
    found = ui_genie.beam([0.5, 0.7], [[0.5, 0.1], [0.3, 0.3]], 3)
    assert [(way.prefix, way.step) for way in found] == [(0, 0), (1, 0), (1, 1)]
    assert ui_genie.beam([0.5], [[]], 2) == []
    with pytest.raises(
        ValueError, match="expected candidates for each of 2 prefixes and a width of at least 1, got 1, 2"
    ):
        ui_genie.beam([0.5, 0.5], [[1.0]], 2)
    with pytest.raises(ValueError, match="expected finite scores"):
        ui_genie.beam([0.5], [[math.nan]], 1)


@pytest.mark.parametrize("box", ["[0, 0, HUGE, 1]", "[0, 0, 1, 1]"])
@pytest.mark.parametrize("confidence", ["HUGE", "-1000", "1.5", "true"])
def test_what_is_no_box_or_no_confidence_is_unreadable_and_no_error(box: str, confidence: str):
    text = f'<answer>[{{"Position": {box}, "Confidence": {confidence}}}]</answer>'.replace("HUGE", "9" * 400)
    assert visual_rft.rewards([text], [[(0.0, 0.0, 10.0, 10.0)]]).n_unread == 1
