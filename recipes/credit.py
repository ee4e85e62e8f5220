"""``milepost credit list | vectors | check``: what methods there are, whether their numbers come out, what one does."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from milepost.envs.names import did_you_mean
from milepost.recipes.console import parse, print_report, printer, read_option

USAGE = """usage: milepost credit COMMAND ...

  list    [--json]                          list the methods, estimators and whatever else works on credit
  check   NAME [--option k=v] [--json]      check a method, ours or yours (module:Class), against the contract
  vectors FILE.yaml [--json]                compute worked examples and compare
"""


@dataclass
class ListArgs:
    """List the methods, estimators and whatever else works on credit."""

    json: bool = False
    """Print JSON for a machine."""


@dataclass
class VectorsArgs:
    """Compute every key of worked examples and compare; exit code 1 when one differs or is not computed."""

    file: Annotated[Path, tyro.conf.Positional]
    """YAML documents, each with ``id``, ``given`` and ``expect``."""
    json: bool = False
    """Print JSON for a machine."""


@dataclass
class CreditCheckArgs:
    """Check a credit method against the contract; exit code 1 when it breaks a rule."""

    method: Annotated[str, tyro.conf.Positional]
    """Its id, or ``module:Class``, the current folder included."""
    option: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """An option of the method as ``name=value``; may be given several times."""
    json: bool = False
    """Print JSON for a machine."""


def credit(argv: Sequence[str]) -> int:
    """List credit methods, check one, or compute worked examples."""

    commands = {"list": _list, "check": _check, "vectors": _vectors}
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if argv else 2
    if argv[0] not in commands:
        raise ValueError(
            f"no command 'credit {argv[0]}'{did_you_mean(argv[0], commands)}; there is list, check, vectors"
        )
    return commands[argv[0]](argv[1:])


def _list(argv: Sequence[str]) -> int:
    from milepost.credit.methods import cards

    args = parse(ListArgs, argv, prog="milepost credit list")
    rows = [{**card._asdict(), "needs": sorted(card.needs)} for card in cards()]
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    heads = ["id", "kind", "level", "needs", "channel", "paper", "trains"]
    _table(heads, [[_cell(row[head]) for head in heads] for row in rows])
    return 0


def _vectors(argv: Sequence[str]) -> int:

    args = parse(VectorsArgs, argv, prog="milepost credit vectors")
    from milepost.recipes.vectors.runner import run

    results = run(args.file)
    ok = all(result.ok for result in results)
    if args.json:
        keys = [{"id": r.id, "key": r.key, "ok": r.ok, "text": r.text} for r in results]
        print(json.dumps({"file": str(args.file), "ok": ok, "keys": keys}, indent=2))
        return 0 if ok else 1
    n_keys = Counter(result.id for result in results)
    n_ok = Counter(result.id for result in results if result.ok)
    rows = [[id, f"{n_ok[id]} of {n}", "ok" if n_ok[id] == n else "FAIL"] for id, n in n_keys.items()]
    _table(["id", "keys", ""], rows)
    for result in results:
        if not result.ok:
            print(f"FAIL  {result.id}: {result.text}")
    print(f"{args.file}: {sum(n_ok.values())} of {len(results)} keys of {len(n_keys)} examples come out")
    return 0 if ok else 1


def _check(argv: Sequence[str]) -> int:

    args = parse(CreditCheckArgs, argv, prog="milepost credit check")
    from milepost.credit.check import check

    options = dict(read_option(text) for text in args.option)
    report = check(args.method, **options)
    return print_report(report, {"method": args.method}, options, as_json=args.json)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    return "" if value is None else " ".join(value) if isinstance(value, list) else str(value)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table as wide as the terminal, or, into a file or a pipe, as wide as it is."""
    from rich import box
    from rich.table import Table

    table = Table(*heads, box=box.SIMPLE_HEAD if sys.stdout.isatty() else None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    printer().print(table)
