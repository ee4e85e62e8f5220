"""Whether a method knows a turn by its place, or searches for it by its text, which another turn may have as well."""

from __future__ import annotations

from collections.abc import Iterator

from milepost.credit.audit import groups as made
from milepost.credit.audit.standins import LastScorer
from milepost.credit.audit.subject import Rows, Subject, copied, difference, same
from milepost.envs.core import Episode

Place = tuple[int, int]
"""An attempt and a turn of it."""
PAIRS: tuple[tuple[Place, Place], ...] = (((0, 0), (0, 2)), ((2, 1), (2, 3)), ((0, 1), (2, 4)))
"""Turns of ``audit.groups.ragged`` that get one text."""
MORE = 0.25


def texts(subject: Subject) -> Iterator[str]:
    """A turn is known by its place: where two turns have the same text, what happened in one is not the other's.

    That a method's numbers change where a text is repeated is no fault: it may pay less for it. But what then happens
    in one of the two must not be in numbers that it was not in while their texts were different.
    """
    twice, once = _group(repeated=True), _group(repeated=False)
    before, apart = _asked(subject, twice), _asked(subject, once)
    if not difference(before, apart):
        return
    for pair in PAIRS:
        for place in pair:
            g, t = place
            feel = _feel(before, _asked(subject, _happened(twice, place)))
            if wrong := sorted(feel - _feel(apart, _asked(subject, _happened(once, place)))):
                yield (
                    f"when turns {pair[0][1]} and {pair[1][1]} of attempts {pair[0][0]} and {pair[1][0]} have the same "
                    f"text, what happens in turn {t} of attempt {g} changes the number of turn {wrong[0][1]} of "
                    f"attempt {wrong[0][0]}, and not when their texts differ: know a turn by its place, not its text."
                )
                return


def _group(*, repeated: bool) -> list[Episode]:
    group = made.ragged()
    for pair in PAIRS:
        text = f"go on{made.mark()}"
        for g, t in pair:
            group[g].turns[t].action.text = text if repeated else f"go on{made.mark()}"
    return group


def _happened(group: list[Episode], place: Place) -> list[Episode]:
    """Return a copy in which something else happened in one turn, whatever a method looks at."""
    copy = copied(group)
    turn = copy[place[0]].turns[place[1]]
    turn.observation = f"{turn.observation} and more"
    info, components = turn.info, turn.info["reward_components"]
    info["reward_components"] = type(components)({name: value + MORE for name, value in components.items()})
    info |= {
        "potential": info["potential"] + MORE,
        "valid": not info["valid"],
        "caption": f"{info['caption']} and more",
    }
    info["state_key"] += " and more"
    if turn.action.tokens is not None and turn.action.tokens.entropies is not None:
        turn.action.tokens.entropies = turn.action.tokens.entropies + 1
    return copy


def _feel(before: Rows, after: Rows) -> set[Place]:
    return {
        (g, t)
        for g, (old, new) in enumerate(zip(before, after, strict=True))
        for t, (p, q) in enumerate(zip(old, new, strict=True))
        if not same(p, q)
    }


def _asked(subject: Subject, group: list[Episode]) -> Rows:
    """Return what the method says where a scorer, if there is one, looks at the newest observation alone."""
    return subject.answers(group, **({"scorer": LastScorer()} if "scorer" in subject.parts else {}))
