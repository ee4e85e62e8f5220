"""The command ``milepost``: train a recipe, list and check environments and credit methods, read runs.

Every command imports what it needs when it is used, so that ``envs``, ``check``, ``credit`` and ``show`` run without
torch. What the caller did wrong is one line and exit code 2; ``--debug``, anywhere on the line, shows the traceback
instead.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import tyro

if TYPE_CHECKING:
    from milepost.envs.check import Report

A = TypeVar("A")
EXTRAS = {"torch": "train", "transformers": "train", "peft": "train", "safetensors": "train", "psutil": "train"} | {
    "gguf": "train",
    "matplotlib": "train",
    "textworld": "textworld",
    "yaml": "vectors",
    "PIL": "images",
}
"""The extra of this distribution that brings a package."""


@dataclass
class EnvsArgs:
    """List the environments that are registered."""

    json: bool = False
    """Print JSON for a machine."""


@dataclass
class CheckArgs:
    """Check an environment against the contract; exit code 1 when it breaks a rule."""

    env: Annotated[str, tyro.conf.Positional]
    """Gymnasium id; ``module:id`` imports the module first, the current folder included."""
    option: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """An option of the environment as ``name=value``; may be given several times."""
    json: bool = False
    """Print JSON for a machine."""


@dataclass
class ShowArgs:
    """Show what a run was and reached, or the transcript of one of its episodes with the credit of every turn."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run's folder."""
    episode: int | None = None
    """Number of an episode, counted from 0; a negative one counts from the end."""
    json: bool = False
    """Print JSON for a machine."""


@dataclass
class PlotArgs:
    """Draw the curves of one or several runs into one picture."""

    runs: Annotated[list[Path], tyro.conf.Positional]
    """The folders of the runs."""
    metric: str | None = None
    """Which metric to draw; without it, success on the probe games, else the mean outcome in training."""
    out: Path | None = None
    """The picture's file; without it, ``curve.png`` in the first run's folder."""


def parse(args: type[A], argv: Sequence[str] | None = None, prog: str | None = None) -> A:
    """Return a recipe's ``Args`` from the command line, help text from the strings under the fields.

    Without ``argv`` the process is the recipe's own (``python -m milepost.recipes.NAME``, torchrun): then its errors
    are told as the command ``milepost`` tells them.
    """
    if argv is None:
        if "--debug" in sys.argv:
            sys.argv.remove("--debug")
        else:
            sys.excepthook = _told
        argv = sys.argv[1:]
    return tyro.cli(args, args=argv, prog=prog, config=(tyro.conf.FlagCreatePairsOff,))


def recipe_names() -> list[str]:
    """Return the recipes: the modules ``<environment>_<method>`` beside this one."""
    here = str(Path(__file__).parent)
    return sorted(m.name for m in pkgutil.iter_modules([here]) if "_" in m.name.strip("_"))


def train(argv: Sequence[str]) -> int:
    """Train a recipe: ``milepost train RECIPE [flags]``; ``milepost train RECIPE --help`` lists its flags."""
    names = recipe_names()
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: milepost train RECIPE [flags]     (milepost train RECIPE --help lists the flags)\n\nrecipes:")
        for name in names:
            print(f"  {name:<20}{_first_line(Path(__file__).parent / f'{name}.py')}")
        return 0 if argv else 2
    name = argv[0]
    if name not in names:
        raise ValueError(f"no recipe {name!r}{did_you_mean(name, names)}; there are: {', '.join(names)}")
    recipe = importlib.import_module(f"milepost.recipes.{name}")
    recipe.main(parse(recipe.Args, argv[1:], prog=f"milepost train {name}"))
    return 0


def envs(argv: Sequence[str]) -> int:
    """List the environments that are registered."""
    args = parse(EnvsArgs, argv, prog="milepost envs")
    import gymnasium

    from milepost.envs.make import env_ids

    rows = []
    for env_id in env_ids():
        spec = gymnasium.spec(env_id)
        rows.append({"id": env_id, "max_episode_steps": spec.max_episode_steps, "about": _about(spec.entry_point)})
    if args.json:
        print(json.dumps(rows, indent=2))
    else:
        for row in rows:
            print(f"{row['id']:<28}{row['max_episode_steps'] or '-':>6} turns  {row['about']}")
    return 0


def check(argv: Sequence[str]) -> int:
    """Check an environment against the contract."""
    args = parse(CheckArgs, argv, prog="milepost check")
    from milepost.envs.check import check as check_env

    options = dict(read_option(text) for text in args.option)
    report = check_env(args.env, **options)
    return print_report(report, {"env": args.env}, options, as_json=args.json)


def print_report(report: Report, what: dict[str, str], options: dict[str, Any], *, as_json: bool) -> int:
    """Print what a check found, for a person or a machine; return its exit code."""
    if as_json:
        rows = {k: [{"rule": f.rule, "text": f.text} for f in getattr(report, k)] for k in ("failures", "notes")}
        print(json.dumps({**what, "options": options, "ok": report.ok} | rows, indent=2))
    else:
        for kind, findings in (("FAIL", report.failures), ("note", report.notes)):
            for finding in findings:
                print(f"{kind}  {finding.rule}: {finding.text}")
        print(f"{' '.join(what.values())}: {'keeps' if report.ok else 'breaks'} the contract")
    return 0 if report.ok else 1


def credit(argv: Sequence[str]) -> int:
    """List credit methods, check one, or compute worked examples."""
    from milepost.recipes.credit_cli import credit as command

    return command(argv)


def show(argv: Sequence[str]) -> int:
    """Show a run, or one of its episodes."""
    args = parse(ShowArgs, argv, prog="milepost show")
    from milepost.recipes.report.show import show as show_run

    show_run(args.run, episode=args.episode, as_json=args.json)
    return 0


def plot(argv: Sequence[str]) -> int:
    """Draw the curves of runs into one picture."""
    args = parse(PlotArgs, argv, prog="milepost plot")
    from milepost.recipes.report.plot import plot as plot_runs

    print(plot_runs(args.runs, args.out, metric=args.metric))
    return 0


COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "train": (train, "RECIPE [flags]               train an agent by a recipe"),
    "envs": (envs, "[--json]                      list the environments"),
    "check": (check, "ID [--json]                  check an environment, ours or yours, against the contract"),
    "credit": (credit, "list | check | vectors        list and check credit methods, compute worked examples"),
    "show": (show, "RUN [--episode N] [--json]    read a run, or one episode turn by turn"),
    "plot": (plot, "RUN... [--out PNG]            draw the curves of runs into one picture"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command ``milepost``; return 0, 1 (a check or a machine failed), 2 (bad input) or 130 (Ctrl-C)."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if not words or words[0] in ("-h", "--help"):
        print("usage: milepost COMMAND ...\n")
        print("\n".join(f"  {name:<6} {line}" for name, (_, line) in COMMANDS.items()))
        print("\nmilepost COMMAND --help says more; --debug shows tracebacks.")
        return 0 if words else 2
    try:
        if words[0] not in COMMANDS:
            raise ValueError(f"no command {words[0]!r}{did_you_mean(words[0], COMMANDS)}; milepost --help lists them")
        return COMMANDS[words[0]][0](words[1:])
    except (Exception, KeyboardInterrupt) as error:
        told = None if debug else explain(error, ["milepost", *words])
        if told is None:
            raise
        print(told[0], file=sys.stderr)
        return told[1]


def did_you_mean(name: str, known: Sequence[str] | dict[str, Any]) -> str:
    """Return `` (did you mean 'x'?)`` where a known name is close, else nothing."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def explain(error: BaseException, command: Sequence[str]) -> tuple[str, int] | None:
    """Return (one line, exit code) for what the caller, a full disk a machine or Ctrl-C did; None for a bug of ours."""
    import gymnasium

    from milepost.sandbox.core import MachineError

    if isinstance(error, KeyboardInterrupt):
        if "train" not in command[:2] and command[0] == "milepost":
            return "stopped", 130
        again = shlex.join([*command, *([] if "--resume" in command else ["--resume"])])
        return f"stopped; what was finished is kept. Go on with: {again}", 130
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            return None
        return f"milepost: this needs {package}: pip install 'milepost[{EXTRAS[package]}]'", 2
    if isinstance(error, MachineError):
        return f"milepost: {' '.join(str(error).split())}", 1
    if isinstance(error, (ValueError, OSError, gymnasium.error.Error)):
        return f"milepost: {' '.join(str(error).split()) or type(error).__name__}", 2
    return None


def _told(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Tell an uncaught error of a recipe that runs as a process of its own."""
    module = getattr(sys.modules["__main__"].__spec__, "name", None)
    n_ranks = os.environ.get("WORLD_SIZE", "1")
    start = ["python", "-m"] if n_ranks == "1" else ["torchrun", "--standalone", "--nproc-per-node", n_ranks, "-m"]
    told = explain(error, [*start, module, *sys.argv[1:]] if module else sys.argv)
    if told is None:
        sys.__excepthook__(kind, error, trace)
        return
    if not (isinstance(error, KeyboardInterrupt) and os.environ.get("RANK", "0") != "0"):
        print(told[0], file=sys.__stderr__, flush=True)  # torch redirects sys.stderr here and loses it
    _exit(told[1])


def _exit(code: int) -> NoReturn:
    raise SystemExit(code)


def read_option(text: str) -> tuple[str, Any]:
    """Return ``name=value`` as (name, value); the value is read as JSON where it is JSON, else as text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--option: expected name=value, got {text!r}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _about(entry_point: Any) -> str:
    """Return the first line of the docstring of an environment's class."""
    module, _, name = str(entry_point).partition(":")
    cls = getattr(importlib.import_module(module), name, None) if name else entry_point
    return ((getattr(cls, "__doc__", None) or "").strip().splitlines() or [""])[0]


def _first_line(path: Path) -> str:
    """Return the first line of a module's docstring without importing it."""
    return path.read_text(encoding="utf-8").lstrip('"').partition("\n")[0]


if __name__ == "__main__":
    sys.exit(main())
