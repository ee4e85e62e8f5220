"""IGPO: beliefs before turns, gains between them, outcome for the last turn; what it says when something is missing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from milepost.credit import advantage
from milepost.credit.answers import Probe
from milepost.credit.core import assign
from milepost.credit.igpo import IGPO, answer_reward, curriculum, f1
from milepost.credit.made import episode
from milepost.credit.methods import resolve
from milepost.envs.core import ContractError, Episode, FloatArray, Message

INF, NAN = float("inf"), float("nan")


class Reader:
    """A scorer that believes what the newest observation says: a number, or several tokens' numbers, in nats."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def logprobs(
        self,
        views: Sequence[Sequence[Message]],
        targets: Sequence[str],
        *,
        prefix: str = "",
        suffix: str = "",
        tools: Sequence[dict[str, Any]] = (),
    ) -> list[FloatArray]:
        self.calls.append({"targets": list(targets), "prefix": prefix, "suffix": suffix, "tools": list(tools)})
        return [np.array([float(x) for x in view[-1]["content"].split()], np.float32) for view in views]


class Short(Reader):
    """A scorer that loses a row."""

    def logprobs(self, views: Any, targets: Any, **kwargs: Any) -> list[FloatArray]:
        return super().logprobs(views, targets, **kwargs)[1:]


def attempt(outcome: float | None, *beliefs: Any, answer: Any = "Paris", **kwargs: Any) -> Episode:
    """An attempt of as many turns as beliefs; the text of all its turns is the same."""
    at_reset = {} if answer is None else {"answer": answer}
    e = episode(outcome, n_turns=len(beliefs), at_reset=at_reset, **kwargs)
    for turn, belief in zip(e.turns, beliefs, strict=True):
        turn.observation = str(belief)
    return e


def igpo(**kwargs: Any) -> IGPO:
    return IGPO(scorer=kwargs.pop("scorer", None) or Reader(), **kwargs)


def rows(method: IGPO, *group: Episode) -> Any:
    return method.on_group(list(group))


def test_a_turn_earns_the_rise_of_the_belief_after_it_and_the_last_one_none():
    # mean log-probabilities -2, -1, -0.5: gains 1 and 0.5
    assert rows(igpo(), attempt(1.0, "-2.5 -1.5", "-1.5 -0.5", "-0.5 -0.5")) == [[1.0, 0.5, None]]


def test_as_a_probability_the_belief_is_the_geometric_mean():
    ((first, last),) = rows(igpo(belief="prob"), attempt(1.0, "-3.0 -1.0", "-1.0 -1.0"))
    assert first == pytest.approx(math.exp(-1) - math.exp(-2), abs=1e-7)
    assert last is None


def test_the_gains_of_an_attempt_sum_to_its_last_belief_less_its_first():
    beliefs = [-3.0, -1.25, -2.5, -2.5, -0.75]
    (row,) = rows(igpo(), attempt(1.0, *beliefs))
    assert sum(row[:-1]) == pytest.approx(beliefs[-1] - beliefs[0])


def test_turns_of_identical_text_each_have_their_own_gain():
    # all actions are the same text, and two of the observations: credit goes by the turn's index
    assert rows(igpo(), attempt(0.0, -2.0, -1.0, -2.0, -1.0)) == [[1.0, -1.0, 1.0, None]]


def test_an_attempt_of_one_turn_has_no_gain_and_is_not_scored():
    reader = Reader()
    assert rows(igpo(scorer=reader), attempt(1.0, -2.0), attempt(0.0, -2.0)) == [[None], [None]]
    assert reader.calls == []


def test_a_group_is_scored_in_one_call_between_the_tags_of_the_probe():
    reader = Reader()
    tool = {"type": "function", "function": {"name": "search"}}
    group = [attempt(1.0, -2.0, -1.0), attempt(0.0, -2.0, -3.0, -4.0)]
    for e in group:
        e.tools = [tool]
        e.info["aliases"] = ["Lutetia"]
    rows(igpo(scorer=reader, probe=Probe("<a>", "</a>")), *group)
    assert reader.calls == [{"targets": ["Paris"] * 5, "prefix": "<a>", "suffix": "</a>", "tools": [tool]}]


def test_the_default_probe_closes_a_thought_and_opens_an_answer():
    reader = Reader()
    rows(igpo(scorer=reader), attempt(1.0, -2.0, -1.0))
    prefix, suffix = reader.calls[0]["prefix"], reader.calls[0]["suffix"]
    assert prefix.index("</think>") < prefix.index("<answer>")
    assert "</answer>" in suffix
    assert answer_reward(prefix + "Paris" + suffix, ["paris"]) == 1.0


def test_an_empty_group_and_an_episode_without_turns_earn_nothing():
    method = igpo()
    assert method.on_group([]) == []
    assert method.on_group([Episode(id="e", env_id="my/Env-v0", info={"answer": "Paris"})]) == [[]]


# ---- from gains to advantages


def advantages(*group: Episode, method: IGPO | None = None, **kwargs: Any) -> Any:
    assign([method or igpo()], [list(group)])
    return advantage.pooled([list(group)], "igpo", last="outcome", **kwargs)[0]


def test_gains_and_outcomes_are_normalised_in_their_own_pools_and_summed_to_the_end():
    # gains 1, 0 | 0, -1: mean 0, deviation sqrt(0.5) -> +-1.41421; outcomes 1, 0 -> +-1
    group = [attempt(1.0, -2.0, -1.0, -1.0), attempt(0.0, -2.0, -2.0, -3.0)]
    up, down = advantages(*group)
    root = math.sqrt(2)
    assert up == pytest.approx([root + 1, 1, 1], abs=1e-4)
    assert down == pytest.approx([-root - 1, -root - 1, -1], abs=1e-4)


def test_weight_and_gamma_scale_the_gains_and_the_turns_after():
    group = [attempt(1.0, -2.0, -1.0, -1.0), attempt(0.0, -2.0, -2.0, -3.0)]
    up, down = advantages(*group, weight=0.5, gamma=0.5)
    root = math.sqrt(2) / 2
    assert up == pytest.approx([root + 0.25, 0.5, 1], abs=1e-4)
    assert down == pytest.approx([-root / 2 - 0.25, -root - 0.5, -1], abs=1e-4)


def test_in_a_joint_pool_gains_are_weighed_before_they_are_normalised():
    # pool: gains 2, 0 times 0.5, and outcomes 1, 0: 1, 0, 1, 0 -> +-1; sums to the end +-2, +-1
    group = [attempt(1.0, -3.0, -1.0), attempt(0.0, -3.0, -3.0)]
    up, down = advantages(*group, pools="joint", weight=0.5)
    assert up == pytest.approx([2, 1], abs=1e-4)
    assert down == pytest.approx([-2, -1], abs=1e-4)


def test_the_published_order_charges_for_a_turn_that_the_other_order_leaves_alone():
    # COM-5 with gains: equal sums, one attempt with one more turn of gain 0
    def gap(order: Any) -> float:
        group = [attempt(1.0, -2.0, -1.7, -1.4), attempt(1.0, -2.0, -1.7, -1.7, -1.4)]
        short, long = advantages(*group, order=order)
        return short[0] - long[0]

    assert gap("normalise_then_accumulate") > 0.5
    assert gap("accumulate_then_normalise") == pytest.approx(0.0, abs=1e-3)


def test_equal_outcomes_leave_the_gains_to_tell_the_attempts_apart():
    up, down = advantages(attempt(0.0, -2.0, -1.0), attempt(0.0, -2.0, -3.0))
    assert up == pytest.approx([1, 0], abs=1e-4)
    assert down == pytest.approx([-1, 0], abs=1e-4)


def test_a_group_of_one_and_equal_attempts_get_zeros():
    assert advantages(attempt(1.0, -2.0, -1.0)) == [[0.0, 0.0]]
    assert advantages(attempt(1.0, -2.0, -1.0), attempt(1.0, -2.0, -1.0)) == [[0.0, 0.0]] * 2


def test_a_gain_of_zero_is_in_the_pool_and_out_of_it_only_in_legacy():
    def play() -> list[Episode]:
        return [attempt(0.0, -2.0, -1.0, -1.0), attempt(0.0, -2.0, -1.0, -1.0), attempt(0.0, -2.0, -1.0, 1.0)]

    assert rows(igpo(), *play())[0] == [1.0, 0.0, None]
    assert rows(igpo(legacy_drop_zero=True), *play())[0] == [1.0, None, None]
    # pool 1 0 1 0 1 2: mean 5/6, deviation 0.687184; without the zeros 1 1 1 2: mean 1.25, deviation 0.433013
    assert advantages(*play())[0][1] == pytest.approx(-5 / 6 / 0.687184, abs=1e-4)
    legacy = advantages(*play(), method=igpo(legacy_drop_zero=True))
    assert legacy[0] == pytest.approx([-0.25 / 0.433013, 0.0, 0.0], abs=1e-4)


# ---- what is missing


def test_without_a_scorer_it_says_who_gives_one():
    with pytest.raises(ValueError, match=r"^igpo needs a scorer: the recipe gives it"):
        resolve("igpo")


@pytest.mark.parametrize(("answer", "told"), [(None, "none"), ("", "''"), ("  ", "'  '"), (7, "7")])
def test_without_an_answer_it_names_the_key_and_the_environment(answer: Any, told: str):
    with pytest.raises(ContractError, match=rf"^igpo needs info\['answer'\] from reset; my/Env-v0 gave {told}$"):
        rows(igpo(), attempt(1.0, -2.0, -1.0, answer=answer))


def test_if_not_strict_an_attempt_without_answer_is_not_judged_and_counted():
    method = igpo(strict=False)
    got = rows(method, attempt(1.0, -2.0, -1.0, answer=None), attempt(1.0, -2.0, -1.0))
    assert got == [[None, None], [1.0, None]]
    assert method.fit([])["credit/igpo/answers_missing"] == 1.0
    assert method.fit([])["credit/igpo/answers_missing"] == 0.0


def test_without_any_answer_the_outcome_alone_is_left():
    group = [attempt(1.0, -2.0, -1.0, answer=None), attempt(0.0, -2.0, -1.0, answer=None)]
    up, down = advantages(*group, method=igpo(strict=False))
    assert up == pytest.approx([1, 1], abs=1e-4)
    assert down == pytest.approx([-1, -1], abs=1e-4)


def test_a_scorer_that_loses_a_probe_is_refused_or_if_not_strict_counted():
    group = [attempt(1.0, -2.0, -1.0), attempt(0.0, -2.0, -3.0)]
    with pytest.raises(ContractError, match=r"igpo: group 'g': expected 4 rows from the scorer.*, got 3"):
        rows(igpo(scorer=Short()), *group)
    method = igpo(scorer=Short(), strict=False)
    assert rows(method, *group) == [[None, None]] * 2
    assert method.fit([])["credit/igpo/probes_missing"] == 2.0


@pytest.mark.parametrize("bad", [NAN, -INF, ""])
def test_a_belief_that_is_not_finite_is_refused_or_if_not_strict_both_its_gains_count_zero(bad: Any):
    e = attempt(1.0, -4.0, -3.0, bad, -1.0, -0.5)
    with pytest.raises(ContractError, match=r"igpo: episode 'e', turn 1: expected a finite gain"):
        rows(igpo(), e)
    method = igpo(strict=False)
    assert rows(method, e) == [[1.0, 0.0, 0.0, 0.5, None]]
    assert method.fit([])["credit/igpo/gains_not_finite"] == 2.0


def test_a_belief_of_another_name_is_refused():
    with pytest.raises(ValueError, match="igpo: belief: expected one of log, prob, got 'odds'"):
        igpo(belief="odds")


# ---- the outcome


def test_f1_compares_sets_of_words_and_takes_the_best_alias():
    # {the, eiffel, tower, paris} and {eiffel, tower}: 2 in common, 2*2/(4+2); the alias: 2*2/(4+4)
    golds = ["Tour Eiffel in Paris", "Eiffel Tower"]
    assert f1("The Eiffel tower, Paris", golds) == pytest.approx(4 / 6)
    assert f1("the the the", ["the"]) == 1.0
    assert f1("twenty-one", ["Twenty One"]) == 1.0
    assert f1("\u0939\u093f\u0928\u094d\u0926\u0940.", ["\u0939\u093f\u0928\u094d\u0926\u0940"]) == 1.0


@pytest.mark.parametrize(("prediction", "golds"), [("", ["a"]), ("a", [""]), ("a", []), ("...", ["..."]), ("b", ["a"])])
def test_f1_is_zero_without_a_word_in_common(prediction: str, golds: list[str]):
    assert f1(prediction, golds) == 0.0


def test_an_answer_in_balanced_tags_is_worth_its_f1():
    text = "<think>hm</think><tool_call>x</tool_call><answer> Paris, France </answer>"
    assert answer_reward(text, ["Paris"]) == pytest.approx(2 / 3)
    assert answer_reward("<answer>Rome</answer> no: <answer>Paris</answer>", ["Paris"]) == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "Paris",
        "<answer>Paris",
        "Paris</answer>",
        "</answer>Paris<answer>",
        "<think>hm<answer>Paris</answer>",
        "<tool_call><answer>Paris</answer>",
        "</code><answer>Paris</answer>",
        "",
    ],
)
def test_an_answer_without_balanced_tags_is_worth_the_penalty(text: str):
    assert answer_reward(text, ["Paris"]) == -2.0
    assert answer_reward(text, ["Paris"], format_penalty=0.0) == 0.0


def test_the_curriculum_goes_from_gain_to_outcome():
    assert [curriculum(p) for p in (-1.0, 0.0, 0.5, 1.0, 2.0)] == [(0.5, 1), (0.5, 1), (0.75, 0.75), (1, 0.5), (1, 0.5)]
