"""Whether a method gives what was earned, or by how much more than the other attempts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from milepost.credit.audit import groups as made
from milepost.credit.audit.estimate import estimate, numbers
from milepost.credit.audit.subject import Subject, copied, difference, number
from milepost.credit.methods import look_up
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
    yield from [*_shifted(subject), *_outcome(subject)][:1]


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


def _outcome(subject: Subject) -> Iterator[str]:
    """The outcome is in its numbers as it is.

    Not so where its estimator takes numbers as they are: then nothing is centred twice, and a method may have the
    outcome's advantage in its own equation, as TRACE's terminal part has. The attempt that is shifted stays third, as
    a rank is no centring.
    """
    group = made.ragged()
    before = subject.answers(group)
    one, all_ = (subject.answers(_winning_more(group, who)) for who in ({2}, set(range(len(group)))))
    if (at := difference(before, one)) and not difference(before, all_) and centres(subject.credit.pair):
        yield (
            f"its numbers are the same when the outcome of all attempts is {MORE:g} more, and others when that of "
            f"attempt 2 alone is, {at}: they are centred, and {subject.credit.pair!r} takes a mean once more. Give "
            "what was earned."
        )


def centres(pair: str) -> bool:
    """Whether an estimator takes a mean: what all attempts earn more, at the end or in every turn, is in no number."""
    group = [made.attempt(0, 1.0, [0, 2, 4]), made.attempt(1, 0.0, [0, 1, 2])]
    rows = [[0.25, 0.5], [0.0, 0.25]]
    before, last, every = (
        numbers(estimate(look_up(pair), [group], [[[a + x, b + y] for a, b in rows]], 0.0, expect=0.0))[0]
        for x, y in ((0.0, 0.0), (0.0, MORE), (MORE, MORE))
    )
    return not (difference(before, last) and difference(before, every))


def _winning_more(group: list[Episode], who: set[int]) -> list[Episode]:
    copy = copied(group)
    for g in who:
        copy[g].turns[-1].info["outcome"] += MORE
    return copy


def _earning_more(group: list[Episode], shift: Callable[[Episode, int], None], who: set[int], t: int | None) -> Any:
    copy = copied(group)
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
