"""Call any estimator of the table with what it wants: rewards alone, the episodes with them, or a label."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from milepost.credit import advantage
from milepost.credit.audit.standins import share
from milepost.credit.cards import card_of
from milepost.credit.methods import TABLE, look_up
from milepost.envs.core import Episode, Value

LABEL, VALUES = "audit", "audit_values"
"""Under which labels what turns earned, and what was expected of a state, are written for estimators that read them."""


def estimators() -> dict[str, Callable[..., Any]]:
    """Return the estimators of the table by id."""
    found = {name: look_up(name) for name in TABLE}
    return {name: function for name, function in found.items() if card_of(function).kind == "estimator"}


def estimate(
    estimator: Callable[..., Any],
    groups: Sequence[Sequence[Episode]],
    earned: Sequence[Sequence[Sequence[Any]]],
    outcome: float = 1.0,
    expect: float = 0.5,
    **options: Any,
) -> Any:
    """Return ``[N][G][T]`` advantages of what turns earned, without the outcome, and ``outcome`` times the outcome.

    What it takes by name is what a recipe gives it: ``rewards``, ``groups``, ``label``, ``labels``, ``values``. One
    that takes no rewards adds the outcome itself: where the earned includes it already (``outcome`` 0), the episodes
    that it sees have an outcome of 0. ``expect``: how much a critic expects of a state at most, 0 for one that says
    nothing; what it expects is decided by task and observation. Where the estimator's level is the token, what a turn
    earned is spread over its tokens.
    """
    takes = inspect.signature(estimator).parameters
    per_token = level_of(estimator) == "token"
    batch = [
        [_seen(e, row, per_token, expect) for e, row in zip(g, rows, strict=True)]
        for g, rows in zip(groups, earned, strict=True)
    ]
    given: dict[str, Any] = {"groups": batch, "label": LABEL, "labels": [LABEL], "values": VALUES}
    if "rewards" in takes:
        given["rewards"] = advantage.rewards(batch, LABEL, outcome)
    elif not outcome:
        for episode in (e for group in batch for e in group):
            episode.turns[-1].info = episode.turns[-1].info | {"outcome": 0.0}
    if not {"rewards", "groups"} & set(takes):
        raise ValueError(f"{estimator!r}: expected it to take rewards or groups, it takes {', '.join(takes)}")
    return estimator(**{name: value for name, value in given.items() if name in takes} | options)


def level_of(estimator: Callable[..., Any]) -> str:
    """Return an estimator's level, with some of its options given or without."""
    inner = estimator.func if isinstance(estimator, partial) else estimator
    try:
        return card_of(inner).level
    except ValueError:
        return "turn"


def _seen(episode: Episode, row: Sequence[Value], per_token: bool, expect: float) -> Episode:
    """Return an episode with what its turns earned and what a critic expected of each state."""
    turns = []
    for turn, earned in zip(episode.turns, row, strict=True):
        value: Value = expect * share(episode.task, turn.observation)
        n = len(turn.action.tokens.ids) if turn.action.tokens else 0
        if per_token and n:
            value = np.full(n, value, np.float32)
            earned = None if earned is None else np.full(n, float(np.sum(earned)) / n)
        turns.append(replace(turn, credit={**turn.credit, LABEL: earned, VALUES: value}))
    return replace(episode, turns=turns)


def numbers(advantages: Any) -> list[list[list[float]]]:
    """Return advantages with one number a turn: the mean of those of its tokens, 0 for what is not trained."""
    return [
        [[0.0 if v is None else float(np.mean(v)) if np.size(v) else 0.0 for v in row] for row in group]
        for group in advantages
    ]
