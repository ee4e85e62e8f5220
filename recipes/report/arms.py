"""Several methods from one start, as one picture: what each update earned, and what became of episodes.

A result is what is kept of one run: ``{"method", "seed", "updates": [{"update", "paid", "stepwise", "outcome", ...}],
"test": {"warmup": {"completion", ...}, "trained": {...}}, ...}``. ``paid`` is what an episode's turns earned by the
run's own method, the outcome included; results that were kept before have none.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from milepost.envs.runs import read_metrics, read_run
from milepost.recipes.report.plot import figure, save

Result = dict[str, Any]
REWARDS = {
    "paid": "paid by the method, with the outcome",
    "stepwise": "stepwise, before any gate",
    "outcome": "outcome",
}
RATES = ("completion", "modification", "resolution")
PREFIX = "swe/"
SMOOTH = 3
"""Updates that a point of a curve is the mean of: a batch has few bugs, and some are harder."""
PLACES = ("out", "warmup_of", "resume")
"""Settings that say where a run lay."""


def read(run: str | Path) -> Result:
    """Return the result of a finished run.

    Raises:
        ValueError: It has not come to its end.
    """
    path = Path(run)
    if not read_run(path).status == "finished":
        raise ValueError(f"{path} is not finished")
    summary = json.loads((path / "summary.json").read_text("utf-8"))
    settings = {key: value for key, value in summary["settings"].items() if key not in PLACES}
    paid = f"credit/{settings['method']}/total"
    rows = [
        {"update": i, "seconds": round(row["time/update_s"], 1), "paid": round(row[paid], 4)}
        | {key.removeprefix(PREFIX): round(row[key], 4) for key in row if key.startswith(PREFIX)}
        for i, row in enumerate(row for row in read_metrics(path) if f"{PREFIX}outcome" in row)
    ]
    return {
        "method": settings["method"],
        "seed": settings["seed"],
        "updates": rows,
        "test": {name: stage.get("measured", {}) for name, stage in summary["stages"].items()},
        "seconds": summary["seconds"],
        "settings": settings,
        "versions": summary["versions"],
    }


def draw(results: Sequence[Result], file: Path) -> Path:
    """Draw rewards by update and rates before and after, a colour a method: the mean over seeds and their range.

    Raises:
        ValueError: There is no result.
    """
    if not results:
        raise ValueError("nothing to draw: expected at least one result")
    picture = figure((14.5, 3.6))
    axes = picture.subplots(1, len(REWARDS) + 1)
    methods = list(dict.fromkeys(result["method"] for result in results))
    for at, method in enumerate(methods):
        runs = [result for result in results if result["method"] == method]
        colour = f"C{at}"
        for ax, name in zip(axes, REWARDS, strict=False):
            rows = [_smooth([row[name] for row in run["updates"] if name in row]) for run in runs]
            columns = [[row[i] for row in rows if i < len(row)] for i in range(max(map(len, rows)))]
            middle = [fmean(column) for column in columns]
            label = f"{method} ({len(runs)} seeds)" if len(runs) > 1 else method
            ax.plot(range(len(middle)), middle, color=colour, label=label, linewidth=1.8)
            ax.fill_between(
                range(len(middle)), [*map(min, columns)], [*map(max, columns)], color=colour, alpha=0.15, linewidth=0
            )
        _rates(axes[-1], runs, at, len(methods), colour)
    for ax, told in zip(axes, REWARDS.values(), strict=False):
        ax.set_title(told, fontsize=9)
        ax.set_ylabel("an episode", fontsize=8)
        ax.set_xlabel(f"update (mean of {SMOOTH})", fontsize=8)
        ax.legend(frameon=False, fontsize=8)
    axes[-1].set_title("held-out bugs: before (light) and after", fontsize=9)
    axes[-1].set_xticks(range(len(RATES)), RATES, fontsize=8)
    axes[-1].set_ylim(0, 1)
    axes[-1].yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    for ax in axes:
        ax.grid(alpha=0.25)
        ax.tick_params(labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    return save(picture, file)


def _rates(ax: Any, runs: Sequence[Result], at: int, n: int, colour: str) -> None:
    """Draw a pair of bars a rate: of the warm-up, and of what was trained from it."""
    width = 0.8 / (2 * n)
    for place, rate in enumerate(RATES):
        for i, stage in enumerate(("warmup", "trained")):
            shares = [run["test"][stage][rate] for run in runs if rate in run["test"].get(stage, {})]
            if shares:
                x = place - 0.4 + width * (2 * at + i + 0.5)
                spread = [[fmean(shares) - min(shares)], [max(shares) - fmean(shares)]]
                ax.bar(x, fmean(shares), 0.9 * width, color=colour, alpha=(0.35, 1.0)[i], yerr=spread, ecolor="0.4")


def _smooth(values: Sequence[float]) -> list[float]:
    """Return the mean of each value and of those before it, ``SMOOTH`` at most."""
    return [fmean(values[max(0, i - SMOOTH + 1) : i + 1]) for i in range(len(values))]
