"""Pool the arms of the TextWorld study: does RL with credit per turn help beyond the warm-up, and against what?

One arm and seed is one command (see docs/benchmarks.md); ``python benchmarks/study.py add RUN`` keeps a finished run's
result as ``docs/benchmarks/<arm>-s<seed>.json``; ``python benchmarks/study.py`` prints the table of all that is there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from milepost.recipes.report.stats import mcnemar, paired, wilson

FOLDER = Path(__file__).parent.parent / "docs" / "benchmarks"


def arm_of(summary: dict[str, Any]) -> str:
    """Name what followed the warm-up: ``cloning``, or the credit and estimator of RL."""
    settings = summary["settings"]
    if settings["after"] == "cloning":
        return "cloning"
    return "-".join([*settings["credit"], summary.get("estimator", settings["estimator"])])


def add(run: Path) -> Path:
    """Keep a finished run: its summary, and which test games each stage solved."""
    summary = json.loads((run / "summary.json").read_text())
    stages = json.loads((run / "stages.json").read_text())
    solved = {name: stages[name]["solved"] for name in ("warmup", "trained")}
    games = sorted(solved["warmup"])
    summary["solved"] = {name: "".join("01"[by_game[g]] for g in games) for name, by_game in solved.items()}
    summary["games_in_order"] = f"{games[0]} .. {games[-1]}"
    for key in ("out", "warmup_of"):  # where it lay does not matter
        if summary["settings"][key]:
            summary["settings"][key] = Path(summary["settings"][key]).name
    target = FOLDER / f"{arm_of(summary)}-s{summary['seed']}.json"
    FOLDER.mkdir(exist_ok=True)
    target.write_text(json.dumps(summary, indent=1) + "\n")
    return target


def main() -> None:
    if sys.argv[1:2] == ["add"]:
        for run in sys.argv[2:]:
            print(add(Path(run)))
        return
    arms: dict[str, list[dict[str, Any]]] = {}
    for file in sorted(FOLDER.glob("*-s*.json")):
        result = json.loads(file.read_text())
        arms.setdefault(arm_of(result), []).append(result)
    table = Table(
        "arm", "seed", "games", "warm-up", "trained", "gain", "won", "lost", "p (exact)", "seconds after warm-up"
    )
    for arm, results in arms.items():
        before: list[bool] = []
        after: list[bool] = []
        for result in sorted(results, key=lambda r: r["seed"]):
            one, two = ([c == "1" for c in result["solved"][name]] for name in ("warmup", "trained"))
            before, after = before + one, after + two
            table.add_row(*_row(arm, str(result["seed"]), one, two), f"{result['seconds'].get('trained', 0):.0f}")
        if len(results) > 1:
            table.add_row(*_row(arm, "all", before, after), "", style="bold", end_section=True)
    Console(width=140).print(table)


def _row(arm: str, seed: str, before: list[bool], after: list[bool]) -> list[str]:
    change = paired(before, after)
    shares = []
    for solved in (before, after):
        low, high = wilson(sum(solved), len(solved))
        shares.append(f"{100 * sum(solved) / len(solved):.1f} [{100 * low:.0f}, {100 * high:.0f}]")
    gain = f"{100 * change.gain:+.1f} [{100 * change.low:+.1f}, {100 * change.high:+.1f}]"
    return [
        arm,
        seed,
        str(len(before)),
        *shares,
        gain,
        str(change.won),
        str(change.lost),
        f"{mcnemar(change.lost, change.won):.2g}",
    ]


if __name__ == "__main__":
    main()
