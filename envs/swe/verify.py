"""Whether tasks are what they should be: solved by the oracle, and not by one who does nothing."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from milepost.envs.files import append_line, cut_off
from milepost.envs.swe import places
from milepost.envs.swe.build import twice
from milepost.envs.swe.env import SweEnv


@dataclass(frozen=True)
class Verified:
    """How a task was found."""

    id: str
    backend: str
    oracle: str
    """The result of the oracle's submission; ``none`` where there is no such task here."""
    idle: str
    """The result of one who submits at once."""
    seconds: float
    why: str = ""
    """What went wrong, where something did."""

    @property
    def ok(self) -> bool:
        """Whether the oracle solved it, and who did nothing did not."""
        return self.oracle == "resolved" and self.idle not in ("resolved", "none")


def verify(ids: Sequence[str], *, jobs: int = 2, out: Path | None = None, **kwargs: Any) -> list[Verified]:
    """Play every task twice, with a progress bar where someone watches.

    Args:
        ids: The tasks.
        jobs: Tasks that are played at the same time.
        out: Results are added to this file as they come, and what it has of a task that is right is not played again.
        kwargs: Of ``SweEnv``.

    Raises:
        ValueError: The file has a line that is no result; or see ``SweEnv``.
        MachineError: A sandbox broke twice; what was found out is kept.
    """
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    backend = places.found(kwargs.get("backend", "auto"))
    known = {row.id: row for row in (_read(out) if out else ()) if row.backend == backend and row.ok}
    found, left, lock = dict(known), [one for one in ids if one not in known], threading.Lock()
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        watched = bar.add_task("tasks", total=len(ids), completed=len(ids) - len(left))
        queue = iter(left)

        def work() -> None:
            with closing(SweEnv(**kwargs)) as env:
                while True:
                    with lock:
                        task = next(queue, None)
                    if task is None:
                        return
                    row = twice(_verified, env, task)
                    with lock:
                        found[task] = row
                        _append(out, row)
                        bar.advance(watched)

        pool = ThreadPoolExecutor(jobs, "swe-verify")
        try:
            for one in [pool.submit(work) for _ in range(jobs)]:
                one.result()
        finally:
            queue = iter(())
            pool.shutdown()
    return [found[one] for one in ids]


def _verified(env: SweEnv, task: str) -> Verified:
    start = monotonic()
    try:
        env.reset(options={"task": task})
    except ValueError as error:
        return Verified(task, env.backend, "none", "none", round(monotonic() - start, 2), str(error))
    idle = _result(env, env.oracle()[-1:])
    env.reset(options={"task": task})
    oracle = _result(env, env.oracle())
    return Verified(task, env.backend, oracle, idle, round(monotonic() - start, 2))


def _result(env: SweEnv, moves: Sequence[str]) -> str:
    info: dict[str, Any] = {}
    for move in moves:
        *_, info = env.step(move)
    return str(info.get("result", "no_submission"))


def _read(path: Path) -> Iterator[Verified]:
    """Yield what was found before; a last line that a killed process left unfinished is cut off."""
    if not path.exists():
        return
    cut_off(path)
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            yield Verified(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}, line {number}: expected a result of milepost swe verify: {error}") from None


def _append(path: Path | None, row: Verified) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        append_line(path, json.dumps(asdict(row)).encode())
