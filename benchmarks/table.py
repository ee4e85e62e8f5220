"""Rows of a benchmark in which contenders take turns, as a table and as JSON, for ``benchmarks/sandbox.py``."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

PAUSE_S = 0.1
"""Before each job: engine and kernel go on tidying up for a while."""

BACKENDS = ("bubblewrap", "docker")
"""What others are compared with."""


class Row(NamedTuple):
    """A figure: the least (of rates the highest) and the median of some repeats."""

    part: str
    what: str
    who: str
    best: float
    median: float
    unit: str = "ms"
    n: int = 1


class Target(NamedTuple):
    """What a figure is to be."""

    what: str
    got: float
    holds: bool


def timed(job: Callable[[], Any]) -> float:
    """Return how long a job took, in milliseconds."""
    start = time.perf_counter()
    job()
    return (time.perf_counter() - start) * 1e3


def in_turn(jobs: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Let contenders take turns; return the figures that each job gives. The first round is not counted."""
    found: dict[str, list[float]] = {who: [] for who in jobs}
    for n in range(repeats + 1):
        for who, job in jobs.items():
            time.sleep(PAUSE_S)
            figure = job()
            if n:
                found[who].append(figure)
    return found


def rounds(part: str, what: str, jobs: Mapping[str, Callable[[], float]], repeats: int) -> list[Row]:
    """Return rows of contenders that take turns; a job returns its own milliseconds."""
    return [row(part, what, who, took) for who, took in in_turn(jobs, repeats).items()]


def row(part: str, what: str, who: str, found: list[float], unit: str = "ms") -> Row:
    """Return the row of some figures."""
    best = max(found) if unit == "/s" else min(found)
    return Row(part, what, who, best, median(found), unit, len(found))


def machine() -> dict[str, Any]:
    """Return what the figures were measured on, and what else it did just now."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cores": len(os.sched_getaffinity(0)),
        "cpu": model,
        "system": platform.platform(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
    }


def markdown(rows: Iterable[Row], targets: Iterable[Target]) -> str:
    """Return the table; the last columns say how many times as slow as we a contender is, by medians."""
    rows = list(rows)
    ours = {(one.part, one.what, one.who): one.median for one in rows if one.who in BACKENDS}
    out = ["| what | who | best | median | n | x bubblewrap | x docker |", "| --- | --- |" + " ---: |" * 5]
    said = ""
    for one in rows:
        cells = []
        for backend in BACKENDS:
            base = None if one.who in BACKENDS else ours.get((one.part, one.what, backend))
            times = base and (base / one.median if one.unit == "/s" else one.median / base)
            cells.append(f"{times:.3g}" if times else "")
        what, said = ("" if one.what == said else one.what), one.what
        out.append(
            f"| {what} | {one.who} | {one.best:.4g} | {one.median:.4g} {one.unit} | {one.n} | {' | '.join(cells)} |"
        )
    out += ["", "| target | measured | |", "| --- | ---: | --- |"]
    out += [f"| {one.what} | {one.got:.4g} | {'holds' if one.holds else '**missed**'} |" for one in targets]
    return "\n".join(out)


def as_json(about: Mapping[str, Any], rows: Iterable[Row], targets: Iterable[Target]) -> str:
    """Return the same as one object."""
    found = {**about, "rows": [one._asdict() for one in rows], "targets": [one._asdict() for one in targets]}
    return json.dumps(found, indent=1) + "\n"


def progress(rows: Iterable[Row]) -> None:
    """Show rows as they come."""
    for one in rows:
        print(f"{one.what:46} {one.who:28} {one.best:10.1f} {one.median:10.1f} {one.unit}", file=sys.stderr, flush=True)
