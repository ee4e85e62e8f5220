"""The rules that every credit method keeps: each yields what is wrong, as sentences with numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from itertools import zip_longest

import numpy as np

from milepost.credit.audit import groups as made
from milepost.credit.audit.absence import errors
from milepost.credit.audit.centring import centred
from milepost.credit.audit.changes import CHANGES
from milepost.credit.audit.memory import keys, resume, state
from milepost.credit.audit.places import texts
from milepost.credit.audit.standins import LevelScorer
from milepost.credit.audit.subject import Rows, Subject, changed, difference, live, played, same, told
from milepost.credit.core import overrides
from milepost.envs.core import Episode

TINY = 1e-9


def _finite(subject: Subject) -> Iterator[str]:
    """Numbers are finite."""
    for name, group in made.all_groups().items():
        for g, row in enumerate(subject.answers(group)):
            for t, value in enumerate(row):
                if value is not None and not np.isfinite(value).all():
                    yield f"of the group {name!r}, whose numbers are all finite: attempt {g}, turn {t}: {told(value)}."
                    return


def _zeros(subject: Subject) -> Iterator[str]:
    """A turn that earned exactly 0 is judged like one that earned a billionth."""
    below, at, above = (answers_to_a_level(subject, level) for level in (-TINY, 0.0, TINY))
    for g, rows in enumerate(zip(below, at, above, strict=True)):
        for t, (less, zero, more) in enumerate(zip(*rows, strict=True)):
            if same(less, more) and not same(zero, more):
                yield (
                    f"attempt {g}, turn {t}: {told(more)} where a turn earned {TINY:g} or {-TINY:g}, {told(zero)} "
                    "where it earned exactly 0: zero is a judgement, not an absence."
                )
                return


def answers_to_a_level(subject: Subject, level: float) -> Rows:
    """Return what the method says of ``level_group(level)``."""
    parts = {"scorer": LevelScorer(level)} if "scorer" in subject.parts else {}
    return subject.answers(level_group(level), **parts)


def level_group(level: float) -> list[Episode]:
    """Return two attempts in which turn 1 earned ``level``, by whatever is looked at."""
    paths = ([0, 1, 1, 2, 4], [0, 2, 2])
    scored = ([0.25, level, 0.25, 0.5], [0.5, level])
    group = [
        made.attempt(n, 1.0 - n, path, scored=row) for n, (path, row) in enumerate(zip(paths, scored, strict=True))
    ]
    for episode in group:
        for turn in episode.turns[1:]:
            turn.info["potential"] += level
    return group


def _order(subject: Subject) -> Iterator[str]:
    """The order of attempts does not matter."""
    group = made.ragged()
    rows = subject.answers(group)
    for order in ([3, 2, 1, 0], [1, 2, 3, 0]):
        if at := difference([rows[i] for i in order], subject.answers([group[i] for i in order])):
            yield f"with the attempts in the order {order} it gave other numbers, {at}."
            return


def _writes(subject: Subject) -> Iterator[str]:
    """Episodes are read, not written."""
    group = made.ragged()
    before = deepcopy(group)
    credit = subject.fresh()
    if overrides(credit, "on_group"):
        credit.on_group(group)
    for episode in group if credit.live else ():
        live(credit, episode)
    for g, (a, b) in enumerate(zip(before, group, strict=True)):
        if a != b:
            yield f"it changed attempt {g} of the group that it was asked about: return numbers, assign writes them."
            return


def _interleaved(subject: Subject) -> Iterator[str]:
    """What a live method remembers belongs to one episode: others are played at the same time."""
    if not subject.credit.live:
        return
    episodes = [*made.ragged(), *made.backwards("nut")]
    alone = [live(subject.fresh(), episode) for episode in episodes]
    credit = subject.fresh()
    turns = zip_longest(*(played(credit, episode) for episode in episodes))
    together = [list(row[: len(e.turns)]) for row, e in zip(zip(*turns, strict=True), episodes, strict=True)]
    if told := difference(alone, together):
        yield f"of episodes that take turns it says, {told} alone and together: remember by episode.id."


def _needs(subject: Subject) -> Iterator[str]:
    """What is looked at is declared."""
    groups = made.ragged(), made.wandering()
    for key, change in CHANGES.items():
        covered = {key} | ({"answer"} if key == "aliases" else set())
        if covered & subject.credit.needs:
            continue
        for group in groups:
            if at := difference(subject.answers(group), subject.answers(changed(group, change))):
                yield f"its numbers change with {key!r}, {at}, and needs does not name that."
                break


MEMORY = {"state", "keys"}
AFTER_MEMORY = {"resume", "zeros", "centred", "order", "texts", "interleaved", "needs", "errors"}
"""What compares the answers of several askings: of a method that breaks one of ``MEMORY`` it says nothing new."""
RULES: dict[str, Callable[[Subject], Iterator[str]]] = {
    "finite": _finite,
    "state": state,
    "keys": keys,
    "resume": resume,
    "zeros": _zeros,
    "centred": centred,
    "order": _order,
    "texts": texts,
    "writes": _writes,
    "interleaved": _interleaved,
    "needs": _needs,
    "errors": errors,
}
