"""Whether a method can be asked at all: its card, and the form of its answers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from difflib import get_close_matches
from typing import Any, get_args

import numpy as np

from milepost.credit.audit import groups as made
from milepost.credit.audit.changes import infos
from milepost.credit.audit.subject import NO_STANDIN, NoStandinError, Rows, Subject, asked, copied
from milepost.credit.cards import NEEDS, card_of
from milepost.credit.core import Channel, Level, overrides
from milepost.credit.methods import TABLE, look_up
from milepost.envs.core import INFO_KEYS, Episode
from milepost.envs.rules import said


def begins(subject: Subject) -> Iterator[tuple[str, str]]:
    """The card is whole, and every group is answered with a number, an array or None for each turn."""
    yield from (("card", text) for text in _card(subject))
    if not (subject.credit.live or overrides(subject.credit, "on_group")):
        yield "card", "it overrides neither on_turn nor on_group, so it says nothing."
        return
    if slips := list(_slips(subject, made.ragged())):
        yield from (("info", text) for text in slips)
        return
    for name, group in made.all_groups().items():
        try:
            rows = subject.answers(group)
        except Exception as error:
            if absent := ", ".join(sorted(subject.credit.needs & NO_STANDIN)):
                raise NoStandinError(absent) from error
            if key := _named(error, _absent(subject, group)):
                shared = "one of the keys that environments share" if key in INFO_KEYS else "no key of INFO_KEYS"
                raise NoStandinError(f"info[{key!r}] ({shared})") from error
            yield "raises", f"asked about the group {name!r}, which has all that there is, it raised {said(error)}."
            return
        if wrong := _shape(group, rows):
            yield "shape", f"of the group {name!r}: {wrong}."
            return


def _slips(subject: Subject, group: Sequence[Episode]) -> Iterator[str]:
    """What is looked for in ``info`` is not a slip of the pen for what is there."""
    known = INFO_KEYS.keys() | _given(group)
    for key, n in Counter(_absent(subject, group)).items():
        close = [] if key in known else get_close_matches(key.lower(), known, cutoff=0.8)
        for meant in [name for name in close if abs(len(name) - len(key)) <= 1][:1]:
            yield (
                f"it looked {n} times for info[{key!r}], which is not there: did you mean {meant!r}? A key of an "
                "environment's own should not look like one that all share."
            )


def _named(error: Exception, absent: list[str]) -> str:
    """Return the key, absent from ``info``, that an error names; empty if it names none."""
    said = re.findall(r"\w+", str(error))
    return next((key for key in absent if key in said), "")


def _absent(subject: Subject, group: Sequence[Episode]) -> list[str]:
    """Return the keys that a method looks for in ``info`` and that nothing in the group has, as often as it does."""
    looked: list[str] = []

    class Info(dict[str, Any]):
        def __missing__(self, key: str) -> Any:
            looked.append(key)
            raise KeyError(key)

        def __contains__(self, key: object) -> bool:
            looked.append(str(key))
            return super().__contains__(key)

        def get(self, key: str, default: Any = None) -> Any:
            looked.append(key)
            return super().get(key, default)

    copy = copied(group)
    for episode in copy:
        episode.info = Info(episode.info)
        for turn in episode.turns:
            turn.info = Info(turn.info)
    with suppress(Exception):
        asked(subject.fresh(), copy)
    given = _given(group)
    return [key for key in looked if key not in given]


def _given(group: Sequence[Episode]) -> set[str]:
    return {name for episode in group for info in infos(episode) for name in info}


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
