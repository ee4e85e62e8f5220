"""Call any estimator of the table with what it wants: rewards alone, the episodes with them, or a label."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from milepost.credit import advantage
from milepost.credit.audit.standins import share
from milepost.credit.cards import card_of
from milepost.credit.core import Credit
from milepost.credit.methods import look_up, written
from milepost.envs.core import Episode, Value

LABEL = "audit"
"""Under which label what turns earned is written for an estimator that reads it from the episodes."""


def estimators() -> dict[str, Callable[..., Any]]:
    """Return the estimators of the table by id."""
    found = {name: look_up(name) for name in written()}
    return {name: function for name, function in found.items() if card_of(function).kind == "estimator"}


def estimate(
    estimator: Callable[..., Any],
    groups: Sequence[Sequence[Episode]],
    earned: Sequence[Sequence[Sequence[Any]]],
    outcome: float = 1.0,
    **options: Any,
) -> Any:
    """Return ``[N][G][T]`` advantages of what turns earned, without the outcome, and ``outcome`` times the outcome.

    An estimator that takes a label adds the outcome itself: where the earned includes it already (``outcome`` 0), the
    episodes that it sees have an outcome of 0.
    """
    parameters = list(inspect.signature(estimator).parameters)
    batch = [[_seen(e, row) for e, row in zip(g, rows, strict=True)] for g, rows in zip(groups, earned, strict=True)]
    if parameters[0] == "rewards":
        return estimator(advantage.rewards(batch, LABEL, outcome), **options)
    if "rewards" in parameters:
        return estimator(batch, advantage.rewards(batch, LABEL, outcome), **options)
    if not outcome:
        for episode in (e for group in batch for e in group):
            episode.turns[-1].info = episode.turns[-1].info | {"outcome": 0.0}
    if parameters[1] in ("label", "credit"):
        return estimator(batch, LABEL, **options)
    if parameters[1] in ("labels", "credits"):
        return estimator(batch, [LABEL], **options)
    raise ValueError(f"{estimator!r}: expected rewards, or groups and rewards or a label, got {', '.join(parameters)}")


def _seen(episode: Episode, row: Sequence[Value]) -> Episode:
    """Return an episode with what its turns earned, and a value of each state under the label of every critic."""
    turns = []
    for t, (turn, value) in enumerate(zip(episode.turns, row, strict=True)):
        credit = {**_values(episode, t), **turn.credit, LABEL: value}
        turns.append(replace(turn, credit=credit))
    return replace(episode, turns=turns)


def _values(episode: Episode, t: int) -> dict[str, Value]:
    n = len(tokens.ids) if (tokens := episode.turns[t].action.tokens) else 0
    value = 0.5 * share(episode.task, episode.info_before(t).get("state_key"))
    return {c.name: np.full(n, value, np.float32) if c.level == "token" else value for c in critics()}


@cache
def critics() -> list[type[Credit]]:
    """Return the methods that say what was expected of a state."""
    found = [look_up(name) for name in written()]
    return [f for f in found if isinstance(f, type) and issubclass(f, Credit) and f.channel == "value"]


def numbers(advantages: Any) -> list[list[list[float]]]:
    """Return advantages with one number a turn: the mean of those of its tokens, 0 for what is not trained."""
    return [
        [[0.0 if v is None else float(np.mean(v)) if np.size(v) else 0.0 for v in row] for row in group]
        for group in advantages
    ]
