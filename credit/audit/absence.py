"""What a method says where something is missing or broken: nothing, and never a 0."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from milepost.credit.audit import groups as made
from milepost.credit.audit.changes import WITHOUT
from milepost.credit.audit.standins import Broken, standin
from milepost.credit.audit.subject import Rows, Subject, changed, same, told
from milepost.envs.core import Episode


def errors(subject: Subject) -> Iterator[str]:
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
