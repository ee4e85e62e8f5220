"""Whether a method can be asked at all: its card, and the form of its answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import get_args

import numpy as np

from milepost.credit.audit import groups as made
from milepost.credit.audit.changes import infos
from milepost.credit.audit.subject import NO_STANDIN, NoStandinError, Rows, Subject
from milepost.credit.cards import NEEDS, card_of
from milepost.credit.core import Channel, Level, overrides
from milepost.credit.methods import TABLE, look_up
from milepost.envs.core import Episode
from milepost.envs.rules import said


def begins(subject: Subject) -> Iterator[tuple[str, str]]:
    """The card is whole, and every group is answered with a number, an array or None for each turn."""
    yield from (("card", text) for text in _card(subject))
    if not (subject.credit.live or overrides(subject.credit, "on_group")):
        yield "card", "it overrides neither on_turn nor on_group, so it says nothing."
        return
    for name, group in made.all_groups().items():
        try:
            rows = subject.answers(group)
        except Exception as error:
            if absent := ", ".join(sorted(subject.credit.needs & NO_STANDIN)):
                raise NoStandinError(absent) from error
            if key := _own_key(error, group):
                raise NoStandinError(f"info[{key!r}]") from error
            yield "raises", f"asked about the group {name!r}, which has all that there is, it raised {said(error)}."
            return
        if wrong := _shape(group, rows):
            yield "shape", f"of the group {name!r}: {wrong}."
            return


def _own_key(error: Exception, group: Sequence[Episode]) -> str:
    """Return the key that a method misses, if it is a name that only its own environment can give."""
    key = error.args[0] if isinstance(error, KeyError) and error.args else None
    known = {name for episode in group for info in infos(episode) for name in info} | NEEDS
    return key if isinstance(key, str) and key.isidentifier() and key not in known else ""


def _card(subject: Subject) -> Iterator[str]:
    credit = subject.credit
    if not credit.name:
        yield "it sets no name, so its numbers have no label."
    if not isinstance(credit.needs, frozenset | set):
        yield f"needs is {credit.needs!r}: expected a frozenset of words."
    elif unknown := credit.needs - NEEDS:
        yield f"needs names {', '.join(sorted(unknown))}: expected some of {', '.join(sorted(NEEDS))}."
    if credit.channel not in get_args(Channel) or credit.level not in get_args(Level):
        yield f"channel and level are {credit.channel!r} and {credit.level!r}, which do not exist."
    if (
        not isinstance(credit.pair, str)
        or credit.pair not in TABLE
        or card_of(look_up(credit.pair)).kind != "estimator"
    ):
        yield f"pair is {credit.pair!r}: expected an estimator of credit/methods.py."


def _shape(group: Sequence[Episode], rows: Rows) -> str:
    if len(rows) != len(group):
        return f"expected {len(group)} rows, one an attempt, got {len(rows)}"
    for g, (episode, row) in enumerate(zip(group, rows, strict=True)):
        if len(row) != len(episode.turns):
            return f"attempt {g}: expected {len(episode.turns)} values, one a turn, got {len(row)}"
        for t, (turn, value) in enumerate(zip(episode.turns, row, strict=True)):
            n = len(turn.action.tokens.ids) if turn.action.tokens else 0
            if isinstance(value, np.ndarray) and value.shape not in ((n,), ()):
                return f"attempt {g}, turn {t}: expected {n} numbers, one a sampled token, got shape {value.shape}"
            if not (value is None or isinstance(value, int | float | np.bool_ | np.number | np.ndarray)):
                return f"attempt {g}, turn {t}: expected a number, an array or None, got {type(value).__name__}"
    return ""
