"""The two ends of a command line: arguments in, and one clear line out where something went wrong."""

from __future__ import annotations

import json
import os
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import tyro

if TYPE_CHECKING:
    from rich.console import Console

    from milepost.envs.check import Report

A = TypeVar("A")
EXTRAS = {"torch": "train", "transformers": "train", "peft": "train", "safetensors": "train", "psutil": "train"} | {
    "gguf": "train",
    "matplotlib": "train",
    "textworld": "textworld",
    "yaml": "vectors",
    "PIL": "images",
    "openai": "eval",
    "uvicorn": "serve",
    "starlette": "serve",
    "mcp": "mcp",
    "pyarrow": "export",
}
"""The extra of this distribution that brings a package."""


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


def read_option(text: str) -> tuple[str, Any]:
    """Return ``name=value`` as (name, value); the value is read as JSON where it is JSON, else as text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--option: expected name=value, got {text!r}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def printer() -> Console:
    """Return a console whose tables are as wide as the terminal, or, into a file or a pipe, as wide as they are."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else 1000
    return Console(highlight=False, markup=False, emoji=False, width=width)


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


@contextmanager
def warnings_as_lines(wanted: bool = True) -> Iterator[None]:
    """Have a warning meant for the user told as one line, without the place in the code that gave it."""
    before = warnings.formatwarning

    def told(message: Any, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
        mine = category is UserWarning
        return f"warning: {message}\n" if mine else before(message, category, filename, lineno, line)

    warnings.formatwarning = told if wanted else before
    try:
        yield
    finally:
        warnings.formatwarning = before


def explain(error: BaseException, command: Sequence[str]) -> tuple[str, int] | None:
    """Return (one line, exit code) for what the caller, a full disk a machine or Ctrl-C did; None for a bug of ours."""
    import gymnasium

    from milepost.sandbox.core import MachineError

    notes = "".join(f"; {note}" for note in getattr(error, "__notes__", ()))
    if isinstance(error, KeyboardInterrupt):
        if notes:
            return f"stopped{notes}", 130
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
        return f"milepost: {' '.join(str(error).split())}{notes}", 1
    if isinstance(error, (ValueError, OSError, gymnasium.error.Error)):
        return f"milepost: {' '.join(str(error).split()) or type(error).__name__}{notes}", 2
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
