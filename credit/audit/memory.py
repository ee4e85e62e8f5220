"""What a method remembers: nothing between groups but what ``fit`` learned, and that by task and key."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

from milepost.credit.audit import groups as made
from milepost.credit.audit.changes import renamed
from milepost.credit.audit.subject import Subject, changed, difference
from milepost.credit.core import Credit, assign, overrides
from milepost.envs.core import Episode


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
