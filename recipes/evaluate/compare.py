"""``milepost compare A B``: two runs on the tasks that both played, attempt by attempt."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from milepost.envs.runs import differences
from milepost.recipes.console import parse, printer
from milepost.recipes.evaluate.results import Results, read_results
from milepost.recipes.evaluate.scores import Row
from milepost.recipes.report.stats import Paired, paired

N_RESAMPLES = 10_000
N_TOLD = 5
"""So many differences of settings are told."""


@dataclass(frozen=True)
class Difference:
    """A mean of B minus A, with the interval (95 %) of a paired bootstrap over tasks."""

    n: int
    tasks: int
    a: float
    b: float
    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class Compared:
    """Two runs on what both played: success by exact McNemar, and success and outcome by bootstrap over tasks."""

    n: int
    """Attempts that count in both runs."""
    success: Paired
    """Attempt by attempt: exact where each task is played once."""
    success_by_task: Difference
    """The same difference with an interval that knows that attempts at one task go together."""
    outcome: Difference | None


@dataclass
class CompareArgs:
    """Compare two runs of ``milepost eval`` on the attempts that both played: what B gained over A."""

    a: Annotated[Path, tyro.conf.Positional]
    """Folder of the run to compare with."""
    b: Annotated[Path, tyro.conf.Positional]
    """Folder of the other run."""
    json: bool = False
    """Print JSON for a machine."""


def command(argv: Sequence[str]) -> int:
    """Print the comparison of two runs."""
    args = parse(CompareArgs, argv, prog="milepost compare")
    a, b = read_results(args.a), read_results(args.b)
    unlike, told = warnings(a, b), compare(a, b)
    if args.json:
        runs = {name: {"run": str(r.path), "agent": r.agent, "digest": r.digest} for name, r in (("a", a), ("b", b))}
        entries = {name: asdict(row) for name, row in told.items()}
        print(json.dumps({**runs, "comparable": not unlike, "warnings": unlike, "entries": entries}, indent=2))
    else:
        _print(a, b, unlike, told)
    return 0


def compare(a: Results, b: Results) -> dict[str, Compared]:
    """Return the comparison by entry of the panel, and of ``all``, where both runs have something that counts.

    Raises:
        ValueError: They have nothing in common.
    """
    ours, theirs = ({(row.group, row.attempt): row for row in run.rows if row.counts} for run in (a, b))
    pairs = [(row, theirs[key]) for key, row in ours.items() if key in theirs]
    if not pairs:
        raise ValueError(f"{a.path} and {b.path} have no attempt at a task in common that counts in both")
    entries = {name: [pair for pair in pairs if pair[0].entry == name] for name in a.entries}
    told = {name: _compared(some) for name, some in entries.items() if some}
    return told if len(told) == 1 else told | {"all": _compared(pairs)}


def warnings(a: Results, b: Results) -> list[str]:
    """Return why the numbers of the two runs do not mean the same; nothing where their digests are equal."""
    found = []
    if a.digest != b.digest:
        unlike = differences(a.pinned, b.pinned)
        told = [f"{name} ({_short(ours)} and {_short(theirs)})" for name, ours, theirs in unlike]
        told = [*told[:N_TOLD], *([f"and {len(told) - N_TOLD} more"] if len(told) > N_TOLD else [])]
        found.append(f"not the same panel, versions and settings: {', '.join(told)}; compared is what both played")
    for run in (a, b):
        if not run.complete:
            score = run.overall
            found.append(f"{run.path} is not complete: {score.failed} failed, {score.missing} missing of {score.n}")
    return found


def bootstrap(pairs: Sequence[tuple[str, float, float]], seed: int = 0) -> Difference:
    """Return the mean difference of ``(task, a, b)`` with the percentile interval of resampled tasks.

    Whole tasks are drawn with replacement, their attempts with them; with one task the interval is the number itself.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13; of clusters: Field and Welsh 2007.
    """
    places: dict[str, int] = {}
    at = np.array([places.setdefault(task, len(places)) for task, _, _ in pairs])
    a, b = (np.array([pair[side] for pair in pairs], float) for side in (1, 2))
    sums, counts = np.bincount(at, b - a), np.bincount(at).astype(float)
    rng, means = np.random.default_rng(seed), []
    for _ in range(10):  # in parts, as each holds tasks x resamples numbers
        drawn = rng.multinomial(len(places), np.full(len(places), 1 / len(places)), N_RESAMPLES // 10)
        means.append(drawn @ sums / (drawn @ counts))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    difference = float(np.mean(b - a))
    return Difference(len(pairs), len(places), float(a.mean()), float(b.mean()), difference, float(low), float(high))


def _compared(pairs: Sequence[tuple[Row, Row]]) -> Compared:
    scored = [(x.group, x.outcome, y.outcome) for x, y in pairs if x.outcome is not None and y.outcome is not None]
    return Compared(
        n=len(pairs),
        success=paired([x.success for x, _ in pairs], [y.success for _, y in pairs]),
        success_by_task=bootstrap([(x.group, float(x.success), float(y.success)) for x, y in pairs]),
        outcome=bootstrap(scored) if scored else None,
    )


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value) if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _print(a: Results, b: Results, unlike: Sequence[str], told: dict[str, Compared]) -> None:
    from rich.table import Table

    console = printer()
    for line in unlike:
        console.print(f"warning: {line}", soft_wrap=True)
    drawn = Table(title="B against A on the attempts that both played, in points, 95 %")
    drawn.add_column("entry", overflow="fold")
    widths = {"n": 1, "A": 5, "B": 5, "success B - A": 8, "won": 3, "lost": 4, "p": 1, "outcome B - A": 7}
    for name, width in widths.items():  # no number is cut, however narrow the terminal
        drawn.add_column(name, justify="right", min_width=width)
    for name, row in told.items():
        if name == "all" and len(told) > 1:
            drawn.add_section()
        share, success, mean = row.success_by_task, row.success, row.outcome
        gain = f"{100 * success.gain:+.1f} [{100 * success.low:+.1f}, {100 * success.high:+.1f}]"
        if share.tasks < share.n:
            gain += f" over tasks [{100 * share.low:+.1f}, {100 * share.high:+.1f}]"
        cells = [f"{100 * share.a:.1f} %", f"{100 * share.b:.1f} %", gain]
        cells += [str(success.won), str(success.lost), f"{success.p:.2g}"]
        worth = "-" if mean is None else f"{mean.difference:+.2f} [{mean.low:+.2f}, {mean.high:+.2f}]"
        drawn.add_row(name.removeprefix("milepost/"), str(row.n), *cells, worth)
    console.print(drawn)
    for letter, run in (("A", a), ("B", b)):
        console.print(f"{letter}: {run.agent['agent']}, {run.path}, digest {run.digest}", soft_wrap=True)
