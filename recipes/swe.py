"""``milepost swe build | verify``: make software-engineering tasks of real packages, and see whether they are right."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from milepost.envs.names import did_you_mean
from milepost.recipes.console import parse, printer

if TYPE_CHECKING:
    from milepost.envs.swe.verify import Verified

USAGE = """usage: milepost swe COMMAND ...

  build   --out FILE [flags]      put bugs into packages, run their tests, keep what makes a task
  verify  [flags]                 play tasks by the oracle, and by one who does nothing
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
    allow: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """A limit that may go unenforced where the backend cannot enforce it, as landlock the disk; several times."""
    jobs: int = 2
    """Bugs that are tried at the same time."""
    seed: int = 0
    """Another one gives other tasks."""
    json: bool = False
    """Print JSON for a machine."""


@dataclass
class VerifyArgs:
    """Play tasks by the oracle, which must solve all of them, and by one who submits at once, who must solve none.

    The exit code is 1 where it is otherwise.
    """

    tasks: Path | None = None
    """The tasks of this file, ours or in the form of SWE-bench; without it, those of the default list."""
    split: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """Only tasks of this split; may be given several times. Without it, all."""
    packages: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """Only tasks of this package; may be given several times."""
    backend: str = "auto"
    """Where they are played and graded."""
    allow: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """A limit that may go unenforced where the backend cannot enforce it; may be given several times."""
    jobs: int = 2
    """Tasks that are played at the same time."""
    out: Path | None = None
    """Add results to this file as they come; what it has already is not played again."""
    json: bool = False
    """Print JSON for a machine."""


def command(argv: Sequence[str]) -> int:
    """Build tasks, or verify them."""
    commands = {"build": _build, "verify": _verify}
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if argv else 2
    if argv[0] not in commands:
        raise ValueError(f"no command 'swe {argv[0]}'{did_you_mean(argv[0], commands)}; there is build, verify")
    return commands[argv[0]](argv[1:])


def _build(argv: Sequence[str]) -> int:
    args = parse(BuildArgs, argv, prog="milepost swe build")
    for name in ("n", "jobs"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name}: expected at least 1, got {getattr(args, name)}")
    if args.seed < 0:
        raise ValueError(f"--seed: expected at least 0, got {args.seed}")
    if args.out.suffix != ".jsonl" or args.out.is_dir():
        raise ValueError(f"--out {args.out}: expected a file that ends in .jsonl")
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
        allow=args.allow,
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


def _verify(argv: Sequence[str]) -> int:
    args = parse(VerifyArgs, argv, prog="milepost swe verify")
    if args.jobs < 1:
        raise ValueError(f"--jobs: expected at least 1, got {args.jobs}")
    from milepost.envs.swe.env import SweEnv
    from milepost.envs.swe.packages import SPLITS
    from milepost.envs.swe.verify import verify

    start = time.monotonic()
    file = None if args.tasks is None else str(args.tasks)
    kwargs: dict[str, Any] = {"tasks": file, "packages": args.packages, "backend": args.backend, "allow": args.allow}
    with closing(SweEnv(**kwargs)) as env:
        ids = list(dict.fromkeys(one for split in args.split or SPLITS for one in env.tasks(split)))
    if not ids:
        raise ValueError(f"{file or 'the default list'}: there is no such task")
    rows = verify(ids, jobs=args.jobs, out=args.out, **kwargs)
    bad = [row for row in rows if not row.ok]
    report = {
        "backend": rows[0].backend,
        "n": len(rows),
        "oracle_resolved": sum(row.oracle == "resolved" for row in rows),
        "idle_resolved": sum(row.idle == "resolved" for row in rows),
        "seconds": round(time.monotonic() - start, 1),
        "seconds_a_task": round(sum(row.seconds for row in rows) / len(rows), 2),
        "wrong": [asdict(row) for row in bad],
    }
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        _print(rows, report)
    return 1 if bad else 0


def _print(rows: Sequence[Verified], report: Mapping[str, Any]) -> None:
    from rich.table import Table

    table = Table("package", "tasks", "oracle resolves", "idle resolves", "seconds a task")
    by_package = defaultdict(list)
    for row in rows:
        by_package[row.id.partition(":")[0]].append(row)
    for name, some in {**by_package, "all": rows}.items():
        counts = len(some), *(sum(getattr(row, who) == "resolved" for row in some) for who in ("oracle", "idle"))
        table.add_row(name, *map(str, counts), f"{sum(row.seconds for row in some) / len(some):.2f}")
    printer().print(table)
    print(f"backend {report['backend']}, {report['seconds']} s")
    for row in report["wrong"]:
        print(f"WRONG  {row['id']}: oracle {row['oracle']}, idle {row['idle']} {row['why']}".rstrip())
