"""Whether a method gives what was earned, or by how much more than the other attempts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

from milepost.credit.audit import groups as made
from milepost.credit.audit.subject import Subject, difference, number
from milepost.envs.core import Episode

CLOSE_TO_NOTHING = 1e-9


def centred(subject: Subject) -> Iterator[str]:
    """A method gives rewards: what attempts earned, not by how much more than each other."""
    by_turn: list[float] = []
    by_group: list[float] = []
    for group in made.all_groups().values():
        rows = subject.answers(group)
        if len(rows) > 1:
            whole = [number(v) for row in rows for v in row]
            if max(map(abs, whole)) > CLOSE_TO_NOTHING:
                by_group.append(abs(sum(whole)) / max(map(abs, whole)))
            for t in range(max(map(len, rows))):
                alive = [number(row[t]) for row in rows if t < len(row)]
                if len(alive) > 1 and max(map(abs, alive)) > CLOSE_TO_NOTHING:
                    by_turn.append(abs(sum(alive)) / max(map(abs, alive)))
    for pools, what in ((by_turn, "turn"), (by_group, "group")):
        if len(pools) > 1 and max(pools) < 1e-5:
            yield (
                f"its numbers add up to 0 over every {what} with several attempts ({len(pools)} of {len(pools)}): they "
                "are centred. Give what was earned; the estimator takes the mean, and in the order that keeps it "
                "unbiased."
            )
            return
    yield from _shifted(subject)


def _shifted(subject: Subject) -> Iterator[str]:
    """What all attempts earned more is in their numbers, as it is where one of them earned it."""
    group = made.ragged()
    everyone, before = set(range(len(group))), subject.answers(group)
    for what, shift in SHIFTS.items():
        for t in (0, 1, None):
            where = "in every turn" if t is None else f"in turn {t}"
            one, all_ = (subject.answers(_earning_more(group, shift, who, t)) for who in ({0}, everyone))
            if (at := difference(before, one)) and not difference(before, all_):
                yield (
                    f"its numbers are the same when the {what} of all attempts is {MORE:g} more {where}, and others "
                    f"when that of attempt 0 alone is, {at}: they are centred. Give what was earned; the estimator "
                    "takes the mean."
                )
                return


def _earning_more(group: list[Episode], shift: Callable[[Episode, int], None], who: set[int], t: int | None) -> Any:
    copy = deepcopy(group)
    for g in who:
        for at in range(len(copy[g].turns)) if t is None else [t] if t < len(copy[g].turns) else []:
            shift(copy[g], at)
    return copy


def _more_components(episode: Episode, t: int) -> None:
    info = episode.turns[t].info
    info["reward_components"] = type(info["reward_components"])(
        {name: value + MORE for name, value in info["reward_components"].items()}
    )


def _more_potential(episode: Episode, t: int) -> None:
    for turn in episode.turns[t:]:
        turn.info["potential"] += MORE


MORE = 0.25
SHIFTS: dict[str, Callable[[Episode, int], None]] = {
    "reward_components": _more_components,
    "potential": _more_potential,
}
