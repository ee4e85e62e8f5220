"""The command ``milepost``: train a recipe, evaluate an agent, read runs, list and check what there is.

Every command imports what it needs when it is used, so that ``envs``, ``check``, ``credit`` and ``show`` run without
torch. What the caller did wrong is one line and exit code 2; ``--debug``, anywhere on the line, shows the traceback
instead.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from milepost.envs.names import did_you_mean
from milepost.recipes.console import explain, parse, print_report, read_option, warnings_as_lines


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


def credit(argv: Sequence[str]) -> int:
    """List credit methods, check one, or compute worked examples."""
    from milepost.recipes.credit import credit as command

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


def eval_(argv: Sequence[str]) -> int:
    """Evaluate an agent."""
    from milepost.recipes.evaluate.command import command

    return command(argv)


def compare(argv: Sequence[str]) -> int:
    """Compare two evaluations."""
    from milepost.recipes.evaluate.compare import command

    return command(argv)


def view(argv: Sequence[str]) -> int:
    """Write a run as one HTML file."""
    from milepost.recipes.report.view import command

    return command(argv)


def export(argv: Sequence[str]) -> int:
    """Write a run's episodes for other tools."""
    from milepost.recipes.report.export import command

    return command(argv)


def serve(argv: Sequence[str]) -> int:
    """Serve a model."""
    from milepost.recipes.serve import command

    return command(argv)


def mcp(argv: Sequence[str]) -> int:
    """Serve an environment."""
    from milepost.recipes.mcp import command

    return command(argv)


def sandbox(argv: Sequence[str]) -> int:
    """Say what sandboxes there are, attack one, or remove what they left."""
    from milepost.recipes.sandbox import command

    return command(argv)


def swe(argv: Sequence[str]) -> int:
    """Build software-engineering tasks."""
    from milepost.recipes.swe import command

    return command(argv)


COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "train": (train, "RECIPE [flags]                train an agent by a recipe"),
    "eval": (eval_, "TASKS --agent A [flags]       evaluate an agent, headless"),
    "compare": (compare, "RUN RUN [--json]              compare two evaluations, task by task"),
    "show": (show, "RUN [--episode N] [--json]    read a run, or one episode turn by turn"),
    "view": (view, "RUN [OTHER]                   write RUN/view.html: every turn, in a browser"),
    "plot": (plot, "RUN... [--out PNG]            draw the curves of runs into one picture"),
    "export": (export, "RUN --to FORM [flags]         write a run's episodes for other tools"),
    "envs": (envs, "[--json]                      list the environments"),
    "check": (check, "ID [--json]                   check an environment, ours or yours, against the contract"),
    "credit": (credit, "list | check | vectors        list and check credit methods, compute worked examples"),
    "serve": (serve, "MODEL [flags]                 a model as an OpenAI-compatible endpoint"),
    "sandbox": (sandbox, "list | attack | clean         what isolates commands here, and whether it holds"),
    "swe": (swe, "build | verify [flags]        make software-engineering tasks of real packages, and prove them"),
    "mcp": (mcp, "ENV [flags]                   an environment as an MCP server"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command ``milepost``; return 0, 1 (a check or a machine failed), 2 (bad input) or 130 (Ctrl-C)."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if not words or words[0] in ("-h", "--help"):
        print("usage: milepost COMMAND ...\n")
        print("\n".join(f"  {name:<8}{line}" for name, (_, line) in COMMANDS.items()))
        print("\nmilepost COMMAND --help says more; --debug shows tracebacks.")
        return 0 if words else 2
    try:
        if words[0] not in COMMANDS:
            raise ValueError(f"no command {words[0]!r}{did_you_mean(words[0], COMMANDS)}; milepost --help lists them")
        with warnings_as_lines(not debug):
            return COMMANDS[words[0]][0](words[1:])
    except (Exception, KeyboardInterrupt) as error:
        told = None if debug else explain(error, ["milepost", *words])
        if told is None:
            raise
        print(told[0], file=sys.stderr)
        return told[1]


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
