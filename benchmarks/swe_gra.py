"""Run the study of recipes/swe_gra.py: three methods, three seeds, equal budget, one warm-up for all methods of a seed.

    python benchmarks/swe_gra.py --runs runs/swe_gra        nine arms, two at a time, one core each; goes on if stopped
    python benchmarks/swe_gra.py                            the table and the picture of what is kept

An arm is one command, which is printed. Its result is kept as docs/benchmarks/swe_gra/<method>-s<seed>.json when it
ends (``<method>-w<weight>-s<seed>`` where ``--step-weight`` is not 0.1); what is kept already is not run again, but
read anew where its run folder is there. The arm that makes a seed's warm-up is run first where another needs it.
Further flags go to every arm, and their results into a folder of their own: ``--methods dra --step-weights 0.5
--runs runs/short --keep runs/short -- --updates 4``.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import tyro
from rich.console import Console
from rich.table import Table

from milepost.envs.runs import differences, read_run, write_json
from milepost.recipes.guide import plain
from milepost.recipes.report import arms
from milepost.recipes.swe_gra import Args as RecipeArgs

FOLDER = Path(__file__).parent.parent / "docs" / "benchmarks" / "swe_gra"
FIRST = "gra"
"""The method whose run makes a seed's warm-up."""
LAST = 5
"""Updates at each end of a run that the table compares."""
VARIED = ("method", "credit", "seed", "step_weight")
"""Settings in which arms differ."""


@dataclass
class Args:
    """Run arms that are missing, then show all that are kept."""

    runs: Path | None = None
    """Folder of the run folders; without it nothing is run."""
    keep: Path = FOLDER
    """Folder of the results; all in it were run with the same flags."""
    methods: tuple[str, ...] = ("gra", "dra", "outcome")
    seeds: tuple[int, ...] = (0, 1, 2)
    step_weights: tuple[float, ...] = (RecipeArgs.step_weight,)
    jobs: int = 2
    """Arms at the same time."""


class Arm(NamedTuple):
    """One run."""

    method: str
    seed: int
    weight: float

    @property
    def name(self) -> str:
        """Return what its folder and its result are called."""
        weight = "" if self.weight == RecipeArgs.step_weight else f"-w{self.weight:g}"
        return f"{self.method}{weight}-s{self.seed}"

    @property
    def first(self) -> Arm:
        """Return the arm that makes the warm-up of its seed."""
        return Arm(FIRST, self.seed, RecipeArgs.step_weight)


def main(args: Args, flags: Sequence[str]) -> None:
    """Run what is missing, keep results as they come, draw."""
    asked = [Arm(m, s, w) for w in args.step_weights for m in args.methods for s in args.seeds]
    todo = [] if args.runs is None else plan(asked, args.runs, args.keep)
    if todo:
        refuse_others(args.keep, plain(tyro.cli(RecipeArgs, args=flags)))
    begun: dict[Arm, Future[None]] = {}
    with ThreadPoolExecutor(args.jobs) as pool:
        for arm in todo:
            begun[arm] = pool.submit(run, arm, args, flags, begun.get(arm.first))
        for done in begun.values():
            done.result()
    for arm in asked if args.runs is not None else ():
        if arm not in todo and (args.runs / arm.name / "summary.json").exists():
            keep(arm, args)
    show(args.keep)


def plan(asked: Sequence[Arm], runs: Path, kept: Path) -> list[Arm]:
    """Return the arms without a result, behind those that make a warm-up which they need and which is not there."""
    todo = [arm for arm in asked if not (kept / f"{arm.name}.json").exists()]
    firsts = [arm.first for arm in todo if arm == arm.first or not (runs / arm.first.name / "warmup").exists()]
    return list(dict.fromkeys([*firsts, *todo]))


def refuse_others(kept: Path, settings: dict[str, Any]) -> None:
    """Raise a ValueError where a kept result has other settings."""
    for file in sorted(kept.glob("*-s*.json")):
        if told := changed(json.loads(file.read_text())["settings"], settings):
            raise ValueError(f"{file} has other settings: {told}; keep these results elsewhere, with --keep FOLDER")


def changed(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """Tell in which settings two arms differ that should share them; one that a run does not name was the default."""
    default = plain(RecipeArgs())
    found = differences(_shared(default | theirs), _shared(default | ours))
    return "; ".join(f"{name} is {was!r} there, {now!r} here" for name, was, now in found)


def run(arm: Arm, args: Args, flags: Sequence[str], first: Future[None] | None) -> None:
    """Run an arm to its end, from the warm-up of its seed, and keep its result."""
    assert args.runs is not None
    warm, out = args.runs / arm.first.name, args.runs / arm.name
    if (out / "run.json").exists() and (there := read_run(out)).status == "finished":
        if told := changed(there.settings, plain(tyro.cli(RecipeArgs, args=flags))):
            raise ValueError(f"{out} was run with other settings: {told}; name another folder, with --runs FOLDER")
        keep(arm, args)
        return
    if first and not (warm / "warmup").exists():
        first.result()
    command = ["--method", arm.method, "--seed", str(arm.seed), "--step-weight", str(arm.weight), "--out", str(out)]
    command += ([] if arm == arm.first else ["--warmup-of", str(warm)]) + [*flags]
    command += ["--resume"] if (out / "run.json").exists() else []
    print("milepost train swe_gra", shlex.join(command), flush=True)
    args.runs.mkdir(parents=True, exist_ok=True)
    with (args.runs / f"{arm.name}.log").open("a") as log:
        words = [sys.executable, "-m", "milepost.recipes.swe_gra", *command]
        one = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        code = subprocess.run(words, stdout=log, stderr=log, env={**os.environ, **one}, check=False).returncode
    if code or read_run(out).status != "finished":
        raise RuntimeError(f"{arm.name} ended with {code}; see {args.runs / arm.name}.log")
    keep(arm, args)


def keep(arm: Arm, args: Args) -> None:
    """Write the result of an arm that has come to its end."""
    assert args.runs is not None
    result = arms.read(args.runs / arm.name)
    refuse_others(args.keep, result["settings"])
    args.keep.mkdir(parents=True, exist_ok=True)
    write_json(args.keep / f"{arm.name}.json", result)


def show(folder: Path) -> None:
    """Print the table of all results that are kept, and draw those of the usual weight."""
    kept = [json.loads(file.read_text()) for file in sorted(folder.glob("*-s*.json"))]
    if not kept:
        print(f"nothing is kept in {folder}")
        return
    order = ("gra", "dra", "outcome")
    kept.sort(key=lambda r: (r["settings"]["step_weight"], order.index(r["method"]), r["seed"]))
    usual = [result for result in kept if result["settings"]["step_weight"] == RecipeArgs.step_weight]
    if usual:
        print(arms.draw(usual, folder / "swe_gra.png"))
    names = ("paid", "stepwise", "outcome", "completion", "modification", "resolution")
    table = Table("method", "weight", "seed", *names, *(f"test {rate}" for rate in arms.RATES), "seconds")
    groups: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for result in kept:
        groups.setdefault((result["method"], result["settings"]["step_weight"]), []).append(result)
    for (method, weight), results in groups.items():
        for result in results:
            table.add_row(method, f"{weight:g}", str(result["seed"]), *_cells([result], names))
        if len(results) > 1:
            table.add_row(method, f"{weight:g}", "all", *_cells(results, names), style="bold", end_section=True)
    print(f"in training: mean of the first {LAST} updates > mean of the last {LAST}; test: warm-up > trained")
    Console(width=200).print(table)


def _shared(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in (*VARIED, *arms.PLACES)}


def _cells(results: Sequence[dict[str, Any]], names: Sequence[str]) -> list[str]:
    pairs: list[tuple[list[float], list[float]]] = []
    for name in names:
        rows = [known for r in results if (known := [row[name] for row in r["updates"] if name in row])]
        pairs.append(([fmean(row[:LAST]) for row in rows], [fmean(row[-LAST:]) for row in rows]))
    for rate in arms.RATES:
        before, after = ([r["test"][stage].get(rate, 0.0) for r in results] for stage in ("warmup", "trained"))
        pairs.append((before, after))
    cells = [f"{fmean(before):.2f} > {fmean(after):.2f}" if before else "-" for before, after in pairs]
    return [*cells, f"{fmean(r['seconds'].get('trained', 0.0) for r in results):.0f}"]


if __name__ == "__main__":
    own, _, more = " ".join(map(shlex.quote, sys.argv[1:])).partition(" -- ")
    main(tyro.cli(Args, args=shlex.split(own)), shlex.split(more))
