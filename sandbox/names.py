"""Names that were meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` where a known name is close, else nothing."""
    close = get_close_matches(name[:64], list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def refuse_unknown(what: str, given: Iterable[object], known: Iterable[str]) -> None:
    """Refuse names that do not exist.

    Raises:
        ValueError: The first one that is not known, with what may have been meant.
    """
    known = list(known)
    for name in sorted(map(str, given)):
        if name not in known:
            raise ValueError(f"{what}: no {name!r}{did_you_mean(name, known)}; there are: {', '.join(known)}")
