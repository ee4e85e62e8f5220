"""Runs of a test command of a repository's own, and what its output says of each test.

A log is written by the process of what is tested: code that prints the line of a passed test is believed. Where
pytest of the test tools can run the tests (``testing``), it is to be preferred.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence

from milepost.envs.names import did_you_mean
from milepost.envs.swe.testing import TOOLS, Outcome, TestRun, shorten
from milepost.sandbox.core import Sandbox

MAX_LOG = 1 << 24
MAX_SHOWN = 4000
PYTEST = "python3 -m pytest -rA -p no:cacheprovider --color=no {tests}"
"""A command whose output the parser ``pytest`` reads."""
WORDS: Mapping[str, Outcome] = {
    "PASSED": "passed",
    "XPASS": "passed",
    "FAILED": "failed",
    "ERROR": "error",
    "SKIPPED": "skipped",
    "XFAIL": "skipped",
    "ok": "passed",
    "FAIL": "failed",
    "skipped": "skipped",
    "expected failure": "skipped",
    "unexpected success": "failed",
}

Parser = Callable[[str], Iterator[tuple[str, Outcome]]]


def pytest_log(log: str) -> Iterator[tuple[str, Outcome]]:
    """Yield tests and outcomes of pytest's summary (``-rA``)."""
    for line in log.splitlines():
        word, _, rest = line.partition(" ")
        if word in ("PASSED", "FAILED", "ERROR", "XFAIL", "XPASS") and (test := _named(rest, word == "PASSED")):
            yield test, WORDS[word]


def _named(rest: str, passed: bool) -> str:
    """Return the test that a line of a summary is about; in time that grows with the line, whatever is in it."""
    first = re.split(r"\s", rest, maxsplit=1)[0]
    at = first.find("::", 1)
    if passed:
        return rest if 0 < at < len(rest) - 2 else ""
    # A name in brackets may have " - " in it, which also begins what pytest says of a test that did not pass.
    bracket = rest.find("[", at + 2)
    if 0 < at < bracket - 2 and (end := re.search(r"\](?= - |$)", rest[bracket:])):
        return rest[: bracket + end.end()]
    return first if rest == first or rest.startswith(" - ", len(first)) else ""


def unittest_log(log: str) -> Iterator[tuple[str, Outcome]]:
    """Yield tests and outcomes of unittest's and Django's lines (``-v``): ``test_a (module.Class) ... ok``."""
    test = ""
    for line in log.splitlines():
        named = re.match(r"(\w+ \([\w.]+\))", line)
        test = named[1] if named else test
        match = re.search(r"\.\.\. (ok|FAIL|ERROR|skipped|expected failure|unexpected success)\b", line)
        if match and test:
            yield test, WORDS[match[1]]
            test = ""


PARSERS: Mapping[str, Parser] = {"pytest": pytest_log, "unittest": unittest_log}
"""By name; a test whose lines contradict one another has not passed."""


def parser(name: str) -> Parser:
    """Return the parser of a name.

    Raises:
        ValueError: There is none.
    """
    if name not in PARSERS:
        raise ValueError(f"no log parser {name!r}{did_you_mean(name, PARSERS)}; there are: {', '.join(PARSERS)}")
    return PARSERS[name]


def run(
    sandbox: Sandbox, command: str, parse: str, tests: Sequence[str], ids: Sequence[str] | None, timeout_s: float
) -> TestRun:
    """Run a command with the tests in the place of ``{tests}``, the tools in that of ``{tools}``; read what it prints.

    Raises:
        SandboxError: The sandbox is gone.
    """
    text = command.replace("{tests}", shlex.join(tests)).replace("{tools}", sandbox.place(TOOLS))
    env = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "TZ": "UTC", "COLUMNS": "120", "LC_ALL": "C.UTF-8"}
    result = sandbox.run(text, timeout_s=timeout_s, env=env, max_output=MAX_LOG)
    outcomes: dict[str, Outcome] = {}
    for test, outcome in parser(parse)(result.output):
        if outcomes.get(test, "passed") == "passed":
            outcomes[test] = outcome
    found: dict[str, Outcome] = dict.fromkeys(ids or (), "failed")
    found |= {test: outcome for test, outcome in outcomes.items() if ids is None or test in found}
    # A command that was killed, or not found, has not come to its end.
    complete = result.exit_code is not None and 0 <= result.exit_code < 126 and not result.n_omitted
    shown = shorten(result.output, MAX_SHOWN)
    return TestRun(found, complete, shown, seconds=result.seconds, timed_out=result.timed_out)
