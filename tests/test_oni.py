"""ONI: what captions earn, when labels count, and that a resumed run goes on as if never stopped."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from judges import Broken, Slow, larger, likes

from milepost.credit.captions import ONI, combined, episodic_counts
from milepost.credit.core import assign, restore, saved
from milepost.credit.made import episode
from milepost.credit.methods import resolve
from milepost.credit.moments import Moments
from milepost.credit.oni import Classification, Ranking, Retrieval
from milepost.credit.oni_models import CaptionModel, CharCNN, classification_loss, ranking_loss
from milepost.envs.core import ContractError, Episode

NAN, INF = float("nan"), float("inf")
TINY = {"channels": 8, "hidden": 16, "length": 32, "dropout": 0.0, "lr": 1e-2}
"""A network that learns in a second."""


def said(*captions: str, **kwargs: Any) -> Episode:
    return episode(caption=["begin", *captions], texts=["did"] * len(captions), **kwargs)


def row(method: ONI, *captions: str) -> Any:
    return method.on_group([said(*captions)])[0]


def waiting(method: ONI) -> list[str]:
    return [text for item in method.queue.waiting for text in item]


class Worth:
    """A network that is known: the worth of a caption is the number that it is."""

    def scores(self, captions: Sequence[str]) -> list[float]:
        return [float(caption) for caption in captions]


def with_scores(method: Any, **options: Any) -> Any:
    made = method(annotator=likes(), llm_coef=1.0, **options)
    made.model = Worth()
    return made


# retrieval


def test_a_caption_earns_its_label_over_the_cube_of_how_often_it_came_in_the_episode():
    method = Retrieval(table={"gold": 1.0, "wall": 0.0}, llm_coef=0.5)
    # 0.5 / 1, 0, 0.5 / 8, 0.5 / 27
    assert row(method, "gold", "wall", "gold", "gold") == pytest.approx([0.5, 0.0, 0.0625, 0.5 / 27])


def test_counts_begin_anew_in_each_episode():
    rows = Retrieval(table={"gold": 1.0}, llm_coef=1.0).on_group([said("gold"), said("gold", "gold")])
    assert rows == [[1.0], [1.0, 0.125]]


def test_an_exponent_of_zero_pays_the_same_every_time():
    assert row(Retrieval(table={"gold": 1.0}, llm_coef=1.0, exponent=0.0), "gold", "gold") == [1.0, 1.0]


def test_the_total_adds_the_extrinsic_reward_with_its_own_coefficient():
    # 0.1 * 2 + 0.4 * 1 / 2^3
    assert combined([1.0], [2], [2.0], llm_coef=0.4, ext_coef=0.1) == pytest.approx([0.25])
    assert episodic_counts(["a", "", "a", ""]) == [1, 1, 2, 2]
    assert episodic_counts([]) == []


def test_an_unseen_caption_earns_zero_and_is_asked_about_once():
    method, judge = Retrieval(annotator=likes("gold"), llm_coef=1.0), likes("gold")
    method.annotator = judge
    assert row(method, "gold", "wall", "gold") == [0.0, 0.0, 0.0]
    assert waiting(method) == ["gold", "wall"]
    method.fit([])
    assert judge.asked == [["wall"], ["gold"]]
    assert row(method, "gold", "wall") == [1.0, 0.0]
    method.fit([])
    assert len(judge.asked) == 2


def test_blank_captions_are_captions_unless_left_out():
    method = Retrieval(annotator=likes(), table={"": 1.0}, llm_coef=1.0)
    assert row(method, "", "gold", "") == [1.0, 0.0, 0.125]
    method = Retrieval(annotator=likes(), table={"": 1.0, "gold": 1.0}, llm_coef=1.0, skip_blank=True)
    assert row(method, " ", "gold", "", "gold") == [None, 1.0, None, 0.125]
    assert waiting(method) == []


def test_labels_that_arrive_inside_a_batch_do_not_change_its_rewards():
    slow = Slow(likes("gold"))
    method = Retrieval(annotator=slow, llm_coef=1.0, background=True)
    assert row(method, "gold") == [0.0]
    method.fit([])
    assert row(method, "gold") == [0.0]
    slow.go.set()
    method.queue.join()
    assert row(method, "gold") == [0.0]
    assert method.fit([])["credit/oni_retrieval/annotated"] == 1
    assert row(method, "gold") == [1.0]


def test_on_group_never_calls_the_annotator():
    for method in (Retrieval, Classification, Ranking):
        assert row(method(annotator=Broken(likes()), every=1), "a", "b") == [0.0, 0.0]


def test_an_annotator_that_is_down_is_counted_and_asked_again():
    method = Retrieval(annotator=Broken(likes("gold"), 1), llm_coef=1.0)
    row(method, "gold")
    metrics = method.fit([])
    assert (metrics["credit/oni_retrieval/annotator_failed"], metrics["credit/oni_retrieval/waiting"]) == (1, 1)
    assert method.fit([])["credit/oni_retrieval/labels"] == 1
    assert row(method, "gold") == [1.0]


def test_an_answer_without_a_tag_is_a_zero_and_counted():
    judge = likes()
    judge.rule = lambda caption: "I do not know"
    method = Retrieval(annotator=judge)
    row(method, "gold")
    assert method.fit([])["credit/oni_retrieval/unparsed"] == 1
    assert method.labels == {("gold",): (0.0,)}


def test_another_text_may_be_read_instead_of_the_caption():
    method = Retrieval(table={"seen": 1.0}, llm_coef=1.0, caption=lambda e, t: str(e.turns[t].observation))
    assert method.on_group([episode(n_turns=2)]) == [[1.0, 0.125]]


def test_empty_groups_and_episodes_without_turns_have_empty_rows():
    method = Retrieval(table={"gold": 1.0})
    assert method.on_group([]) == []
    assert method.on_group([Episode(), said("gold")]) == [[], [0.4]]


def test_what_is_missing_is_named():
    with pytest.raises(ContractError, match="oni_retrieval needs an annotator: the recipe gives it"):
        row(Retrieval(), "gold")
    with pytest.raises(ContractError, match=r"oni_ranking needs info\['caption'\] at every step; my/Env-v0 gave None"):
        Ranking(annotator=larger()).on_group([episode(n_turns=2)])
    with pytest.raises(ValueError, match="exponent: expected at least 0, got -1"):
        Retrieval(exponent=-1.0)
    with pytest.raises(ValueError, match="oni_retrieval: table: expected a finite number for 'gold'"):
        Retrieval(table={"gold": NAN})
    with pytest.raises(ValueError, match="oni_classification has no option 'gold'"):
        resolve("oni_classification", gold=1)
    with pytest.raises(ValueError, match="eta: expected a probability"):
        Classification(eta=1.0)


def test_a_table_alone_earns_without_an_annotator():
    method = Retrieval(table={"gold": 1.0})
    row(method, "wall")
    assert waiting(method) == []
    assert method.fit([])["credit/oni_retrieval/labels"] == 1


# classification and ranking, with a network that is known


def test_progress_must_be_more_likely_than_eta():
    # p = 0.5 at a score of 0; eta = 0.75 is a score of log 3 = 1.0986
    assert with_scores(Classification).intrinsic(["0", "0.01", "-1"]) == [0.0, 1.0, 0.0]
    assert with_scores(Classification, eta=0.75).intrinsic(["1.09", "1.10"]) == [0.0, 1.0]


def test_moments_take_the_batch_in_before_they_normalise_it():
    # mean 2, sample variance 2, against weight 1e-4 of (0, 1):
    # mean = 4 / 2.0001, var = (1e-4 + 2 * 2 + 4 * 2e-4 / 2.0001) / 2.0001, z = (x - mean) / sqrt(var)
    moments = Moments()
    moments.update([1.0, 3.0])
    assert (moments.mean, moments.var) == pytest.approx((1.999900, 2.000150), abs=1e-6)
    z = with_scores(Ranking, exponent=0.0).on_group([said("1"), said("3")])
    assert z == [[0.0], [pytest.approx(1.000100 / 2.000150**0.5, abs=1e-5)]]


def test_moments_of_one_of_equal_and_of_broken_numbers_stay_finite():
    moments = Moments()
    moments.update([])
    moments.update([NAN, INF])
    assert moments.state_dict() == {"mean": 0.0, "var": 1.0, "count": 1e-4}
    moments.update([5.0])
    assert np.isfinite([moments.mean, moments.var]).all()
    for _ in range(3):
        moments.update([5.0] * 4)
    assert np.isfinite(moments.normalised([5.0])).all()


def test_moments_of_batches_are_those_of_all_numbers():
    # two batches of two; sample variances 2 and 8 count as they are: (2*2 + 2*8 + between 16) / 4 = 9, mean 4
    moments = Moments(0.0, 0.0, 0.0)
    moments.update([1.0, 3.0])
    moments.update([4.0, 8.0])
    assert (moments.mean, moments.var) == pytest.approx((4.0, 9.0))


def test_a_worth_must_exceed_the_threshold():
    method = with_scores(Ranking, legacy_raw_ranking=True)
    assert method.intrinsic(["-0.5", "-0.4", "2"]) == [0.0, -0.4, 2.0]


def test_the_released_form_pays_the_raw_worth():
    captions = ["10", "12", "11"]
    assert with_scores(Ranking, legacy_raw_ranking=True).intrinsic(captions) == [10.0, 12.0, 11.0]
    # moments of (10, 12, 11): mean 11, sample deviation 1, but for the start's 1e-4
    assert with_scores(Ranking).intrinsic(captions) == pytest.approx([0.0, 1.0, 0.0], abs=0.03)


@pytest.mark.parametrize("method", [Classification, Ranking])
def test_a_score_that_is_not_a_number_is_counted_and_poisons_nothing(method: Any):
    made, group = with_scores(method), [said("nan", "1", "2")]
    metrics = assign([made], [group])
    assert metrics[f"credit/{made.label}/not_finite"] == 1
    assert np.isfinite(made.intrinsic(["1", "3"])).all()


@pytest.mark.parametrize("method", [Classification, Ranking])
def test_before_any_label_a_caption_earns_nothing_and_an_empty_group_has_no_rows(method: Any):
    made = method(annotator=likes())
    assert row(made, "a", "b") == [0.0, 0.0]
    assert made.on_group([]) == []
    assert made.on_group([Episode()]) == [[]]


def test_one_caption_in_ten_is_asked_about():
    method = Classification(annotator=likes())
    row(method, *(str(n) for n in range(25)))
    assert waiting(method) == ["0", "10", "20"]


def test_every_new_caption_is_compared_with_an_earlier_one_and_no_pair_twice():
    method = Ranking(annotator=larger(), every=1)
    row(method, *(str(n) for n in range(20)), *(str(n) for n in range(20)))
    pairs = list(method.queue.waiting)
    assert [max(map(int, pair)) for pair in pairs] == list(range(1, 20))
    assert 0 < sum(int(a) > int(b) for a, b in pairs) < 19, "which comes first must not tell which is newer"
    assert len({frozenset(pair) for pair in pairs}) == 19


def test_ten_random_pairs_are_added_where_fewer_than_two_batches_wait():
    method = Ranking(annotator=Broken(larger()), every=1, batch=10)
    row(method, *(str(n) for n in range(20)))
    method.fit([])
    added = len(method.queue.waiting) - 19
    assert 5 <= added <= 10, "random pairs, less those that were there"
    method.queue.batch = 2
    method.fit([])
    assert len(method.queue.waiting) == 19 + added


def test_captions_to_compare_with_are_the_newest():
    method = Ranking(annotator=larger(), every=1, capacity=3)
    row(method, *"12345")
    assert list(method.seen) == ["3", "4", "5"]


def test_asking_stops_when_there_are_labels_enough():
    judge = likes("a")
    method = Classification(annotator=judge, every=1, max_labels=2, batch=2, model=TINY)
    row(method, *"abcd")
    method.fit([])
    method.fit([])
    row(method, *"efgh")
    assert (len(method.labels), judge.batches, waiting(method)) == (2, [2], ["a", "b"])
    assert Classification().max_labels == Ranking().max_labels == 25_000
    assert Retrieval().max_labels is None


# the network


def test_the_network_has_the_published_size():
    model = CaptionModel("classification")
    # bytes 256 * 32; convolutions 32 -> 64 (7), 64 -> 64 (7, 3, 3, 3, 3) with biases; 256 / 3 / 3 / 3 = 9 places
    convolutions = (32 * 7 + 1) * 64 + (64 * 7 + 1) * 64 + 4 * (64 * 3 + 1) * 64
    mlp = (64 * 9 + 1) * 512 + (512 + 1) * 512 + 512 + 1
    assert sum(p.numel() for p in model.network.parameters()) == 256 * 32 + convolutions + mlp
    assert [layer.p for layer in model.network.mlp if isinstance(layer, torch.nn.Dropout)] == [0.1, 0.1]
    assert (model.steps, model.batch, model.optimizer.defaults["lr"]) == (32, 256, 1e-4)
    assert Ranking().options["clip"] == 10.0


def test_losses_are_those_of_the_probabilities():
    # sigmoid(0) = 1/2: log 2 each; softmax(log 3, 0) = (3/4, 1/4): -log 1/4 for the second
    assert classification_loss(torch.zeros(2), torch.tensor([0.0, 1.0])).item() == pytest.approx(0.693147)
    assert ranking_loss(torch.tensor([[np.log(3.0), 0.0]]), torch.tensor([[0.0, 1.0]])).item() == pytest.approx(
        1.386294
    )


def test_the_classifier_learns_captions_that_a_word_tells_apart():
    method = Classification(annotator=likes("gold"), every=1, model=TINY, llm_coef=1.0, exponent=0.0)
    good, bad = [f"{n} pieces of gold" for n in range(12)], [f"{n} grey walls" for n in range(12)]
    row(method, *good, *bad)
    method.fit([])
    row(method, *(f"{n} doors" for n in range(12)))
    assert method.fit([])["credit/oni_classification/loss"] < 0.3
    assert row(method, *good, *bad) == [1.0] * 12 + [0.0] * 12
    assert row(method, "77 pieces of gold", "77 grey walls") == [1.0, 0.0], "it generalises to what it never saw"


def test_what_was_scored_before_a_training_is_scored_anew_after_it():
    method = Classification(annotator=likes("gold"), every=1, batch=1, model=TINY)
    row(method, "gold", "wall")
    method.fit([])
    before = method.scores(["gold"])
    assert method.scores(["gold"]) == before
    method.fit([])
    assert method.scores(["gold"]) != before


def test_the_ranker_learns_which_caption_is_worth_more():
    method = Ranking(annotator=larger(), every=1, model=TINY, llm_coef=1.0, exponent=0.0)
    captions = [f"level {n}" for n in range(9)]
    for _ in range(5):
        row(method, *captions)
        method.fit([])
    earned = method.scores(captions)
    assert np.corrcoef(earned, range(9))[0, 1] > 0.9


def test_a_network_leaves_the_process_s_randomness_alone_and_is_a_function_of_its_seed():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    small = {**TINY, "dropout": 0.5}
    one, two, other = (CaptionModel("classification", seed=seed, **small) for seed in (3, 3, 4))
    losses = [model.fit([("a",), ("b",)], [1.0, 0.0]) for model in (one, two, other)]
    assert torch.equal(torch.get_rng_state(), before)
    assert losses[0] == losses[1] != losses[2]
    assert one.scores(["a"]) == two.scores(["a"])


def test_any_text_is_a_caption_and_one_too_short_a_length_is_refused():
    model = CaptionModel("ranking", **TINY)
    assert np.isfinite(model.scores(["", "x" * 999, "\0", "\ud800", "\u4e2d"])).all()
    assert model.scores(["x" * 32]) == model.scores(["x" * 999])
    with pytest.raises(ValueError, match="length: expected at least 27 bytes"):
        CharCNN(length=26)
    with pytest.raises(ValueError, match="head: expected one of classification, ranking, got 'best'"):
        CaptionModel("best")  # type: ignore[arg-type]


# a run that goes on


@pytest.mark.parametrize("name", ["oni_retrieval", "oni_classification", "oni_ranking"])
def test_a_resumed_run_goes_on_bit_for_bit(name: str):
    def new() -> Any:
        model = {} if name == "oni_retrieval" else {"model": {**TINY, "dropout": 0.1}}
        judge = larger() if name == "oni_ranking" else likes("3", "5")
        return resolve(name, annotator=judge, every=2, batch=7, **model)

    def update(method: Any, n: int) -> Any:
        random = np.random.default_rng(n)
        groups = [[said(*(f"level {k}" for k in random.integers(60, size=9))) for _ in range(3)] for _ in range(3)]
        return [method.on_group(group) for group in groups], method.fit(groups)

    method = new()
    for n in range(3):
        update(method, n)
    row(method, "level 3", "level 4", "level 99")
    buffer = io.BytesIO()
    torch.save(saved(method), buffer)
    expected = [update(method, n) for n in range(3, 6)]
    buffer.seek(0)
    resumed = new()
    restore(resumed, torch.load(buffer, weights_only=True))
    assert [update(resumed, n) for n in range(3, 6)] == expected
    assert any(value for rows, _ in expected for row in rows[0] for value in row)
    assert _plain(resumed.state_dict()) == _plain(method.state_dict())


def _plain(state: Any) -> Any:
    if isinstance(state, dict):
        return {key: _plain(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [_plain(value) for value in state]
    return state.tolist() if isinstance(state, torch.Tensor) else state


def test_training_on_does_not_change_what_was_saved():
    model = CaptionModel("classification", **TINY)
    model.fit([("a",)], [1.0])
    state = model.state_dict()
    copy = _plain(state)
    model.fit([("a",)], [1.0])
    assert _plain(state) == copy
    model.load_state_dict(state)
    model.fit([("a",)], [1.0])
    assert _plain(state) == copy
