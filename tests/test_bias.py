"""Which estimators are unbiased: exact gradients of two games, and every estimator's average over all groups."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest

from milepost.credit import advantage
from milepost.credit.audit.bias import (
    UNFIT,
    DetourGame,
    Game,
    StoppingGame,
    exact,
    expected,
    games,
    measure,
    own,
    survey,
)
from milepost.credit.audit.estimate import estimate, estimators, numbers

INDEXWISE = {"leave_one_out": False, "order": "normalise_then_accumulate"}


def expected_return(game: Game) -> float:
    return sum(play.chance * (sum(play.earned) + play.outcome) for play in game.plays())


@pytest.mark.parametrize("game", games(), ids=["stopping", "detour"])
def test_the_chances_of_all_plays_and_of_all_groups_sum_to_1(game: Game):
    assert sum(play.chance for play in game.plays()) == pytest.approx(1.0)
    assert sum(chance for chance, _, _ in game.groups()) == pytest.approx(1.0)


def test_the_exact_gradient_of_the_stopping_game_is_that_of_the_specification():
    p = 1 / (1 + math.exp(-0.3))
    # J = 0.5 (p + p^2 + p^3), dJ/dlogit = p (1 - p) dJ/dp
    assert exact(StoppingGame()) == pytest.approx([0.5 * p * (1 - p) * (1 + 2 * p + 3 * p**2)], abs=1e-12)
    assert exact(StoppingGame()) == pytest.approx([0.3837], abs=5e-5)


def test_the_exact_gradients_are_the_slopes_of_the_expected_return():
    h, slopes = 1e-5, []
    for i in range(2):
        ends = []
        for step in (h, -h):
            game = DetourGame()
            game.logits = tuple(x + step * (i == j) for j, x in enumerate(game.logits))  # type: ignore[assignment]
            ends.append(expected_return(game))
        slopes.append((ends[0] - ends[1]) / (2 * h))
    assert exact(DetourGame()) == pytest.approx(slopes, abs=1e-8)


def test_the_detour_games_plays_are_those_of_its_rules():
    found = {play.states: (play.earned, play.outcome) for play in DetourGame().plays()}
    assert found == {
        (0, 1, 4): ((0.2, 0.0), 1.0),
        (0, 1, 0, 1): ((0.2, -0.1, 0.2), 0.0),
        (0, 1, 0, 0): ((0.2, -0.1, 0.0), 0.0),
        (0, 0, 1, 4): ((0.0, 0.2, 0.0), 1.0),
        (0, 0, 1, 0): ((0.0, 0.2, -0.1), 0.0),
        (0, 0, 0, 1): ((0.0, 0.0, 0.2), 0.0),
        (0, 0, 0, 0): ((0.0, 0.0, 0.0), 0.0),
    }


@pytest.mark.parametrize(
    ("estimator", "mean"),
    [
        (partial(advantage.turn_rtg, singleton="raw"), 0.3837),
        (advantage.rloo, 0.3837),
        (advantage.turn_rtg, 0.363),
        (partial(advantage.turn_rtg, leave_one_out=False), 0.254),
        (partial(advantage.turn_rtg, **INDEXWISE), 0.148),  # type: ignore[arg-type]
        (partial(advantage.grpo, scale="none"), 0.75 * 0.38366),
    ],
    ids=["raw", "totals", "lone survivors zeroed", "own in the mean", "each turn centred first", "own in total"],
)
def test_the_stopping_game_gives_the_figures_of_the_specification(estimator, mean):
    assert expected(StoppingGame(), estimator) == pytest.approx([mean], abs=1e-3)


def test_one_pool_centred_first_gives_the_figure_of_the_specification():
    def pool(rewards):
        return advantage.returns(advantage.normalised(rewards, over="group"))

    assert expected(StoppingGame(), pool) == pytest.approx([0.186], abs=1e-3)


def test_with_a_cost_for_every_turn_the_pooled_order_points_the_wrong_way_and_leave_one_out_does_not():
    def dear(group):
        return [[v - 1.0 for v in row] for row in own(group)]

    def pool(rewards):
        return advantage.returns(advantage.normalised(rewards, over="group"))

    (true,) = exact(StoppingGame(), dear)
    raw = partial(advantage.turn_rtg, singleton="raw")
    assert expected(StoppingGame(), raw, dear) == pytest.approx([true], abs=1e-12)
    assert true < 0 < expected(StoppingGame(), pool, dear)[0]


def test_sampled_groups_find_the_unbiased_within_three_standard_errors_and_the_others_far_off():
    game, n = games()[0], 40_000
    (true,) = exact(game)
    chances = np.array([chance for chance, _, _ in game.groups()])
    sampled = np.random.default_rng(0).choice(len(chances), size=n, p=chances / chances.sum())
    options = {"raw": {"singleton": "raw"}, "zeroed": {}, "index": INDEXWISE}
    off = {}
    for name, kwargs in options.items():
        each = []
        for _, plays, episodes in game.groups():
            (rows,) = numbers(estimate(advantage.turn_rtg, [episodes], [own(episodes)], **kwargs))
            each.append(np.mean([np.array(row) @ play.scores[:, 0] for play, row in zip(plays, rows, strict=True)]))
        values = np.array(each)[sampled]
        off[name] = abs(values.mean() - true) / (values.std(ddof=1) / math.sqrt(n))
    assert off["raw"] < 3
    assert min(off["zeroed"], off["index"]) > 10


def test_a_bias_of_a_millionth_is_found():
    def nearly(rewards):
        return [
            [[1.000001 * a + 1e-6 * (i == 0) for i, a in enumerate(row)] for row in g] for g in advantage.rloo(rewards)
        ]

    assert measure(advantage.rloo).verdict == "unbiased"
    assert measure(nearly).verdict.startswith("unbiased up to"), "a constant at the first turn is a baseline"

    def off(rewards):
        return [[[a + 1e-6 * len(row) for a in row] for row in g] for g in advantage.rloo(rewards)]

    assert measure(off).verdict == "biased"


def test_every_estimator_of_the_table_is_measured():
    found = survey()
    assert {m.name.partition("(")[0] for m in found} == set(estimators()) - set(UNFIT)
    verdicts = {m.name: m.verdict for m in found}
    assert verdicts["rloo"] == verdicts['turn(singleton="raw")'] == "unbiased"
    assert verdicts["turn"] == verdicts["grpo"] == verdicts["pooled"] == "biased"
    assert verdicts['grpo(scale="none")'] == "unbiased up to a factor of 0.75"
