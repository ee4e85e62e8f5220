"""Which estimators are unbiased, by measuring: two games whose groups can all be enumerated, and their exact gradients.

The gradient is that of the expected sum of what is earned, with respect to the logits of the policy; an estimate is
``mean_i sum_t A_it * grad log pi(a_it | s_it)``. A group is a batch of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import combinations_with_replacement, groupby
from typing import Any, NamedTuple

import numpy as np

from milepost.credit import normalise
from milepost.credit.audit.estimate import estimate, estimators, numbers
from milepost.credit.audit.groups import attempt
from milepost.credit.normalise import Floats
from milepost.envs.core import Episode

Rows = list[list[Any]]
Earned = Callable[[list[Episode]], Rows]
"""A group's ``[G][T]`` of what turns earned, without the outcome."""
EXACTLY = 1e-9


class Play(NamedTuple):
    """One way in which an episode can go."""

    chance: float
    scores: Floats
    """``[T, D]`` the gradient of each action's log-probability."""
    states: tuple[int, ...]
    """``[T + 1]`` for ``audit.groups.attempt``."""
    earned: tuple[float, ...]
    """``[T]`` by turn."""
    outcome: float


class Game:
    """A game small enough to enumerate every group of attempts at it."""

    n = 4
    """Attempts of a group."""

    def __init__(self) -> None:
        self._groups: list[tuple[float, list[Play], list[Episode]]] = []

    def plays(self) -> list[Play]:
        """Return every way in which an episode can go; the chances sum to 1."""
        raise NotImplementedError

    def groups(self) -> list[tuple[float, list[Play], list[Episode]]]:
        """Return every group up to order, with its chance."""
        if not self._groups:
            self._groups = list(self._enumerated())
        return self._groups

    def _enumerated(self) -> Iterator[tuple[float, list[Play], list[Episode]]]:
        plays = self.plays()
        for chosen in combinations_with_replacement(range(len(plays)), self.n):
            counts = [len(list(same)) for _, same in groupby(chosen)]
            ways = math.factorial(self.n) / math.prod(map(math.factorial, counts))
            found = [plays[i] for i in chosen]
            episodes = [attempt(g, p.outcome, p.states, task="game", scored=p.earned) for g, p in enumerate(found)]
            yield ways * math.prod(p.chance for p in found), found, episodes


class StoppingGame(Game):
    """At most 3 turns; each goes on (earns 0.5) or stops (earns 0), P(go on) = sigmoid(0.3) at every turn.

    ``outcome``: whether the same is the outcome too. Source: docs/credit.md; verl issue 7244 for the effect.
    """

    logit = 0.3

    def __init__(self, outcome: bool = False) -> None:
        super().__init__()
        self.outcome = outcome

    def plays(self) -> list[Play]:
        """Return s, cs, ccs, ccc."""
        p = 1 / (1 + math.exp(-self.logit))
        found = []
        for n_on, stops in ((0, True), (1, True), (2, True), (3, False)):
            scores = np.array([[1 - p]] * n_on + [[-p]] * stops)
            states = (0, 1, 2, 3)[: n_on + 1] + ((0, 1, 2, 3)[n_on],) * stops
            earned = (0.5,) * n_on + (0.0,) * stops
            chance = p**n_on * ((1 - p) if stops else 1)
            found.append(Play(chance, scores, states, earned, sum(earned) if self.outcome else 0.0))
        return found


class DetourGame(Game):
    """Two places and two moves, at most 3 turns: from A left leads to B (earns 0.2), right stays; from B left wins and
    ends the episode (outcome 1, else 0), right leads back to A (earns -0.1). P(left) = sigmoid(0.4) in A, sigmoid(-0.2)
    in B: two logits.
    """

    logits = (0.4, -0.2)

    def plays(self) -> list[Play]:
        """Return the seven plays."""
        return list(self._from(0, 1.0, (), (0,), ()))

    def _from(
        self, at: int, chance: float, scores: tuple[Any, ...], states: tuple[int, ...], earned: tuple[float, ...]
    ) -> Iterator[Play]:
        won = states[-1] == 4
        if won or len(earned) == 3:
            yield Play(chance, np.array(scores), states, earned, float(won))
            return
        p = 1 / (1 + math.exp(-self.logits[at]))
        for left in (True, False):
            slope = [0.0, 0.0]
            slope[at] = (1 - p) if left else -p
            to = (1 if at == 0 else 4) if left else 0
            pays = (0.2 if at == 0 else 0.0) if left else (0.0 if at == 0 else -0.1)
            follow = (chance * (p if left else 1 - p), (*scores, slope), (*states, to), (*earned, pays))
            yield from self._from(1 if to == 1 else 0, *follow)


def own(group: list[Episode]) -> Rows:
    """Return what the game itself pays by turn."""
    return [[turn.info["reward_components"]["step"] for turn in episode.turns] for episode in group]


def exact(game: Game, earned: Earned = own, outcome: float = 1.0) -> Floats:
    """[D] the gradient of the expected sum of what is earned and ``outcome`` times the outcome."""
    found = 0.0
    for chance, plays, episodes in game.groups():
        totals = [sum(v or 0.0 for v in row) for row in earned(episodes)]
        found += chance * _mean(
            [p.scores.sum(0) * (total + outcome * p.outcome) for p, total in zip(plays, totals, strict=True)]
        )
    return np.asarray(found)


def expected(
    game: Game, estimator: Callable[..., Any], earned: Earned = own, outcome: float = 1.0, **options: Any
) -> Floats:
    """[D] what an estimator says on average, over all groups."""
    found = 0.0
    for chance, plays, episodes in game.groups():
        (rows,) = numbers(estimate(estimator, [episodes], [earned(episodes)], outcome, **options))
        found += chance * _mean([np.array(row) @ p.scores for p, row in zip(plays, rows, strict=True)])
    return np.asarray(found)


class Measured(NamedTuple):
    """What the two games say of an estimator."""

    name: str
    options: dict[str, Any]
    stopping: Floats
    detour: Floats
    verdict: str
    """``unbiased``, ``unbiased up to a factor of 0.75`` (the same in both games), or ``biased``."""


def measure(estimator: Callable[..., Any], name: str = "", **options: Any) -> Measured:
    """Measure an estimator in both games."""
    true = truth()
    found = [expected(game, estimator, **options) for game in games()]
    a, b = np.concatenate(true), np.concatenate(found)
    factor = float(b @ a / (a @ a))
    if np.abs(a - b).max() < EXACTLY:
        verdict = "unbiased"
    elif np.abs(factor * a - b).max() < EXACTLY and factor > EXACTLY:
        verdict = f"unbiased up to a factor of {factor:.4g}"
    else:
        verdict = "biased"
    return Measured(name, options, found[0], found[1], verdict)


@cache
def truth() -> tuple[Floats, Floats]:
    """Return the exact gradients of both games."""
    stopping, detour = games()
    return exact(stopping), exact(detour)


@cache
def games() -> tuple[StoppingGame, DetourGame]:
    """Return both games, once, so that their groups are made once."""
    return StoppingGame(), DetourGame()


Options = dict[str, dict[str, Any]]
VARIANTS: dict[str, Options] = {
    "turn": {
        'singleton="raw"': {"singleton": "raw"},
        "": {},
        "leave_one_out=False": {"leave_one_out": False},
        'leave_one_out=False, order="normalise_then_accumulate"': {
            "leave_one_out": False,
            "order": "normalise_then_accumulate",
        },
        'scale="group"': {"scale": "group"},
    },
    "grpo": {"": {}, 'scale="none"': {"scale": "none"}},
    "pooled": {
        "": {},
        'pools="joint"': {"pools": "joint"},
        "normaliser=center": {"normaliser": normalise.center},
        'order="accumulate_then_normalise"': {"order": "accumulate_then_normalise"},
        'order="accumulate_then_normalise", normaliser=partial(rloo, singleton="raw")': {
            "order": "accumulate_then_normalise",
            "normaliser": partial(normalise.rloo, singleton="raw"),
        },
    },
}
"""Estimators that are measured with other options than their defaults, as these are written."""


UNFIT = {"as_is": "passes on what its own method says of every turn"}
"""Estimators that there is nothing to measure of, and why."""


def survey() -> list[Measured]:
    """Measure every other estimator of the table; one that cannot work on these games says so in its verdict."""
    found = []
    for name, estimator in estimators().items():
        if name in UNFIT:
            continue
        for written, options in VARIANTS.get(name, {"": {}}).items():
            called = f"{name}({written})" if written else name
            try:
                found.append(measure(estimator, called, **options))
            except (ValueError, TypeError, KeyError) as error:
                nothing = np.array([math.nan])
                found.append(Measured(called, options, nothing, nothing, f"not measured: {error}"))
    return found


def _mean(vectors: list[Floats]) -> Any:
    return np.mean(vectors, axis=0)
