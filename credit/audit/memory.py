"""What a method remembers: between groups what ``fit`` learned alone, by task and key, and in what it saves."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

from milepost.credit.audit import groups as made
from milepost.credit.audit.changes import renamed
from milepost.credit.audit.subject import Subject, changed, copied, difference, live
from milepost.credit.core import Credit, assign, overrides, restore, saved
from milepost.envs.core import Episode
from milepost.envs.rules import said


def state(subject: Subject) -> Iterator[str]:
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
        if at and not list(keys(subject)):
            yield f"after a group {what} it gave other numbers, {at}: a group does not feel the ones before it."
            return


def keys(subject: Subject) -> Iterator[str]:
    """A state is known by its task and its key."""
    groups = [changed(group, lambda e: renamed(e, lambda key: key.partition(":")[2])) for group in _two_tasks()]
    for ask in (_ask, _fit):
        for i in (0, 1):
            names = made.mark()
            alone = subject.ask(subject.fresh(), made.anew(groups[i], names))
            shared, apart = made.mark(), made.mark()
            met, unmet = subject.fresh(), subject.fresh()
            if not ask(subject, met, made.anew(groups[1 - i], shared)):
                continue
            at = difference(alone, subject.ask(met, made.anew(groups[i], shared)))
            if not at or not ask(subject, unmet, made.anew(_two_tasks()[1 - i], apart)):
                continue
            if not difference(alone, subject.ask(unmet, made.anew(_two_tasks()[i], apart))):
                yield (
                    f"a group of another task in which states have the same keys changed its numbers, {at}; with "
                    "other keys it did not: look a state up by its task and its key."
                )
                return


def resume(subject: Subject) -> Iterator[str]:
    """A run that goes on from a saved state goes on as if it had never stopped."""
    group = made.anew(made.ragged(), made.mark())
    credit = subject.fresh()
    if not _fit(subject, credit, group):
        return
    saves = "state_dict and load_state_dict carry all that fit learned."
    resumed, state = subject.fresh(), deepcopy(saved(credit))
    try:
        restore(resumed, state)
    except Exception as error:
        yield f"after 1 fit a new object could not take back what state_dict returned, {said(error)}: {saves}"
        return
    for when in ("after 1 fit", "after 1 more fit of both"):
        if at := difference(subject.ask(credit, group), subject.ask(resumed, group)):
            yield f"{when} a new object that took back its saved state gave other numbers, {at}: {saves}"
            return
        if not (_fit(subject, credit, group) and _fit(subject, resumed, group)):
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
    copy = copied(group)
    try:
        for episode in copy if credit.live else ():
            for turn, value in zip(episode.turns, live(credit, episode), strict=True):
                turn.put(credit.label, value)
        assign([credit], [copy])
        credit.fit([copy])
    except Exception:
        return False
    return True
