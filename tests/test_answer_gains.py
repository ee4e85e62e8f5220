"""MIG, TIPS, TRACE, R3 and Nous: what a turn earns where the true answer becomes likelier, or the belief sharper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from milepost.credit import advantage
from milepost.credit.answers import AnswerCredit
from milepost.credit.combine.nous import Nous, entropy_bits
from milepost.credit.combine.r3 import R3, length_term, r3, token_std, token_weights
from milepost.credit.core import assign
from milepost.credit.igpo import IGPO
from milepost.credit.made import episode
from milepost.credit.methods import TABLE, find, resolve
from milepost.credit.peers.mig import MIG, rises, watermark
from milepost.credit.peers.tips import TIPS, rescale
from milepost.credit.peers.trace import TRACE, local, outcome_advantages, terminal, trace_sum, values
from milepost.envs.core import ContractError, Episode, FloatArray, Message, Stop

INF, NAN = float("inf"), float("nan")
METHODS: list[type[AnswerCredit]] = [IGPO, MIG, TIPS, TRACE, R3]


class Reader:
    """A scorer that believes what the newest observation says: ``a=-1 -2;b=-3`` is of each text its tokens' numbers."""

    def __init__(self) -> None:
        self.targets: list[str] = []

    def logprobs(
        self,
        views: Sequence[Sequence[Message]],
        targets: Sequence[str],
        *,
        prefix: str = "",
        suffix: str = "",
        tools: Sequence[dict[str, Any]] = (),
    ) -> list[FloatArray]:
        self.targets += targets
        found = []
        for view, target in zip(views, targets, strict=True):
            told = dict(part.split("=") for part in view[-1]["content"].split(";"))
            found.append(np.array([float(x) for x in told[target].split()], np.float32))
        return found


def attempt(outcome: float | None, *beliefs: Any, after: Any = None, **at_reset: Any) -> Episode:
    """An attempt with a turn a belief; ``after`` is the belief in the state after the last."""
    e = episode(outcome, n_turns=len(beliefs), at_reset={"answer": "a", **at_reset})
    for turn, belief in zip(e.turns, beliefs, strict=True):
        turn.observation = belief if isinstance(belief, str) and "=" in belief else f"a={belief}"
    e.last = None if after is None else f"a={after}"
    return e


def row(method: AnswerCredit, *beliefs: Any, **kwargs: Any) -> Any:
    return method.on_group([attempt(1.0, *beliefs, **kwargs)])[0]


# ---- all of them


@pytest.mark.parametrize("cls", METHODS)
def test_an_empty_group_an_episode_without_turns_and_one_of_one_turn_are_no_mistake(cls: type[AnswerCredit]):
    method = cls(scorer=Reader(), last=False) if cls is not IGPO else cls(scorer=Reader())
    assert method.on_group([]) == []
    assert method.on_group([Episode(id="e", info={"answer": "a"})]) == [[]]
    assert row(method, -1.0) == [None]


@pytest.mark.parametrize("cls", METHODS)
def test_it_says_what_is_missing_and_who_gives_it(cls: type[AnswerCredit]):
    with pytest.raises(ValueError, match=rf"^{cls.name} needs a scorer: the recipe gives it"):
        resolve(cls.name)
    with pytest.raises(ContractError, match=rf"^{cls.name} needs info\['answer'\] from reset; my/Env-v0 gave none$"):
        cls(scorer=Reader()).on_group([episode(1.0, n_turns=3)])


@pytest.mark.parametrize("cls", METHODS)
def test_if_not_strict_what_cannot_be_scored_is_counted_and_the_others_are_judged(cls: type[AnswerCredit]):
    method = cls(scorer=Reader(), strict=False)
    group = [
        attempt(1.0, -3.0, -2.0, after=-1.0),
        episode(0.0, n_turns=2),
        attempt(0.0, NAN, NAN, after=NAN),
        attempt(0.0, -3.0, -2.5, after=-2.5),
    ]
    got: Any = method.on_group(group)
    assert got[0][0] > 0
    assert got[1] == [None, None]
    assert all(v is None or math.isfinite(v) for r in got for v in r)
    metrics = method.fit([])
    assert metrics[f"credit/{cls.name}/answers_missing"] == 1.0
    assert metrics[f"credit/{cls.name}/gains_not_finite"] == (2.0 if cls is TRACE else 1.0)
    assert sum(method.fit([]).values()) == 0.0
    with pytest.raises(ContractError, match=rf"^{cls.name}: episode 'e', turn 0: expected a finite gain"):
        cls(scorer=Reader()).on_group([group[0], group[2], group[3]])


@pytest.mark.parametrize("cls", [MIG, TIPS, R3])
def test_the_last_turn_is_judged_only_if_the_state_after_it_counts(cls: type[AnswerCredit]):
    group = [attempt(1.0, -3.0, -2.0, after=-1.0), attempt(0.0, -3.0, -2.5, after=-2.5)]
    assert all(r[-1] is None for r in cls(scorer=Reader()).on_group(group))
    assert all(r[-1] is not None for r in cls(scorer=Reader(), last=True).on_group(group))


@pytest.mark.parametrize("name", ["igpo", "mig", "tips", "trace", "r3", "nous"])
def test_a_card_tells_the_truth(name: str):
    cls = find(name)
    assert cls.name == name
    assert cls.pair in TABLE


def test_trace_sum_has_a_card():
    import milepost.credit.peers.trace  # noqa: F401
    from milepost.credit.cards import card_of

    assert card_of(trace_sum).id == "trace_sum"
    assert card_of(trace_sum).kind == "estimator"


# ---- MIG


def test_mig_pays_only_what_lies_above_the_highest_so_far():
    # the watermark: -3, -2, -2, -2, -1; the dip to -2.6 and the way back earn nothing
    assert row(MIG(scorer=Reader()), -3.0, -2.0, -2.5, -2.0, -1.0) == [1.0, 0.0, 0.0, 1.0, None]


def test_mig_cannot_be_farmed_by_going_back_and_forth():
    earned = row(MIG(scorer=Reader()), *[-3.0, -1.0] * 5)
    assert sum(earned[:-1]) == pytest.approx(2.0)


def test_mig_pays_the_mean_over_tokens():
    assert row(MIG(scorer=Reader()), "-4 -2", "-1 -1") == [2.0, None]


def test_the_watermark_stays_where_a_state_was_not_scored():
    assert watermark([-3.0, NAN, -2.0]).tolist() == [-3.0, -3.0, -2.0]
    assert rises([-3.0, NAN, -2.0])[1] == 1.0
    assert rises([]).tolist() == []


# ---- TIPS


def test_tips_adds_the_likelihoods_of_all_texts_of_the_answer():
    # Phi: log(1/8 + 1/8) = log 1/4, then log(1/4 + 1/4) = log 1/2: a rise of log 2
    eighth, quarter = math.log(1 / 8), math.log(1 / 4)
    states = [f"a={x};b={x}" for x in (eighth, quarter)]
    assert row(TIPS(scorer=Reader()), *states, aliases=["b"]) == pytest.approx([0.02 * math.log(2), None])
    # b alone becomes likelier: log(3/8) - log(2/8)
    assert row(TIPS(scorer=Reader(), scale=1.0), states[0], f"a={eighth};b={quarter}", aliases=["b"])[0] == (
        pytest.approx(math.log(3 / 2), abs=1e-6)
    )


def test_tips_counts_a_text_that_comes_twice_once():
    reader = Reader()
    row(TIPS(scorer=reader), "a=-1;b=-2", "a=-1;b=-2", aliases=["a", "b", "b"])
    assert reader.targets == ["a", "b"] * 2


def test_monotone_tips_does_not_charge_a_fall_nor_pay_the_way_back():
    states = [-2.0, -1.0, -3.0, -1.0]
    assert row(TIPS(scorer=Reader(), scale=1.0), *states) == [1.0, -2.0, 2.0, None]
    assert row(TIPS(scorer=Reader(), scale=1.0, monotone=True), *states) == [1.0, 0.0, 0.0, None]


def test_rescale_brings_the_batch_to_a_mean_size_and_leaves_the_outcome():
    group = [attempt(1.0, -3.0, -1.0), attempt(0.0, -3.0, -4.0)]
    assign([TIPS(scorer=Reader())], [group])
    # |0.04| and |-0.02|: a mean of 0.03
    weight = rescale([group])
    assert weight == pytest.approx(0.11 / 0.03)
    rewards: Any = advantage.rewards([group], {"tips": weight})
    assert np.mean(np.abs([rewards[0][0][0], rewards[0][1][0]])) == pytest.approx(0.11)
    assert rewards[0][0][1] == 1.0
    assert rescale([group], band=(0.02, 0.2)) == 1.0
    assert rescale([group], band=(0.04, 0.2)) == pytest.approx(0.11 / 0.03)


def test_rescale_of_nothing_is_one():
    still = [attempt(1.0, -3.0, -3.0)]
    assign([TIPS(scorer=Reader())], [still])
    assert rescale([still]) == 1.0
    assert rescale([]) == 1.0


# ---- TRACE


def test_a_turn_of_trace_earns_the_discounted_mean_of_its_window():
    # K 2, gamma 0.5: divisor 1.5; (1 + 0.5 * 2) / 1.5, (2 + 0.5 * -1) / 1.5, -1 / 1.5
    assert local([1.0, 2.0, -1.0], 2, 0.5) == pytest.approx([2 / 1.5, 1.5 / 1.5, -1 / 1.5])
    assert local([1.0, 2.0], 1, 0.5).tolist() == [1.0, 2.0]
    assert local([1.0], 3, 0.5) == pytest.approx([1 / 1.75])


def test_the_value_of_trace_is_how_much_the_gap_shrank():
    # gaps 2, 1, 4
    assert values([-1.9, -0.9, -3.9]) == pytest.approx([0.0, math.log(2), -math.log(2)])


def test_the_outcome_counts_only_where_the_window_reaches_the_end():
    assert terminal(5, 3, 0.5).tolist() == [0.0, 0.0, 0.125, 0.25, 0.5]
    assert terminal(1, 3, 0.5).tolist() == [0.5]


def test_trace_puts_the_outcomes_share_on_the_last_turns_and_the_sum_on_all():
    # the answer never becomes likelier: only outcomes are left; +1 and -1 in their group, K 1, gamma 0.5
    group = [attempt(o, -1.0, -1.0, after=-1.0) for o in (1.0, 0.0)]
    method = TRACE(scorer=Reader(), window=1, gamma=0.5)
    assign([method], [group])
    rewards = advantage.rewards([group], [method])
    assert rewards[0][0] == pytest.approx([0.0, 1.0], abs=1e-5)
    up, down = trace_sum([group], rewards)[0]
    assert up == pytest.approx([1.0, 1.2], abs=1e-5)
    assert down == pytest.approx([-1.0, -1.2], abs=1e-5)


def test_the_turns_part_of_trace_is_not_normalised():
    def gap(scale: float) -> float:
        group = [attempt(1.0, -1.9, -1.9 + scale, after=-1.9), attempt(1.0, -1.9, -1.9, after=-1.9)]
        method = TRACE(scorer=Reader(), window=1)
        assign([method], [group])
        up, down = trace_sum([group], advantage.rewards([group], [method]))[0]
        return up[0] - down[0]

    # 0.2 * log(2 / (2 - scale)): a small gain stays small
    assert gap(1.0) == pytest.approx(0.2 * math.log(2), abs=1e-6)
    assert gap(0.01) == pytest.approx(0.2 * math.log(2 / 1.99), abs=1e-6)


def test_trace_sum_without_judged_turns_is_the_outcome_alone():
    group = [episode(1.0, n_turns=2), episode(0.0)]
    assert trace_sum([group], [[[None, None], [None]]])[0] == [
        pytest.approx([1.0, 1.0], abs=1e-5),
        pytest.approx([-1.0], abs=1e-5),
    ]
    assert trace_sum([], []) == []


def test_outcomes_that_are_equal_alone_or_unscored_have_no_advantage():
    assert outcome_advantages([episode(1.0)]) == [0.0]
    assert outcome_advantages([episode(1.0), episode(1.0)]) == [0.0, 0.0]
    group = [episode(1.0), episode(None), episode(0.0, stop=Stop.FAILED), episode(0.0), episode(NAN)]
    assert outcome_advantages(group) == pytest.approx([1.0, 0.0, 0.0, -1.0, 0.0], abs=1e-5)
    assert outcome_advantages([]) == []


@pytest.mark.parametrize("bad", [{"window": 0}, {"gap_offset": 0.0}])
def test_trace_refuses_a_window_or_an_offset_of_zero(bad: dict[str, Any]):
    with pytest.raises(ValueError, match="trace: expected window >= 1 and gap_offset > 0"):
        TRACE(scorer=Reader(), **bad)


# ---- R3


def test_r3_counts_only_tokens_that_the_reasoning_decides():
    # the first token rises alike for all: deviation 0; the second ends at -1 and -3: all the weight
    group = [attempt(1.0, "-5 -4", "-1 -1"), attempt(0.0, "-5 -4", "-1 -3")]
    assert R3(scorer=Reader()).on_group(group) == [[3.0, None], [1.0, None]]


def test_the_turns_of_r3_sum_to_the_published_number():
    ends = [[-0.2, -2.0, -0.3], [-0.4, -0.5, -0.3], [-0.2, -3.0, -0.9]]
    start, middle = [-0.3, -2.5, -0.3], [-0.7, -1.0, -4.0]
    text = [" ".join(map(str, x)) for x in (start, middle, *ends)]
    group = [attempt(1.0, text[0], text[1], end) for end in text[2:]]
    got: Any = R3(scorer=Reader()).on_group(group)
    assert [sum(r[:-1]) for r in got] == pytest.approx(r3(ends, start).tolist(), abs=1e-5)


def test_weights_of_r3_sum_to_one_or_are_zero_where_nothing_differs():
    # deviations of -1, -3 and of -1, -2: 1 and 0.5
    assert token_weights(token_std([[-1.0, -1.0], [-3.0, -2.0]])) == pytest.approx([2 / 3, 1 / 3])
    assert token_weights(token_std([[-1.0, -1.0]])).tolist() == [0.0, 0.0]
    assert r3([[-1.0, -1.0]], [-2.0, -2.0]).tolist() == [0.0]
    assert r3([[-1.0, -1.0]], [-2.0, -4.0], [0.5, 0.5]).tolist() == [2.0]
    assert token_std([[NAN, -1.0], [-1.0, -1.0], [-3.0, -1.0]]).tolist() == [1.0, 0.0]


def test_attempts_that_cannot_be_told_apart_earn_nothing_by_r3():
    assert R3(scorer=Reader()).on_group([attempt(1.0, -2.0, -1.0)]) == [[0.0, None]]
    assert R3(scorer=Reader()).on_group([attempt(1.0, -2.0, -1.0), attempt(0.0, -2.0, -1.0)]) == [[0.0, None]] * 2


def test_r3_refuses_answers_of_different_lengths_in_one_group():
    with pytest.raises(ContractError, match=r"r3: group 'g': expected one answer of as many tokens.*got 1, 2 tokens"):
        R3(scorer=Reader()).on_group([attempt(1.0, "-1", "-1"), attempt(0.0, "-1 -1", "-1 -1")])


def test_the_length_term_takes_beta_for_an_answer_that_is_missing_altogether():
    assert [length_term(n, 4, 0.5) for n in (4, 2, 6, 0)] == [1.0, 0.75, 0.75, 0.5]
    with pytest.raises(ValueError, match="expected a reference of at least one token"):
        length_term(1, 0, 0.5)


# ---- Nous


def nous(*beliefs: Any) -> Any:
    return Nous(lambda e, t: beliefs[t]).on_group([episode(1.0, n_turns=len(beliefs) - 1)])[0]


def test_a_turn_of_nous_earns_the_bits_that_it_removed():
    # 2 + 1 bits, then 1 + 1, then 0 + 1: the second turn was sure of one slot
    four, two = [0.25] * 4, [0.5, 0.5]
    assert nous({"x": four, "y": two}, {"x": two, "y": two}, {"x": [1.0], "y": two}) == [1.0, 1.0]


def test_a_turn_that_confuses_is_charged_and_the_row_telescopes():
    row = nous({"x": [0.9, 0.1]}, {"x": [0.5, 0.5]}, {"x": [0.0, 1.0]})
    assert row[0] < 0 < row[1]
    assert sum(row) == pytest.approx(entropy_bits({"x": [0.9, 0.1]}))


def test_a_turn_beside_an_unknown_belief_was_not_judged_and_one_that_changes_nothing_earns_zero():
    assert nous({"x": [0.5, 0.5]}, None, {"x": [0.5, 0.5]}, {"x": [0.5, 0.5]}) == [None, None, 0.0]
    assert Nous(lambda e, t: None).on_group([]) == []
    assert Nous(lambda e, t: None).on_group([Episode(id="e")]) == [[]]


@pytest.mark.parametrize("bad", [[0.5, 0.4], [1.5, -0.5], [NAN, 1.0], [INF, 0.0], []])
def test_a_belief_that_is_no_distribution_is_refused(bad: list[float]):
    with pytest.raises(ContractError, match="nous: episode 'e', the belief before turn 1: slot 'x': expected"):
        nous({"x": [1.0]}, {"x": bad})


def test_nous_says_which_key_the_environment_did_not_give():
    method = Nous(lambda e, t: e.info_before(t)["belief"])
    with pytest.raises(ContractError, match="nous: the belief needs 'belief' from the step of turn 0; my/Env-v0 gave"):
        method.on_group([episode(1.0, at_reset={"belief": {"x": [1.0]}})])


def test_nous_needs_a_belief():
    with pytest.raises(ValueError, match="missing a required argument: 'belief'"):
        resolve("nous")
