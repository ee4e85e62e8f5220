"""The command ``milepost eval``: what ``evaluate`` does, for people and for scripts."""

from __future__ import annotations

import json
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from milepost.recipes.console import parse, printer
from milepost.recipes.evaluate.results import Results
from milepost.recipes.evaluate.run import Evaluation
from milepost.recipes.evaluate.scores import Score
from milepost.recipes.evaluate.settings import Settings

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(kw_only=True)
class Asked:
    """What comes first in the help."""

    what: Annotated[list[str], tyro.conf.Positional, tyro.conf.arg(metavar="TASKS")] = field(default_factory=list)
    """Ids of environments (``module:id`` imports the module first), or one panel: its name or its TOML file."""
    agent: str
    """``oracle``, ``random``, ``openai:MODEL``, ``local:FOLDER``, ``module:function`` or ``exec:COMMAND``."""


@dataclass(kw_only=True)
class Args(Settings, Asked):
    """Evaluate an agent on tasks, headless; stop it anywhere and go on with --out DIR --resume."""

    json: bool = False
    """Print ``results.json`` at the end, and nothing meanwhile."""


def command(argv: Sequence[str]) -> int:
    """Evaluate; return 0 when every planned episode has an end that counts, else 1."""
    args = parse(Args, argv, prog="milepost eval")
    settings = Settings(**{f.name: getattr(args, f.name) for f in fields(Settings)})
    with _stopped_like_ctrl_c():
        evaluation = Evaluation(args.what, args.agent, settings)
        again = _again(argv, str(evaluation.out), "--out" in argv)
        try:
            results = evaluation.play("nothing" if args.json else "auto")
        except BaseException as error:
            if evaluation.played:
                error.add_note(f"what was finished is kept. Go on with: {again}")
            raise
    if args.json:
        print(json.dumps(results.to_json(), indent=2))
    else:
        _print(results)
    if results.complete:
        return 0
    parts = [results.stopped] if results.stopped else []
    parts += [f"{n} {what}" for n, what in ((results.failed, "failed"), (results.overall.missing, "missing")) if n]
    print(f"milepost: {', '.join(parts)}; what was finished is kept. Go on with: {again}", file=sys.stderr)
    return 1


def _again(argv: Sequence[str], out: str, named: bool) -> str:
    """Return the command line that goes on."""
    words = [word for word in argv if word != "--resume"]
    return shlex.join(["milepost", "eval", *words, *([] if named else ["--out", out]), "--resume"])


@contextmanager
def _stopped_like_ctrl_c() -> Iterator[None]:
    """Have SIGTERM do what Ctrl-C does."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread: whoever started it has signals of its own
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _print(results: Results) -> None:
    console = printer()
    for warning in results.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    console.print(table(results))
    for failure, n in results.failures.items():
        print(f"{n} failed: {failure}", file=sys.stderr)
    console.print(f"{results.path}   digest {results.digest}", soft_wrap=True)


def table(results: Results) -> Table:
    """Return the results as a table: a row an entry, the metrics of the panel as columns."""
    from rich.table import Table

    rows = list(results.entries.items())
    if len(rows) > 1:
        rows.append(("all", results.overall))
    metrics = {name: [_metric(score, name) for _, score in rows] for name in results.panel.metrics}
    metrics = {name: cells for name, cells in metrics.items() if any(cell != "-" for cell in cells)}
    drawn = Table(title=f"{results.agent['agent']} on {results.panel.name}")
    drawn.add_column("entry", overflow="fold")
    for name in ("n", "failed", *metrics):
        drawn.add_column(name, justify="right", no_wrap=name == "success")
    for place, (name, score) in enumerate(rows):
        if place == len(results.entries):
            drawn.add_section()
        played = f"{score.played}" if score.complete else f"{score.played}/{score.n}"
        drawn.add_row(
            name.removeprefix("milepost/"), played, str(score.failed), *(cells[place] for cells in metrics.values())
        )
    return drawn


def _metric(score: Score, name: str) -> str:
    if name == "success":
        share = score.success
        return "-" if share.rate is None else f"{_percent(share.rate)} [{100 * share.low:.0f}, {100 * share.high:.0f}]"
    if name == "pass^k":
        return "  ".join(f"{k}: {_percent(value)}" for k, value in score.pass_k.items()) or "-"
    if name == "tokens":
        return str(score.tokens["prompt"] + score.tokens["completion"] or "-")
    if name == "pass@1":
        return "-" if score.pass_at_1 is None else _percent(score.pass_at_1)
    value = getattr(score, name)
    return "-" if value is None else f"{value:.2f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
