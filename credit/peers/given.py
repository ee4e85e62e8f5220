"""What an estimator is given: episodes and rewards of one shape, and the outcome taken off again."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from milepost.credit import advantage
from milepost.credit.advantage import Batch, Numbers, Table
from milepost.envs.core import ContractError


def same_shape(name: str, groups: Batch, rewards: Numbers) -> None:
    """Check that ``rewards`` have a number (or None) for every turn of ``groups``.

    Raises:
        ContractError: A length differs, or an episode has no turn; ``name`` says which estimator asked.
    """
    if len(groups) != len(rewards):
        raise ContractError(f"{name}: rewards: expected {len(groups)} groups, got {len(rewards)}")
    for n, (group, rows) in enumerate(zip(groups, rewards, strict=True)):
        if len(group) != len(rows):
            raise ContractError(f"{name}: rewards of group {n}: expected {len(group)} rows, got {len(rows)}")
        for episode, row in zip(group, rows, strict=True):
            if not episode.turns:
                raise ContractError(f"{name}: episode {episode.id!r} has no turn; groups_of leaves it out")
            if len(episode.turns) != len(row):
                raise ContractError(
                    f"{name}: rewards of episode {episode.id!r}: expected {len(episode.turns)} turns, got {len(row)}"
                )


def outcomes(name: str, groups: Batch) -> list[list[float]]:
    """Return ``[N][G]`` how each attempt ended.

    Raises:
        ContractError: An attempt was not scored.
    """
    table: list[list[float]] = []
    for group in groups:
        table.append([])
        for episode in group:
            if (value := episode.outcome) is None:
                raise ContractError(f"{name}: episode {episode.id!r} has no outcome; groups_of leaves it out")
            table[-1].append(value)
    return table


def process(name: str, groups: Batch, rewards: Numbers, labels: Sequence[str] = ()) -> Table:
    """Return ``[N][G][T]`` what the methods of ``labels`` gave; without labels, the rewards less the outcome.

    ``advantage.rewards`` adds the outcome to each last turn, with weight 1. A last turn to which no method gave a
    number was not judged, so it is None and not 0.
    """
    if labels:
        return advantage.rewards(groups, labels, outcome=0.0)
    table: Table = []
    for group, rows, ends in zip(groups, rewards, outcomes(name, groups), strict=True):
        table.append([])
        for episode, row, end in zip(group, rows, ends, strict=True):
            judged = any(value is not None for value in episode.turns[-1].credit.values())
            last = (row[-1] or 0.0) - end
            if not isfinite(last):
                raise ContractError(f"{name}: episode {episode.id!r}: expected finite rewards, got {row}")
            table[-1].append([*row[:-1], last if judged or abs(last) > 1e-9 else None])
    return table
