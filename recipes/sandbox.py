"""``milepost sandbox list | attack | clean``: what isolates commands here, whether it holds, and what it left."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from milepost.agents.progress import bar
from milepost.envs.names import did_you_mean
from milepost.recipes.console import parse


@dataclass
class ListArgs:
    """List the sandboxes that are there, with what each enforces."""

    json: bool = False
    """Print JSON for a machine."""


@dataclass
class AttackArgs:
    """Attack a sandbox; exit code 1 when something is not refused that the backend is to refuse."""

    backend: str = "auto"
    """``docker``, ``bubblewrap``, ``landlock``, or ``auto``: docker where an engine answers, else bubblewrap."""
    only: tuple[str, ...] = ()
    """Names of attacks; without it, all."""
    controls: bool = False
    """Play each where what refuses it is missing, instead, in a sandbox around that one: it is to succeed."""
    json: bool = False
    """Print JSON for a machine: a list of ``name``, ``refused``, ``detail``."""


@dataclass
class CleanArgs:
    """Remove what crashed processes left, which a start of a sandbox does as well, and bases that nobody asks for."""

    days: float = 30.0
    """How long a base may go without being asked for; 0 removes all that no living process uses."""
    json: bool = False
    """Print JSON for a machine: a list of what was removed."""


def command(argv: Sequence[str]) -> int:
    """Run ``milepost sandbox``."""
    commands = {"list": list_, "attack": attack, "clean": clean}
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: milepost sandbox list [--json] | attack [--backend B] [--only NAME ...] [--controls] [--json]")
        print("                        clean [--days N] [--json]")
        return 0 if argv else 2
    if argv[0] not in commands:
        near = did_you_mean(argv[0], commands)
        raise ValueError(f"milepost sandbox: no command {argv[0]!r}{near}; there are: {', '.join(commands)}")
    return commands[argv[0]](argv[1:])


def attack(argv: Sequence[str]) -> int:
    """Play attacks on a backend and say what came of each."""
    args = parse(AttackArgs, argv, prog="milepost sandbox attack")
    from milepost.sandbox.attacks import suite
    from milepost.sandbox.make import resolve

    backend = resolve(args.backend)
    if backend == "local":
        raise ValueError("milepost sandbox attack: local isolates nothing, and attacks would meet this machine")
    known = {found.name: found for found in suite.ATTACKS}
    for name in args.only:
        if name not in known:
            raise ValueError(f"no attack {name!r}{did_you_mean(name, known)}; there are: {', '.join(known)}")
    chosen = tuple(known[name] for name in args.only) or suite.ATTACKS
    rows: list[suite.Row] = []
    word, playing = ("controls", suite.controls) if args.controls else ("attacks", suite.play)
    with bar(f"{word} on {backend}", chosen, word) as tick:
        for row in playing(backend, chosen):
            rows.append(row)
            tick()
    if args.json:
        print(json.dumps([{"name": r.name, "refused": r.refused, "detail": r.detail} for r in rows], indent=2))
    else:
        table = Table("attack", "refused", "what it tried", "what came of it")
        for r in rows:
            word = {True: "yes", False: "[bold]no[/]", None: "-"}[r.refused]
            table.add_row(r.name, word, r.about, escape(r.detail))
        Console().print(table)
    wrong = [r.name for r in rows if r.refused is args.controls]
    if not args.controls:
        wrong = [name for name in wrong if not known[name].hole_on(backend)]
    return int(bool(wrong))


def clean(argv: Sequence[str]) -> int:
    """Remove what no living process has a use for."""
    args = parse(CleanArgs, argv, prog="milepost sandbox clean")
    if args.days < 0:
        raise ValueError(f"--days: expected 0 or more, got {args.days:g}")
    from milepost.sandbox import docker, leftovers
    from milepost.sandbox import make as sandboxes

    gone = sandboxes.clean(args.days * 86400.0)
    if docker.capabilities()["available"]:
        gone += leftovers.clean_containers(docker.engine())
    print(json.dumps(gone, indent=2) if args.json else "\n".join([*gone, f"{len(gone)} removed"]))
    return 0


def list_(argv: Sequence[str]) -> int:
    """List the backends."""
    args = parse(ListArgs, argv, prog="milepost sandbox list")
    from milepost.sandbox.make import capabilities

    found = capabilities()
    if args.json:
        print(json.dumps(found, indent=2, default=str))
    else:
        Console().print(_table(found))
        for name in [name for name, said in found.items() if not said["available"]]:
            print(f"{name} is not there: {found[name]['why']}")
    return 0


def _table(found: dict[str, dict[str, Any]]) -> Table:
    there = [name for name, said in found.items() if said["available"]]
    table = Table("enforced by", *there)
    table.add_row("version", *(str(found[name].get("version") or "-") for name in there), end_section=True)
    for limit in ("memory", "processes", "cpus", "disk", "files", "network"):
        table.add_row(limit, *(str(found[name]["limits"].get(limit) or "-") for name in there))
    return table
