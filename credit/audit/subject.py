"""The method under audit: made anew as often as wanted, and asked about copies, so that nothing that it does stays."""

from __future__ import annotations

import hashlib
import inspect
import pickle
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np

from milepost.credit.audit.standins import PARTS, standin
from milepost.credit.core import Credit, Rewards, overrides
from milepost.credit.methods import find, resolve
from milepost.envs.core import Episode

Rows = list[list[Any]]
"""``[G][T]``: numbers, arrays or None, as the method gave them."""
CLOSE = 1e-6
"""Numbers that differ by less, absolutely or in proportion, are the same."""


NO_STANDIN = frozenset({"planner", "process", "values"})
"""What ``needs`` may name and the audit cannot make up."""


class NoStandinError(ValueError):
    """A method cannot be asked, for want of what there is no stand-in for."""

    def __init__(self, what: str) -> None:
        super().__init__(f"not measured: it needs {what}, which the check has no stand-in for.")


class Subject:
    """A credit method by its name, its class, or an instance to copy."""

    def __init__(self, method: str | type[Credit] | Credit, options: dict[str, Any]) -> None:
        self._method, self._options = method, options
        self._known: dict[bytes, Rows] = {}
        self.parts = self._parts()
        self.credit = self.fresh()
        self.name = self.credit.label or type(self.credit).__name__

    def fresh(self, **parts: Any) -> Credit:
        """Return the method as new; ``parts`` take the place of stand-ins."""
        if isinstance(self._method, Credit):
            return deepcopy(self._method)
        found = {part: parts[part] if part in parts else standin(part) for part in self.parts}
        options = {**found, **self._options}
        try:
            return resolve(self._method, **options) if isinstance(self._method, str) else self._method(**options)
        except ValueError as error:
            if absent := self._absent():
                raise NoStandinError(absent) from error
            raise
        except Exception as error:
            if absent := self._absent():
                raise NoStandinError(absent) from error
            told = self._method if isinstance(self._method, str) else self._method.__name__
            raise ValueError(f"credit {told!r} cannot be made: {type(error).__name__}: {error}") from error

    def ask(self, credit: Credit, group: Sequence[Episode]) -> Rows:
        """Return what the method says of a copy of a group, during play or after it."""
        return asked(credit, copied(group))

    def answers(self, group: Sequence[Episode], **parts: Any) -> Rows:
        """Return what the method, as new, says of a group; what was asked before is known."""
        if parts:
            return self.ask(self.fresh(**parts), group)
        key = hashlib.sha256(pickle.dumps(list(group))).digest()
        if key not in self._known:
            self._known[key] = self.ask(self.fresh(), group)
        return self._known[key]

    def _absent(self) -> str:
        """Return what it needs and there is no stand-in for."""
        cls = find(self._method) if isinstance(self._method, str) else self._method
        needs = cls.needs if isinstance(cls.needs, frozenset | set) else frozenset[str]()
        return ", ".join(sorted((needs & NO_STANDIN) - self._options.keys()))

    def _parts(self) -> list[str]:
        """Return which stand-ins its constructor is to get."""
        if isinstance(self._method, Credit):
            return []
        cls = find(self._method) if isinstance(self._method, str) else self._method
        parameters = inspect.signature(cls).parameters
        some = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        needed = [p for p in PARTS if p in cls.needs and (p in parameters or some)]
        required = [p for p in PARTS if p in parameters and parameters[p].default is inspect.Parameter.empty]
        return [part for part in PARTS if part in {*needed, *required} - self._options.keys()]


def copied(group: Sequence[Episode]) -> list[Episode]:
    """Return a copy of a group, several times as fast as ``deepcopy`` does."""
    copy: list[Episode] = pickle.loads(pickle.dumps(list(group)))
    return copy


def asked(credit: Credit, group: Sequence[Episode]) -> Rows:
    """Return what a method says of a group itself, during play or after it."""
    if overrides(credit, "on_group"):
        rows: Rewards = credit.on_group(group)
        return [list(row) for row in rows]
    return [live(credit, episode) for episode in group]


def live(credit: Credit, episode: Episode) -> list[Any]:
    """[T] what a live method says turn by turn, as if the episode were played now."""
    return list(played(credit, episode))


def played(credit: Credit, episode: Episode) -> Iterator[Any]:
    """Yield what a live method says of each turn; between two of them another episode may be played."""
    shown = episode.turns[0].observation if episode.turns else episode.last
    playing = replace(episode, turns=[], stop=None, last=shown)
    credit.on_reset(playing)
    for t, turn in enumerate(episode.turns):
        more = t + 1 < len(episode.turns)
        playing.turns.append(turn)
        playing.last = episode.turns[t + 1].observation if more else episode.last
        playing.stop = None if more else episode.stop
        yield credit.on_turn(playing)


def difference(a: Rows, b: Rows) -> str:
    """Return where two answers first differ, ``attempt 1, turn 0: 0.25 and None``; nothing if they do not."""
    for g, (x, y) in enumerate(zip(a, b, strict=True)):
        for t, (p, q) in enumerate(zip(x, y, strict=True)):
            if not same(p, q):
                return f"attempt {g}, turn {t}: {told(p)} and {told(q)}"
    return ""


def same(p: Any, q: Any, close: float = CLOSE) -> bool:
    """Whether two answers about a turn are the same; None is the same as None alone."""
    if p is None or q is None:
        return p is q
    return np.shape(p) == np.shape(q) and np.allclose(p, q, rtol=close, atol=close, equal_nan=True)


def told(value: Any) -> str:
    """Return a number for a sentence."""
    return "None" if value is None else np.array2string(np.asarray(value, np.float64), precision=4)


def changed(group: Sequence[Episode], change: Callable[[Episode], None]) -> list[Episode]:
    """Return a copy of a group with each episode changed."""
    copy = copied(group)
    for episode in copy:
        change(episode)
    return copy


def number(value: Any) -> float:
    """Return a turn's number: the sum of a token credit, 0 for None."""
    return 0.0 if value is None else float(np.sum(value))
