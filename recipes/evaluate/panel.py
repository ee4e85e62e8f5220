"""Panels: what is played, pinned so that two people's numbers mean the same; a TOML file, shipped or of one's own.

name = "my panel"
version = "1"
metrics = ["success", "pass^k"]

[limits]                      # of every entry that says nothing else
timeout_s = 600

[versions]                    # optional: another one installed is a warning in the results
gymnasium = "1.3.0"

[[entries]]
name = "desk"
env = "milepost/ToolDesk-v0"
options = {}
split = "test"
episodes = 20                 # or tasks = ["...", ...], or seeds = "0-9"; all tasks of the split without
attempts = 4
max_turns = 30
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from milepost.recipes import panels
from milepost.recipes.console import did_you_mean

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


def read_panel(name: str) -> Panel:
    """Return a shipped panel by its name, or the panel of a ``.toml`` file.

    Raises:
        ValueError: There is none, or a field is unknown, missing or of another type: one line.
    """
    path = Path(name)
    if path.suffix != ".toml":
        if name not in (names := panel_names()):
            raise ValueError(f"no panel {name!r}{did_you_mean(name, names)}; there are: {', '.join(names)}")
        path = _folder() / f"{name}.toml"
    try:
        record = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise ValueError(f"no panel {name}: there is no such file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"panel {name}: expected TOML: {error}") from None
    return panel_from(record, name)


def panel_names() -> list[str]:
    """Return the names of the panels that are shipped."""
    return sorted(path.stem for path in _folder().glob("*.toml"))


def panel_from(record: Mapping[str, Any], where: str) -> Panel:
    """Return the panel that a parsed TOML file, or ``Panel.to_json``, says.

    Raises:
        ValueError: See ``read_panel``.
    """
    where = f"panel {where}"
    read = _read(_PANEL, record, where)
    limits = _read(_LIMITS, read.pop("limits", {}), f"{where}, limits")
    entries = [_read(_ENTRY, row, f"{where}, entry {n}") for n, row in enumerate(read.get("entries", []), 1)]
    made: list[Entry] = []
    for n, entry in enumerate(entries, 1):
        at = f"{where}, entry {entry.get('name', n)!s}"
        for name in ("name", "env"):
            if name not in entry:
                raise ValueError(f"{at}: expected a field {name!r}")
        made.append(checked(Entry(**limits | entry), at))
    if "name" not in read:
        raise ValueError(f"{where}: expected a field 'name'")
    return whole(Panel(**read | {"entries": tuple(made)}), where)


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


def first(entry: Entry, episodes: int) -> Entry:
    """Return the entry with no more than its first ``episodes`` tasks or seeds."""
    return replace(entry, episodes=min(episodes, entry.episodes or episodes))


def read_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds of ``0-9,20``.

    Raises:
        ValueError: The text is none of that form.
    """
    seeds: list[int] = []
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        if not (low.isdecimal() and (high.isdecimal() if dash else True) and int(low) <= int(high or low) < 2**31):
            raise ValueError(f"seeds: expected numbers and spans such as 0-9,20, got {text!r}")
        seeds += range(int(low), int(high or low) + 1)
    return tuple(seeds)


def _folder() -> Path:
    return Path(panels.__file__).parent


def _said(record: dict[str, Any]) -> dict[str, Any]:
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in record.items()}
    return {key: value for key, value in plain.items() if value not in (None, "", [], {})}


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise TypeError(what)
    return list(value)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError("a text")
    return value


def _whole_number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError("a whole number")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError("a number")
    return value


def _table(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("a table")
    return value


def _tables(value: Any) -> list[Any]:
    return _list(value, "a list of tables")


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(_text(item) for item in _list(value, "a list of texts"))


def _seeds(value: Any) -> tuple[int, ...]:
    return read_seeds(value) if isinstance(value, str) else tuple(map(_whole_number, _list(value, "a list of seeds")))


def _metrics(value: Any) -> tuple[str, ...]:
    for name in (names := _texts(value)):
        if name not in METRICS:
            raise ValueError(f"no metric {name!r}{did_you_mean(name, METRICS)}; there are: {', '.join(METRICS)}")
    return names


Readers = Mapping[str, Callable[[Any], Any]]
_LIMITS: Readers = {"max_turns": _whole_number, "timeout_s": _number}
_ENTRY: Readers = {
    "name": _text,
    "env": _text,
    "options": _table,
    "split": _text,
    "tasks": _texts,
    "seeds": _seeds,
    "episodes": _whole_number,
    "attempts": _whole_number,
    **_LIMITS,
}
_PANEL: Readers = {
    "name": _text,
    "version": _text,
    "about": _text,
    "metrics": _metrics,
    "versions": _table,
    "limits": _table,
    "entries": _tables,
}
assert set(_ENTRY) == {f.name for f in fields(Entry)}


def _read(readers: Readers, record: Any, where: str) -> dict[str, Any]:
    """Return the fields of a table, read and checked one by one."""
    if not isinstance(record, Mapping):
        raise ValueError(f"{where}: expected a table, got {record!r}")
    read: dict[str, Any] = {}
    for name, value in record.items():
        if name not in readers:
            raise ValueError(
                f"{where}: unknown field {name!r}{did_you_mean(name, list(readers))}; there are: {', '.join(readers)}"
            )
        try:
            read[name] = readers[name](value)
        except TypeError as error:
            raise ValueError(f"{where}: {name}: expected {error}, got {value!r}") from None
        except ValueError as error:
            raise ValueError(f"{where}: {name}: {error}") from None
    return read
