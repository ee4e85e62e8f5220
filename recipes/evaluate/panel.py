"""What is played, under which limits, and what counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

METRICS = ("success", "outcome", "pass@1", "pass^k", "turns", "tokens", "cost", "seconds")
"""What a panel may count; ``results.json`` has them all, the table shows those of the panel."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Tasks of one environment, and how often and how long each is played."""

    name: str
    """Begins the group of each of its episodes: ``<entry>/<task or seed>``."""
    env: str
    """Gymnasium id; ``module:id`` imports the module first."""
    options: Mapping[str, Any] = field(default_factory=dict)
    split: str = "test"
    tasks: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    episodes: int | None = None
    """The first so many of the tasks or seeds; where neither is given, of the split, or seeds if it has no list."""
    attempts: int = 1
    max_turns: int | None = None
    """None: as the environment is registered."""
    timeout_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Panel:
    """What is played, under which limits, and what counts."""

    name: str
    entries: tuple[Entry, ...]
    version: str = "1"
    about: str = ""
    metrics: tuple[str, ...] = ("success", "outcome", "turns", "tokens", "cost", "seconds")
    versions: Mapping[str, str] = field(default_factory=dict)
    """Package to version; another one installed is a warning."""

    def to_json(self) -> dict[str, Any]:
        """Return what is pinned, as plain JSON; what says nothing is left out, and so is ``about``."""
        record = asdict(replace(self, about=""))
        record["entries"] = [_said(entry) for entry in record["entries"]]
        return _said(record)


def whole(panel: Panel, where: str) -> Panel:
    """Return a panel that has entries, with names of their own.

    Raises:
        ValueError: It has none, or two of one name.
    """
    names = [entry.name for entry in panel.entries]
    if not names:
        raise ValueError(f"{where}: expected one [[entries]] or more")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{where}: two entries are named {twice!r}")
    return panel


def checked(entry: Entry, where: str) -> Entry:
    """Return an entry whose numbers can be played.

    Raises:
        ValueError: A number is too small, a task is named twice, or the tasks are given in two ways.
    """
    for name in ("episodes", "attempts", "max_turns"):
        number = getattr(entry, name)
        if number is not None and number < 1:
            raise ValueError(f"{where}: {name}: expected 1 or more, got {number}")
    if entry.timeout_s is not None and not entry.timeout_s > 0:
        raise ValueError(f"{where}: timeout_s: expected more than 0 seconds, got {entry.timeout_s:g}")
    if entry.tasks and entry.seeds:
        raise ValueError(f"{where}: expected tasks or seeds, got both")
    for name in ("tasks", "seeds"):
        given: Sequence[Any] = getattr(entry, name)
        if len(set(given)) < len(given):
            twice = next(item for item in given if given.count(item) > 1)
            raise ValueError(f"{where}: {name}: {twice!r} is given twice")
    return entry


def _said(record: dict[str, Any]) -> dict[str, Any]:
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in record.items()}
    return {key: value for key, value in plain.items() if value not in (None, "", [], {})}
