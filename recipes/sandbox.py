"""``milepost sandbox list``: what isolates commands here, and which limits it really enforces."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from milepost.envs.names import did_you_mean
from milepost.recipes.console import parse


@dataclass
class ListArgs:
    """List the sandboxes that are there, with what each enforces."""

    json: bool = False
    """Print JSON for a machine."""


def command(argv: Sequence[str]) -> int:
    """Run ``milepost sandbox``."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: milepost sandbox list [--json]")
        return 0 if argv else 2
    if argv[0] != "list":
        raise ValueError(f"milepost sandbox: no command {argv[0]!r}{did_you_mean(argv[0], ['list'])}; there is: list")
    args = parse(ListArgs, argv[1:], prog="milepost sandbox list")
    from milepost.sandbox.make import capabilities

    found = capabilities()
    if args.json:
        print(json.dumps(found, indent=2, default=str))
    else:
        Console().print(_table(found))
    return 0


def _table(found: dict[str, dict[str, Any]]) -> Table:
    names = ("memory", "processes", "cpus", "disk", "files", "network")
    table = Table("backend", "version", *names)
    for backend, said in found.items():
        if said["available"]:
            limits = said["limits"]
            table.add_row(backend, str(said.get("version") or ""), *(str(limits.get(name) or "-") for name in names))
        else:
            table.add_row(backend, f"[dim]not there: {said['why']}", *[""] * len(names))
    return table
