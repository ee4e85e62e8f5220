"""Rows by hand; forks; what is never trained."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.agents.samples import kl_credit, n_forks, to_samples
from milepost.envs.core import Action, ContractError, Episode, Stop, Tokens, Turn, Value


def tokens(keep: int, context: list[int], ids: list[int], version: int = 0) -> Tokens:
    logprobs = np.array([-0.1 * i for i in ids], np.float32)
    return Tokens(keep, np.array(context, np.int32), np.array(ids, np.int32), logprobs, version=version)


def turn(kept: Tokens | None, advantage: Value = None, agent: str = "agent") -> Turn:
    return Turn("seen", Action("did", tokens=kept), advantage=advantage, agent=agent)


def episode(*turns: Turn, stop: Stop = Stop.TERMINATED) -> Episode:
    return Episode(id="e", group="g", turns=list(turns), stop=stop)


def test_two_turns_are_one_row_by_hand():
    (row,) = to_samples(episode(turn(tokens(0, [5, 6], [1], 3), 0.5), turn(tokens(3, [7], [2, 3], 4))))
    assert row.ids.tolist() == [5, 6, 1, 7, 2, 3]
    assert row.sampled.tolist() == [False, False, True, False, True, True]
    assert row.logprobs == pytest.approx([0, 0, -0.1, 0, -0.2, -0.3])
    assert row.turn.tolist() == [-1, -1, 0, -1, 1, 1]
    assert row.advantages[:4].tolist() == [0, 0, 0.5, 0]
    assert np.isnan(row.advantages[4:]).all()
    assert row.judged.tolist() == [False, False, True, False, False, False]
    assert row.versions == [3, 4]
    assert (row.episode, row.group, len(row)) == ("e", "g", 6)


def test_a_fork_starts_another_row_and_trains_no_token_twice():
    first, second = to_samples(
        episode(turn(tokens(0, [5], [1, 2]), 1.0), turn(tokens(2, [9], [3]), 1.0), turn(tokens(4, [8], [4]), 1.0))
    )
    assert first.ids.tolist() == [5, 1, 2]
    assert second.ids.tolist() == [5, 1, 9, 3, 8, 4]
    assert second.sampled.tolist() == [False, False, False, True, False, True]
    assert n_forks([first, second]) == 1


def test_a_token_advantage_lands_on_its_own_tokens():
    each = np.array([0.25, -2.0], np.float32)
    (row,) = to_samples(episode(turn(tokens(0, [5], [1, 2]), each)))
    assert row.advantages.tolist() == [0, 0.25, -2.0]


def test_an_advantage_of_zero_is_judged_and_none_is_not():
    (row,) = to_samples(episode(turn(tokens(0, [5], [1]), 0.0), turn(tokens(2, [6], [2]), None)))
    assert row.judged.tolist() == [False, True, False, False]


def test_two_agents_are_two_rows():
    a, b = to_samples(
        episode(
            turn(tokens(0, [5], [1]), 1.0, "a"),
            turn(tokens(0, [6], [2]), -1.0, "b"),
            turn(tokens(2, [7], [3]), 1.0, "a"),
        )
    )
    assert (a.agent, a.ids.tolist(), a.turn.tolist()) == ("a", [5, 1, 7, 3], [-1, 0, -1, 2])
    assert (b.agent, b.ids.tolist(), b.advantages.tolist()) == ("b", [6, 2], [0, -1])
    assert n_forks([a, b]) == 0


@pytest.mark.parametrize("stop", [Stop.FAILED, Stop.CANCELLED])
def test_what_failed_or_was_cancelled_is_never_trained_on(stop: Stop):
    assert to_samples(episode(turn(tokens(0, [5], [1]), 1.0), stop=stop)) == []


def test_images_of_a_row_come_in_order():
    pictures = [np.full((1, 1, 3), i, np.uint8) for i in range(2)]
    turns = [turn(tokens(0, [5], [1]), 1.0), turn(tokens(2, [6], [2]), 1.0)]
    for played, picture in zip(turns, pictures, strict=True):
        played.observation = {"text": "look", "images": [picture]}
    (row,) = to_samples(episode(*turns))
    assert [int(image[0, 0, 0]) for image in row.images] == [0, 1]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (turn(None, 1.0), "episode e, turn 0 has no tokens"),
        (turn(tokens(3, [5], [1]), 1.0), "turn 0 keeps 3 tokens of a row of 0"),
        (turn(tokens(0, [5], [1]), float("nan")), "turn 0: the advantage is not finite"),
        (turn(tokens(0, [5], [1]), np.zeros(2, np.float32)), "an advantage for each of 1 sampled tokens, got"),
    ],
)
def test_a_broken_turn_is_named(bad: Turn, message: str):
    with pytest.raises(ContractError, match=message):
        to_samples(episode(bad))


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=8))
def test_every_sampled_token_is_trained_exactly_once(plan: list[tuple[bool, int, int]]):
    turns, length, name = [], 0, 0
    for fork, n_context, n_ids in plan:
        keep = length // 2 if fork else length
        ids = list(range(name, name := name + n_ids))
        turns.append(turn(tokens(keep, [999] * n_context, ids), 1.0))
        length = keep + n_context + n_ids
    rows = to_samples(episode(*turns))
    assert sorted(int(i) for row in rows for i in row.ids[row.sampled]) == list(range(name))


def test_kl_credit_is_the_reference_minus_the_sampler_by_hand():
    played = episode(turn(tokens(0, [5], [1, 2])), turn(tokens(3, [6], [3])))
    kl_credit([played], lambda samples: [np.full(len(s), -0.5, np.float32) for s in samples])
    assert played.turns[0].credit["kl"] == pytest.approx([-0.4, -0.3])
    assert played.turns[1].credit["kl"] == pytest.approx([-0.2])
