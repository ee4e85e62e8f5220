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
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from milepost.recipes import panels
from milepost.recipes.console import did_you_mean
from milepost.recipes.evaluate.panel import METRICS, Entry, Panel, checked, whole


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
    read["entries"] = tuple(made)
    return whole(Panel(**read), where)


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
