"""Names that were meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` where a known name is close, else nothing."""
    close = get_close_matches(name[:64], list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
