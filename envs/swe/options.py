"""Of what kind an environment's options have to be: one line says which is none of it."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import PurePath
from typing import Any, NamedTuple


class Kind(NamedTuple):
    """What a value has to be."""

    types: tuple[type, ...]
    told: str

    def or_none(self) -> Kind:
        """Return the same where nothing may be said."""
        return Kind((*self.types, type(None)), f"{self.told} or None")


TEXT, WHOLE, NUMBER = Kind((str,), "text"), Kind((Integral,), "a whole number"), Kind((Real,), "a number")
NAMES = Kind((list, tuple, set, frozenset), "names")
KINDS: Mapping[str, Kind] = {
    "split": TEXT,
    "level": TEXT.or_none(),
    "packages": NAMES,
    "tasks": Kind((str, PurePath), "a file").or_none(),
    "backend": TEXT,
    "actions": TEXT,
    "outcome": TEXT,
    "turn_timeout_s": NUMBER,
    "max_lines": WHOLE,
    "max_chars": WHOLE,
    "memory": WHOLE.or_none(),
    "disk": WHOLE.or_none(),
    "processes": WHOLE.or_none(),
    "allow": NAMES,
}


def checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of ``SweEnv``, a name that stands alone as the only one of its list.

    Raises:
        ValueError: One is of another kind than it has to be.
    """
    found = dict(given)
    for name, kind in KINDS.items():
        value = found[name]
        if kind is NAMES and isinstance(value, str):
            value = found[name] = (value,)
        wrong = not isinstance(value, kind.types) or isinstance(value, bool)
        if wrong or (kind is NAMES and not all(isinstance(one, str) for one in found[name])):
            raise ValueError(f"SWE {name}: expected {kind.told}, got {value!r}")
    return found
