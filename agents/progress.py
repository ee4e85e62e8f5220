"""A progress bar with the time that is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from typing import Any


@contextmanager
def bar(title: str | None, what: Any, unit: str = "episodes") -> Iterator[Callable[[], None]]:
    """Show progress over ``what`` while the context is open; yield the function that counts one more.

    Nothing is shown without a title, or where standard error is not a terminal. ``what`` need not have a length.
    """
    if title is None:
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        line = progress.add_task(title, total=len(what) if isinstance(what, Sized) else None)
        yield lambda: progress.advance(line)
