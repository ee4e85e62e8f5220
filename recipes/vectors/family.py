"""How a family of worked examples says what computes each key that its examples expect."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

Compute = Callable[..., Mapping[str, Any]]


class NotComputed(Exception):
    """Nothing computes a key from what is given."""


class Family:
    """The examples whose ids begin with the same letters, and the functions that compute what they expect.

    A function takes parts of ``given`` by name and returns some keys:

        gra = Family()

        @gra.computes("direct", "gated")
        def totals(good, hacker, gate_value): ...

    Several functions may compute one key from different things that are given; the first that has all it takes does.
    """

    def __init__(self) -> None:
        self._functions: dict[str, list[Compute]] = {}

    def computes(self, *keys: str) -> Callable[[Compute], Compute]:
        """Register a function for the keys that it returns."""

        def register(function: Compute) -> Compute:
            for key in keys:
                self._functions.setdefault(key, []).append(function)
            return function

        return register

    def compute(self, key: str, given: Mapping[str, Any]) -> Any:
        """Return the value of a key.

        Raises:
            NotComputed: No function of the family computes it, or what it takes is not given.
        """
        functions = self._functions.get(key, [])
        missing: list[str] = []
        for function in functions:
            parameters = inspect.signature(function).parameters.values()
            missing = [p.name for p in parameters if p.default is p.empty and p.name not in given]
            if not missing:
                return function(**{p.name: given[p.name] for p in parameters if p.name in given})[key]
        raise NotComputed(f"needs given {', '.join(missing)}" if functions else "nothing computes this key")
