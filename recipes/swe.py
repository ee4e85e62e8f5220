"""The command ``milepost swe build``: make software-engineering tasks of real packages."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from milepost.envs.names import did_you_mean
from milepost.recipes.console import parse

USAGE = """usage: milepost swe COMMAND ...

  build   --out FILE [flags]      put bugs into packages, run their tests, keep what makes a task
"""


@dataclass
class BuildArgs:
    """Put bugs into packages, run their tests without and with each, and write those that make a task.

    What was found out is kept in the user's cache: a build that was stopped goes on where it was.
    """

    out: Path
    """Write the tasks there, as JSON lines."""
    n: int = 500
    """Tasks in all, as many of each package."""
    packages: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """A package; may be given several times. Without it, all."""
    split: str | None = None
    """Only packages of this split: train, valid or test."""
    backend: str = "auto"
    """Where tests run: auto (docker or bubblewrap), docker, bubblewrap, landlock, or local, which isolates nothing."""
    jobs: int = 2
    """Bugs that are tried at the same time."""
    seed: int = 0
    """Another one gives other tasks."""
    json: bool = False
    """Print JSON for a machine."""


def command(argv: Sequence[str]) -> int:
    """Build tasks."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if argv else 2
    if argv[0] != "build":
        raise ValueError(f"no command 'swe {argv[0]}'{did_you_mean(argv[0], ['build'])}; there is build")
    return _build(parse(BuildArgs, argv[1:], prog="milepost swe build"))


def _build(args: BuildArgs) -> int:
    for name in ("n", "jobs"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name}: expected at least 1, got {getattr(args, name)}")
    if args.seed < 0:
        raise ValueError(f"--seed: expected at least 0, got {args.seed}")
    from milepost.envs.swe.build import build
    from milepost.envs.swe.packages import packages
    from milepost.envs.swe.tasks import write

    start = time.monotonic()
    chosen = packages(args.packages, args.split)
    if not chosen:
        raise ValueError(f"--packages: none of them is in the split {args.split!r}")
    built = build(
        args.n,
        chosen,
        backend=args.backend,
        jobs=args.jobs,
        seed=args.seed,
        after_round=lambda tasks: write(args.out, tasks),
    )
    report: dict[str, Any] = {
        "out": str(args.out),
        "n": len(built.tasks),
        "seconds": round(time.monotonic() - start, 1),
        **{name: dict(Counter(getattr(task, name) for task in built.tasks)) for name in ("split", "package", "level")},
        "operator": dict(Counter(edit.operator for task in built.tasks for edit in task.edits).most_common()),
        "rejected": dict(built.rejected.most_common()),
        "short": built.short,
    }
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        for name, value in report.items():
            counts = ", ".join(f"{key} {count}" for key, count in value.items()) if isinstance(value, dict) else value
            print(f"{name:<10}{counts}")
    for name, missing in built.short.items():
        print(f"milepost: {name}: {missing} tasks fewer than asked for", file=sys.stderr)
    return 1 if built.short else 0
