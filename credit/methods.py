"""The one table from a method's name to its class; ``module:Class`` takes anyone's."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from difflib import get_close_matches
from typing import Any

from milepost.credit.core import Credit

TABLE: dict[str, str] = {
    "outcome": "milepost.credit.outcome:Outcome",
    "dense": "milepost.credit.dense:Dense",
    "progress": "milepost.credit.progress:Progress",
    "validity": "milepost.credit.validity:Validity",
    "gra": "milepost.credit.gra:GRA",
    "dra": "milepost.credit.gra:DRA",
}


def resolve(name: str, **kwargs: Any) -> Credit:
    """Return a method by its name in ``TABLE`` or as ``module:Class``; the current folder is on the path.

    Raises:
        ValueError: No such method, module or class, the class is no credit method, or it has no such option: one line.
    """
    cls = find(name)
    signature = inspect.signature(cls)
    try:
        signature.bind(**kwargs)
    except TypeError as error:
        options = ", ".join(signature.parameters) or "no options"
        raise ValueError(f"credit {name!r}: {error}; it takes {options}") from None
    return cls(**kwargs)


def find(name: str) -> type[Credit]:
    """Return the class of a method; see ``resolve``."""
    path = TABLE.get(name, name)
    module, colon, attribute = path.partition(":")
    if not (module and colon and attribute):
        close = get_close_matches(name, TABLE, 1, 0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"there is {', '.join(TABLE)}"
        raise ValueError(f"no credit method {name!r}: {hint} Your own is module:Class")
    found = getattr(_module(module, name), attribute, None)
    if found is None:
        raise ValueError(f"credit {name!r}: module {module!r} has no class {attribute!r}")
    if not (isinstance(found, type) and issubclass(found, Credit)):
        raise ValueError(f"credit {name!r}: expected a subclass of milepost.credit.core.Credit, got {found!r}")
    if not found.name:
        raise ValueError(f"credit {name!r}: the class sets no name, so its numbers would have no label")
    return found


def _module(module: str, name: str) -> Any:
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ValueError(f"credit {name!r}: there is no module {module!r} (looked in {os.getcwd()} too)") from None
