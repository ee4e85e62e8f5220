"""The learning curve of runs as one picture; matplotlib is imported on use."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import gymnasium as gym

from milepost.envs.files import write_bytes
from milepost.envs.runs import read_metrics, read_run
from milepost.recipes.report.stats import wilson

METRICS = ("probe/success", "outcome/mean")
"""What is drawn when nothing is asked for: the first that a run has. The second is the noise of its training games."""


@dataclass(frozen=True)
class Curve:
    """One metric of one run over its updates."""

    name: str
    metric: str
    updates: list[float]
    values: list[float]
    low: list[float]
    """The interval's lower ends; empty where there is none."""
    high: list[float]


def curve(run: str | Path, metric: str | None = None, name: str | None = None) -> Curve:
    """Read one curve from a run folder.

    The interval is taken from ``<prefix>/low`` and ``<prefix>/high`` beside the metric, else it is Wilson's from
    ``<prefix>/n``; rows without the metric, or where it is not finite, are left out.

    Raises:
        ValueError: The run has no such metric.
    """
    path = Path(run)
    rows = read_metrics(path) if read_run(path) else []
    wanted = (metric,) if metric else METRICS
    found = next((m for m in wanted if any(_finite(row.get(m)) for row in rows)), None)
    if found is None:
        known = sorted({key for row in rows for key, value in row.items() if _finite(value) and key != "update"})
        raise ValueError(f"{path} has no metric {' or '.join(wanted)}; it has: {', '.join(known) or 'no metrics yet'}")
    kept = [row for row in rows if _finite(row.get(found)) and _finite(row.get("update"))]
    intervals = [_interval(row, found) for row in kept]
    whole = [i for i in intervals if i is not None] if None not in intervals else []
    return Curve(
        name=name or path.resolve().name,
        metric=found,
        updates=[row["update"] for row in kept],
        values=[row[found] for row in kept],
        low=[low for low, _ in whole],
        high=[high for _, high in whole],
    )


def plot(
    runs: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    metric: str | None = None,
) -> Path:
    """Draw the curves of one or several runs into one picture; return its file (by default ``curve.png`` in the first).

    Raises:
        ValueError: There is no run, or one has no such metric.
    """
    paths = [Path(runs)] if isinstance(runs, (str, Path)) else [Path(run) for run in runs]
    if not paths:
        raise ValueError("nothing to draw: expected at least one run folder")
    curves = [curve(path, metric, name) for path, name in zip(paths, _names(paths), strict=True)]
    file = Path(out) if out is not None else paths[0] / "curve.png"
    drawn = figure()
    axes = drawn.add_subplot()
    share = all(0 <= v <= 1 for c in curves for v in c.values)
    for c in curves:
        label = c.name if len({c.metric for c in curves}) == 1 else f"{c.name} ({c.metric})"
        few = len(c.values) <= 60
        (line,) = axes.plot(c.updates, c.values, label=label, linewidth=1.8, marker="o" if few else "", markersize=4)
        if c.low:
            axes.fill_between(c.updates, c.low, c.high, color=line.get_color(), alpha=0.15, linewidth=0)
    if share:
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        axes.set_ylim(0, min(1.02, 1.15 * max([*(v for c in curves for v in (*c.values, *c.high)), 0.1])))
    axes.set_xlabel("update")
    axes.set_ylabel(" / ".join(dict.fromkeys(c.metric for c in curves)))
    axes.set_title(_title(curves), fontsize=10)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if len(curves) > 1:
        axes.legend(frameon=False, fontsize=9)
    return save(drawn, file)


def save(drawn: Any, file: Path) -> Path:
    """Write a picture in the format of the file's suffix; the file is there whole or as it was before."""
    data = io.BytesIO()
    drawn.savefig(data, format=file.suffix[1:] or "png", dpi=150, bbox_inches="tight")
    file.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(file, data.getvalue())
    return file


def figure(size: tuple[float, float] = (7, 4.2)) -> Any:
    """Return an empty picture of this many inches; matplotlib is imported now."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise gym.error.DependencyNotInstalled("Curves need matplotlib: pip install 'milepost[train]'") from None
    made = Figure(figsize=size)
    FigureCanvasAgg(made)
    return made


def _title(curves: Sequence[Curve]) -> str:
    first = curves[0]
    what = {"probe/success": "success on the fixed probe games", "outcome/mean": "mean outcome of the training games"}
    band = ", band: 95 % interval" if any(c.low for c in curves) else ""
    head = f"{first.name}: " if len(curves) == 1 else ""
    return f"{head}{what.get(first.metric, first.metric)}{band}"


def _names(paths: Sequence[Path]) -> list[str]:
    """Return the folders' names, with their parent's where two are equal."""
    whole = [path.resolve() for path in paths]
    counts = Counter(path.name for path in whole)
    return [path.name if counts[path.name] == 1 else f"{path.parent.name}/{path.name}" for path in whole]


def _interval(row: dict[str, Any], metric: str) -> tuple[float, float] | None:
    prefix = metric.rpartition("/")[0]
    if not metric.endswith("/success"):
        return None
    low, high, n = (row.get(f"{prefix}/{key}") for key in ("low", "high", "n"))
    if _finite(low) and _finite(high):
        return float(low), float(high)
    return wilson(round(row[metric] * n), int(n)) if _finite(n) else None


def _finite(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and math.isfinite(value)
