"""The rules that every credit method keeps: each yields what is wrong, as sentences with numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from itertools import zip_longest
from typing import Any

import numpy as np

from milepost.credit.audit import groups as made
from milepost.credit.audit.changes import CHANGES, WITHOUT, renamed
from milepost.credit.audit.standins import Broken, LevelScorer, standin
from milepost.credit.audit.subject import Rows, Subject, changed, difference, live, number, played, same, told
from milepost.credit.core import Credit, assign, overrides
from milepost.envs.core import Episode

TINY = 1e-9
CLOSE_TO_NOTHING = 1e-9


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


def _centred(subject: Subject) -> Iterator[str]:
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


def _state(subject: Subject) -> Iterator[str]:
    """Nothing is remembered between groups but what ``fit`` learned, in the object or out of it.

    Names are new for each object, so that what a module or a class remembers is not remembered from before.
    """
    learns = "what it learns, it learns in fit"
    credit, names = subject.fresh(), made.mark()
    first = subject.ask(credit, made.anew(made.ragged(), names))
    if at := difference(first, subject.ask(credit, made.anew(made.ragged(), names))):
        yield f"asked twice about one group it gave other numbers, {at}: {learns}."
        return
    subject.ask(credit, made.anew(made.wandering(), names))
    if at := difference(first, subject.ask(credit, made.anew(made.ragged(), names))):
        yield f"after another group it gave other numbers, {at}: {learns}."
        return
    orders = [
        ("of another task", made.wandering(), made.ragged()),
        ("of the same task", made.backwards("tea"), made.ragged()),
        ("of the same task", made.ragged(), made.backwards("tea")),
    ]
    for what, before, group in orders:
        alone = subject.ask(subject.fresh(), made.anew(group, made.mark()))
        credit, names = subject.fresh(), made.mark()
        subject.ask(credit, made.anew(before, names))
        at = difference(alone, subject.ask(credit, made.anew(group, names)))
        if at and not list(_keys(subject)):
            yield f"after a group {what} it gave other numbers, {at}: a group does not feel the ones before it."
            return


def _keys(subject: Subject) -> Iterator[str]:
    """A state is known by its task and its key."""
    groups = [changed(group, lambda e: renamed(e, lambda key: key.partition(":")[2])) for group in _two_tasks()]
    for ask in (_ask, _fit):
        for i in (0, 1):
            names = made.mark()
            alone = subject.ask(subject.fresh(), made.anew(groups[i], names))
            shared, apart = made.mark(), made.mark()
            met, unmet = subject.fresh(), subject.fresh()
            theirs = made.anew(groups[1 - i], shared), made.anew(_two_tasks()[1 - i], apart)
            if not (ask(subject, met, theirs[0]) and ask(subject, unmet, theirs[1])):
                continue
            at = difference(alone, subject.ask(met, made.anew(groups[i], shared)))
            if at and not difference(alone, subject.ask(unmet, made.anew(_two_tasks()[i], apart))):
                yield (
                    f"a group of another task in which states have the same keys changed its numbers, {at}; with "
                    "other keys it did not: look a state up by its task and its key."
                )
                return


def _two_tasks() -> list[list[Episode]]:
    return [made.ragged(), made.backwards("nut")]


def _ask(subject: Subject, credit: Credit, group: list[Episode]) -> bool:
    subject.ask(credit, group)
    return True


def _fit(subject: Subject, credit: Credit, group: list[Episode]) -> bool:
    """Have the method learn from a group, where it can: what it needs for that may not be there."""
    if not overrides(credit, "fit"):
        return False
    copy = deepcopy(group)
    try:
        assign([credit], [copy])
        credit.fit([copy])
    except Exception:
        return False
    return True


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
    for key, change in CHANGES.items():
        covered = {key} | ({"answer"} if key == "aliases" else set())
        if covered & subject.credit.needs:
            continue
        for group in (made.ragged(), made.wandering()):
            if at := difference(subject.answers(group), subject.answers(changed(group, change))):
                yield f"its numbers change with {key!r}, {at}, and needs does not name that."
                break


def _errors(subject: Subject) -> Iterator[str]:
    """What is missing or broken is said, or leaves turns unjudged; it is never a 0."""
    group = made.ragged()
    whole = subject.answers(group)
    for key in sorted(subject.credit.needs & WITHOUT.keys()):
        rows = _or_none(subject, changed(group, WITHOUT[key]))
        if rows is not None and (text := _zeroed(whole, rows, everywhere=True)):
            yield f"without the {key!r} that it needs, {text}: raise a ContractError that names what is missing."
            return
    for part in subject.parts:
        broken = Broken()
        rows = _or_none(subject, group, **{part: broken})
        if rows is None or not broken.n_raised:
            continue
        if text := _zeroed(whole, rows, everywhere=False) or _judged(whole, rows, _otherwise(subject, group, part)):
            yield f"when its {part} raised a MachineError, {text}: let it pass, or give None."
            return


def _otherwise(subject: Subject, group: Sequence[Episode], part: str) -> list[Rows]:
    """Return what the method says with parts that answer otherwise, to see which turns depend on the part."""
    return [rows for seed in (1, 2, 3) if (rows := _or_none(subject, group, **{part: standin(part, seed)}))]


def _judged(whole: Rows, rows: Rows, others: list[Rows]) -> str:
    """Return a sentence if a turn whose number depends on what is broken is judged all the same."""
    depend = [
        (g, t) for g, row in enumerate(whole) for t, v in enumerate(row) if any(not same(v, o[g][t]) for o in others)
    ]
    judged = [(g, t) for g, t in depend if rows[g][t] is not None]
    if not judged:
        return ""
    g, t = judged[0]
    return (
        f"{len(judged)} of {len(depend)} turns whose numbers depend on it were judged without it (attempt {g}, turn "
        f"{t}: {told(whole[g][t])} before, {told(rows[g][t])} now)"
    )


def _or_none(subject: Subject, group: Sequence[Episode], **parts: Any) -> Rows | None:
    try:
        return subject.answers(group, **parts)
    except Exception:
        return None


def _zeroed(whole: Rows, rows: Rows, *, everywhere: bool) -> str:
    """Return a sentence if what earned something is judged to have earned 0 (all of it, or some)."""
    earned = [
        (g, t, value, rows[g][t])
        for g, row in enumerate(whole)
        for t, value in enumerate(row)
        if value is not None and np.any(value)
    ]
    zeroed = [(g, t, value) for g, t, value, now in earned if now is not None and not np.any(now)]
    if not zeroed or (everywhere and len(zeroed) < len(earned)):
        return ""
    g, t, value = zeroed[0]
    return f"{len(zeroed)} of {len(earned)} turns earned 0 (attempt {g}, turn {t}: {told(value)} before)"


MEMORY = {"state", "keys"}
AFTER_MEMORY = {"zeros", "centred", "order", "interleaved", "needs", "errors"}
"""What compares the answers of several askings: of a method that breaks one of ``MEMORY`` it says nothing new."""
RULES: dict[str, Callable[[Subject], Iterator[str]]] = {
    "finite": _finite,
    "state": _state,
    "keys": _keys,
    "zeros": _zeros,
    "centred": _centred,
    "order": _order,
    "writes": _writes,
    "interleaved": _interleaved,
    "needs": _needs,
    "errors": _errors,
}
