"""What is no fault but worth knowing about a method's numbers, measured under the estimator that it is paired with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from milepost.credit.audit import groups as made
from milepost.credit.audit.bias import StoppingGame, exact, expected
from milepost.credit.audit.estimate import estimate, numbers
from milepost.credit.audit.rules import TINY, answers_to_a_level
from milepost.credit.audit.subject import Rows, Subject, difference, number
from milepost.credit.methods import look_up
from milepost.envs.core import Episode


def _paired(subject: Subject, groups: Sequence[Sequence[Episode]], earned: Sequence[Rows], weight: float = 1.0) -> Any:
    scaled = [[[None if v is None else weight * number(v) for v in row] for row in rows] for rows in earned]
    outcome = 0.0 if subject.credit.includes_outcome else 1.0
    return numbers(estimate(look_up(subject.credit.pair), groups, scaled, outcome, expect=0.0))


def _totals(subject: Subject, group: Sequence[Episode]) -> list[float]:
    """[G] what attempts earn in all, the outcome with it."""
    extra = 0.0 if subject.credit.includes_outcome else 1.0
    rows = subject.answers(group)
    return [sum(map(number, row)) + extra * (e.outcome or 0.0) for e, row in zip(group, rows, strict=True)]


def _dark_room(subject: Subject) -> Iterator[str]:
    """Where all failed, does a smaller coefficient make the method quieter?"""
    if subject.credit.channel == "value":
        return
    group = made.failed()
    rows = subject.answers(group)
    if not any(number(v) for row in rows for v in row):
        yield "where all attempts failed its turns earn 0, so there is nothing to anneal."
        return
    loud, quiet = (max(abs(a) for row in _paired(subject, [group], [rows], c)[0] for a in row) for c in (1.0, 0.01))
    if loud < TINY:
        yield f"where all attempts failed, {subject.credit.pair!r} makes advantages of 0 of its numbers."
        return
    share = quiet / loud
    verdict = "annealing works" if share < 0.02 else "annealing its coefficient does nothing (the dark room)"
    yield (
        f"where all attempts failed, a hundredth of its weight leaves {share:.0%} of the largest advantage under "
        f"{subject.credit.pair!r} ({loud:.3g} -> {quiet:.3g}): {verdict}."
    )


def _stopping(subject: Subject) -> Iterator[str]:
    """Is its estimator's gradient that of what it pays, in a game where each turn decides whether to go on?"""
    if subject.credit.channel == "value":
        return
    game = StoppingGame(outcome=True)
    includes = subject.credit.includes_outcome

    def earned(group: list[Episode]) -> Rows:
        return [[None if v is None else number(v) for v in row] for row in subject.answers(group)]

    true = exact(game, earned, 0.0 if includes else 1.0)
    found = expected(game, look_up(subject.credit.pair), earned, 0.0 if includes else 1.0)
    off = float(np.abs(found - true).max())
    verdict = "unbiased" if off < 1e-9 else f"biased by {found[0] - true[0]:+.4f}"
    yield (
        f"in the stopping game (at most 3 turns, groups of 4) the gradient of what it pays is {true[0]:.4f}, and "
        f"{subject.credit.pair!r} estimates {found[0]:.4f}: {verdict}."
    )


def _length(subject: Subject) -> Iterator[str]:
    """What does one more turn that achieves nothing cost or bring?"""
    if subject.credit.channel == "value":
        return
    group = [made.attempt(0, 1.0, [0, 2, 4]), made.attempt(1, 1.0, [0, 2, 2, 4])]
    short, long = _totals(subject, group)
    if abs(short - long) > 1e-9:
        yield f"one more turn that achieves nothing changes what an attempt earns in all: {short:.4g} -> {long:.4g}."
        return
    a, b = _paired(subject, [group], [subject.answers(group)])[0]
    gap = a[0] - b[0]
    yield (
        f"of two attempts that earn {short:.4g} in all, the one with a further idle turn gets {abs(gap):.4g} "
        f"{'less' if gap > 0 else 'more'} in its first turn under {subject.credit.pair!r}."
        if abs(gap) > 1e-9
        else f"one more turn that achieves nothing changes no total ({short:.4g}) and not the first turn's advantage."
    )


def _farm(subject: Subject) -> Iterator[str]:
    """Does the ladder's distractor pay more than the win?"""
    if subject.credit.channel == "value":
        return
    plays: dict[str, list[str]] = {
        "the shortest way up": ["climb"] * 5,
        "eight turns of dusting": ["dust"] * 8,
        "dusting three times and then climbing": ["dust"] * 3 + ["climb"] * 5,
        "eight turns of rest": ["rest"] * 8,
        "going halfway up and resting": ["climb"] * 3,
    }
    totals = dict(zip(plays, _totals(subject, made.ladder(*plays.values())), strict=True))
    win = totals["the shortest way up"]
    losing = {k: totals[k] for k in plays if k not in ("the shortest way up", "dusting three times and then climbing")}
    best = max(losing, key=lambda k: losing[k])
    if not any(totals.values()):
        yield "on the ladder it pays nothing, whatever is played."
        return
    verdict = "it can be farmed" if losing[best] >= win else "losing does not pay more than winning"
    detour = totals["dusting three times and then climbing"]
    yield (
        f"on the ladder, outcome included, the shortest way up earns {win:.4g}, the best of those that lose, {best}, "
        f"{losing[best]:.4g}: {verdict}. Dusting three times and then climbing earns {detour:.4g}."
    )


def _jumps(subject: Subject) -> Iterator[str]:
    """Is there a threshold at 0?"""
    below, above = (answers_to_a_level(subject, level) for level in (-TINY, TINY))
    if at := difference(below, above):
        yield f"whether a turn earned {-TINY:g} or {TINY:g} changes its numbers, {at}: there is a threshold at 0."


def _group(subject: Subject) -> Iterator[str]:
    """Does an attempt's number depend on the others of its group?"""
    group = made.ragged()
    if at := difference(subject.answers(group)[:2], subject.answers(group[:2])):
        yield f"what an attempt earns depends on the others of its group, {at} with and without two of them."


PROPERTIES: dict[str, Callable[[Subject], Iterator[str]]] = {
    "dark room": _dark_room,
    "stopping": _stopping,
    "length": _length,
    "farming": _farm,
    "threshold": _jumps,
    "group": _group,
}
