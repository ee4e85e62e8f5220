"""Whether tasks are what they should be: solved by the oracle, and not by one who does nothing."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

from milepost.envs.files import append_line, cut_off
from milepost.envs.swe import bench, places
from milepost.envs.swe.build import twice
from milepost.envs.swe.env import SweEnv

_BEGIN = b'{"id": "'


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
    digest: str = ""
    """Of the task's row where it is from a file: another row of that id is another task."""

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
    digests = _digests(kwargs.get("tasks"))
    before = [row for row in (_read(out) if out else ()) if row.backend == backend and row.ok]
    known = {row.id: row for row in before if row.digest == digests.get(row.id, "")}
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
                    row = replace(twice(_verified, env, task), digest=digests.get(task, ""))
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
    """Yield what was found before; a last line that a killed process left unfinished is cut off.

    Raises:
        ValueError: The file holds something else, and is left as it is.
    """
    if path.is_dir():
        raise ValueError(f"{path}: expected a file for results, got a folder")
    if not path.exists():
        return
    *whole, rest = path.read_bytes().split(b"\n")
    for number, line in enumerate(whole, 1):
        try:
            yield Verified(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}, line {number}: expected a result of milepost swe verify: {error}") from None
    if not (rest.startswith(_BEGIN) or _BEGIN.startswith(rest)):
        raise ValueError(f"{path}, line {len(whole) + 1}: expected a result of milepost swe verify, got {rest[:40]!r}")
    cut_off(path)


def _digests(file: str | None) -> dict[str, str]:
    """Return what tells the rows of a file of tasks apart, by id."""
    rows = bench.read(Path(file)) if file else ()
    texts = {row.id: json.dumps(asdict(row), sort_keys=True, default=str) for row in rows}
    return {name: hashlib.blake2b(text.encode(), digest_size=8).hexdigest() for name, text in texts.items()}


def _append(path: Path | None, row: Verified) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        append_line(path, json.dumps(asdict(row)).encode())
