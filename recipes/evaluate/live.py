"""What an evaluation shows while it plays: a table in a terminal, else a line every few seconds."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from milepost.envs.core import Episode, Stop
from milepost.recipes.evaluate.meter import Meter
from milepost.recipes.evaluate.panel import Panel
from milepost.recipes.evaluate.results import Results
from milepost.recipes.evaluate.scores import row
from milepost.recipes.report.stats import wilson

if TYPE_CHECKING:
    from rich.table import Table

Watch = Literal["auto", "table", "lines", "nothing"]
EVERY_S = 5.0
"""A line so often, where nobody sees a table, and something has changed."""
AGAIN_S = 60.0
"""A line so often where nothing has."""
REDRAWS_PER_S = 4


@dataclass
class Count:
    """How far an entry is."""

    n: int
    done: int = 0
    solved: int = 0
    failed: int = 0


class Live:
    """Counts the episodes as they end and shows it; a context."""

    def __init__(self, panel: Panel, before: Results, meter: Meter, n_todo: int, watch: Watch) -> None:
        self._panel, self._meter = panel.name, meter
        self._n_todo, self._n_begun, self._n_ended = n_todo, 0, 0
        self._counts = {
            name: Count(score.n, score.played, round((score.success.rate or 0.0) * score.played))
            for name, score in before.entries.items()
        }
        self._began = time.monotonic()
        if watch == "auto":
            watch = "table" if sys.stderr.isatty() else "lines"
        self._watch: Watch = watch if n_todo else "nothing"
        self._over = threading.Event()
        self._shown: Any = None
        self._said: tuple[object, ...] = ()
        self._said_s = -AGAIN_S

    def begun(self) -> None:
        """Count an episode that begins."""
        self._n_begun += 1

    def ended(self, episode: Episode, entry: str) -> None:
        """Count an episode that ended."""
        self._n_ended += 1
        count, read = self._counts[entry], row(episode)
        count.done += read.counts
        count.solved += read.counts and read.success
        count.failed += read.stop is Stop.FAILED

    def line(self) -> str:
        """Return the state in one line."""
        done, n, _, failed = self._total()
        parts = [f"{done} of {n} done", f"{self._running()} running"]
        parts += [f"{failed} failed"] if failed else []
        parts += [f"success {self._success(list(self._counts.values()))}", *self._spent()]
        left = self._left_s()
        return ", ".join([*parts, *([f"{_clock(left)} left"] if left is not None else [])])

    def table(self) -> Table:
        """Return the state as a table."""
        from rich.table import Table

        drawn = Table(title=f"{self._panel}: {', '.join([f'{self._running()} running', *self._spent()])}")
        drawn.add_column("entry")
        for name in ("done", "failed", "success"):
            drawn.add_column(name, justify="right")
        for name, count in self._counts.items():
            drawn.add_row(name, f"{count.done}/{count.n}", str(count.failed), self._success([count]))
        if len(self._counts) > 1:
            done, n, _, failed = self._total()
            drawn.add_section()
            drawn.add_row("all", f"{done}/{n}", str(failed), self._success(list(self._counts.values())))
        left = self._left_s()
        drawn.caption = f"{_clock(time.monotonic() - self._began)} so far" + (
            f", {_clock(left)} left" if left is not None else ""
        )
        return drawn

    def __enter__(self) -> Self:
        if self._watch == "table":
            from rich.console import Console
            from rich.live import Live as Screen

            self._shown = Screen(
                get_renderable=self.table,
                console=Console(stderr=True),
                refresh_per_second=REDRAWS_PER_S,
                transient=True,
            )
            self._shown.start()
        elif self._watch == "lines":
            self._shown = threading.Thread(target=self._tell, name="milepost-live", daemon=True)
            self._shown.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        if self._watch == "table":
            self._shown.stop()
        elif self._watch == "lines":
            self._shown.join()
            if self._n_ended:
                self._say()

    def _tell(self) -> None:
        while not self._over.wait(EVERY_S):
            state = (*self._total(), self._running(), *self._spent())
            if state != self._said or time.monotonic() - self._said_s >= AGAIN_S:
                self._said, self._said_s = state, time.monotonic()
                self._say()

    def _say(self) -> None:
        print(self.line(), file=sys.stderr, flush=True)

    def _total(self) -> tuple[int, int, int, int]:
        counts = list(self._counts.values())
        done, n, solved, failed = (sum(getattr(c, k) for c in counts) for k in ("done", "n", "solved", "failed"))
        return done, n, solved, failed

    def _running(self) -> int:
        return max(0, self._n_begun - self._n_ended)

    def _spent(self) -> list[str]:
        tokens = [f"{_short(self._meter.tokens)} tokens"] if self._meter.tokens else []
        return tokens + ([f"cost {self._meter.cost:.4g}"] if self._meter.priced else [])

    def _left_s(self) -> float | None:
        if not self._n_ended or self._n_ended < self._running():
            return None  # the first that end are the shortest
        return (time.monotonic() - self._began) / self._n_ended * (self._n_todo - self._n_ended)

    @staticmethod
    def _success(counts: Sequence[Count]) -> str:
        solved, done = sum(c.solved for c in counts), sum(c.done for c in counts)
        low, high = wilson(solved, done)
        return f"{100 * solved / done:.1f} % [{100 * low:.0f}, {100 * high:.0f}]" if done else "-"


def _short(number: int) -> str:
    return f"{number / 1e6:.1f} M" if number >= 1e6 else f"{number / 1e3:.1f} k" if number >= 1e4 else str(number)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
