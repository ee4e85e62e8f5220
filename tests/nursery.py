"""Processes that begin with everything imported, so that a test can start and kill many.

Run as a script it reads lines of arguments of ``milepost`` and forks a process for each.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self


class Nursery:
    """Start ``milepost ARGUMENTS`` as processes of their own, one at a time."""

    def __init__(self, cache: Path) -> None:
        self._mother = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        )

    def start(self, words: list[str]) -> int:
        """Return the new process's id."""
        assert self._mother.stdin is not None
        self._mother.stdin.write(json.dumps(words) + "\n")
        self._mother.stdin.flush()
        return int(self._line())

    def wait(self) -> int:
        """Return the exit code of the process, minus the signal's number where one killed it."""
        return int(self._line())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._mother.communicate()

    def _line(self) -> str:
        assert self._mother.stdout is not None
        return self._mother.stdout.readline()


def mother() -> None:
    """Fork a process for every line of standard input; answer with its id and, when it is over, its exit code."""
    import matplotlib.backends.backend_agg  # noqa: F401
    import peft  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401

    import milepost.recipes.ladder_gra
    import milepost.recipes.textworld_guide  # noqa: F401
    from milepost.recipes.cli import main

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in iter(sys.stdin.readline, ""):
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, 0)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            code = 70
            try:
                code = main(json.loads(line))
            finally:
                sys.stdout.flush()
                os._exit(code)
        print(pid, file=answers, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


if __name__ == "__main__":
    mother()
