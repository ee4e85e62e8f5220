"""Test runs in any sandbox: which tests passed, told by a process that tested code can neither read nor speak for.

What is tested runs in the same process as pytest. It cannot write to the host, end early without being seen, or leave
a test out and have it count. In a guarded run, as grading is, it is also seen when it changes pytest, its plugins, the
functions of tests, or builtins (``test_guard``), and when it makes tests pass that must fail (``canary``).

What runs in pytest's process can in principle always forge what pytest says: it can find the guard in memory too, take
a change back before the guard looks, or answer tests rather than what they ask. What is refused is what is known.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal

from milepost.envs.swe.canary import Canary
from milepost.sandbox.core import Result, Sandbox

Outcome = Literal["passed", "failed", "error", "skipped"]
PYTHON = "/usr/bin/python3"
"""The sandbox's own interpreter, which also runs its guest."""
TOOLS = "/tools"
"""Where ``Settings.mounts`` has the folder of ``test_tools.tools()``."""
GRACE_S = 10.0
"""What the runner may take beyond the tests' time, to kill them and report."""
MAX_REPORT = 1 << 24


@dataclass(frozen=True)
class TestRun:
    """What a run of tests showed."""

    __test__ = False

    outcomes: Mapping[str, Outcome]
    """By test id, pytest's node id from the workspace; a file that could not be collected is an ``error`` under its own
    path, and a test that was asked for and never reported is ``failed``."""
    complete: bool
    """Whether the run came to its own end; where it did not (``os._exit``, a crash, its time over), no outcome of it
    is to be trusted."""
    output: str = ""
    """What pytest printed, without durations and addresses."""
    messages: Mapping[str, str] = field(default_factory=dict)
    """The error of each test that did not pass: an assertion and its explanation, as pytest has them."""
    seconds: float = 0.0
    cpu_s: float = 0.0
    """Seconds of a processor, which depend less than ``seconds`` on what else the machine does."""
    timed_out: bool = False
    changed: tuple[str, ...] = ()
    """Of a guarded run: what decides about tests and was changed by what they test, or that the canary died."""

    def passed(self, ids: Iterable[str]) -> bool:
        """Whether the run is complete and all these tests passed in it."""
        return self.complete and all(self.outcomes.get(test) == "passed" for test in ids)

    def of(self, outcome: Outcome) -> list[str]:
        """Return the tests of an outcome, in order of their ids."""
        return sorted(test for test, found in self.outcomes.items() if found == outcome)


def run_tests(
    sandbox: Sandbox,
    tests: Sequence[str],
    ids: Sequence[str] | None = None,
    timeout_s: float = 60.0,
    *,
    cpu_s: int | None = None,
    memory: int | None = None,
    plugins: Sequence[str] = (),
    guarded: bool = False,
    tools: str = TOOLS,
    max_output: int = 4000,
) -> TestRun:
    """Run tests of the workspace with the test tools that are mounted at ``tools``.

    Args:
        sandbox: Its workspace, and ``src`` below it, can be imported from.
        tests: Files and folders of the workspace, and options of pytest.
        ids: The tests to run; None is all that are found.
        timeout_s: Seconds for all of them.
        cpu_s: Seconds of a processor that the tests' process may use before it is killed.
        memory: Bytes that it may address, beside what the sandbox allows.
        plugins: Modules of the workspace or the tools that are plugins of pytest; none is loaded by itself.
        guarded: Whether a run in which something else than the tests decided is not complete.
        tools: A place among ``Settings.mounts``.
        max_output: Characters of ``TestRun.output``; what is more is left out of its middle.

    Raises:
        SandboxError: The sandbox is gone. What tested code does, however bad, is a run that is not complete.
    """
    secret, canary = secrets.token_hex(16), Canary.new() if guarded else None
    config = {
        "workspace": sandbox.workspace,
        "tools": sandbox.place(tools),
        "tests": list(tests),
        "ids": None if ids is None else list(ids),
        "plugins": list(plugins),
        "timeout_s": timeout_s,
        "cpu_s": cpu_s,
        "memory": memory,
        "guard": _text("test_guard") if guarded else "",
        "canary": [canary.name] if canary else [],
    }
    result = sandbox.run(
        [PYTHON, "-s", "-S", "-B", "-c", _text("test_runner")],
        timeout_s=timeout_s + GRACE_S,
        env={"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "TZ": "UTC", "COLUMNS": "120"},
        stdin=_counted(json.dumps(config)) + secret.encode() + (_counted(canary.text) if canary else b""),
        max_output=MAX_REPORT,
    )
    run = _read(result, secret, ids, canary)
    run = replace(run, output=shorten(_stable(run.output), max_output))
    places = {f"{sandbox.workspace.rstrip('/')}/": "", f"{config['tools']}/": f"{tools}/"}
    messages = {test: _elsewhere(text, places) for test, text in run.messages.items()}
    return replace(run, output=_elsewhere(run.output, places), messages=messages)


def shorten(text: str, n: int) -> str:
    """Return a text of at most about so many characters: its beginning and end, and how much is between them."""
    if len(text) <= n:
        return text
    half = n // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"


def _read(result: Result, secret: str, ids: Sequence[str] | None, canary: Canary | None) -> TestRun:
    unreported: dict[str, Outcome] = dict.fromkeys(ids or (), "failed")
    try:
        line = [line for line in result.output.splitlines() if line.startswith(f"{secret} ")][-1]
        report: dict[str, Any] = json.loads(line.removeprefix(f"{secret} "))
        outcomes, messages = _outcomes(report["reports"])
    except (IndexError, KeyError, TypeError, ValueError):
        return TestRun(unreported, False, result.output, seconds=result.seconds, timed_out=result.timed_out)
    complete, changed = report["complete"] and report["end"] in (0, 1, 2, 5), list(report["changed"])
    if canary:
        if complete and not canary.lives(outcomes, messages):
            changed.append("the canary")
        # Tests failed, as pytest has to know: those of the canary.
        complete = complete and report["end"] == 1 and not changed
        for test in filter(canary.owns, list(outcomes)):
            del outcomes[test]
            messages.pop(test, None)
    return TestRun(
        unreported | outcomes,
        complete,
        report["output"],
        messages,
        report["seconds"],
        report["cpu_s"],
        report["timed_out"],
        tuple(changed),
    )


def _outcomes(reports: Sequence[Mapping[str, str]]) -> tuple[dict[str, Outcome], dict[str, str]]:
    """Join what setup, call and teardown reported: a test passes where its call passed once and nothing else did."""
    outcomes: dict[str, Outcome] = {}
    messages: dict[str, str] = {}
    for report in reports:
        test, when, outcome = report["id"], report["when"], report["outcome"]
        if outcome == "failed":
            outcomes[test] = "failed" if when == "call" else "error"
            messages.setdefault(test, _stable(report.get("message", "")))
        elif outcome == "skipped" and outcomes.get(test, "passed") == "passed":
            outcomes[test] = "skipped"
        elif outcome == "passed" and when == "call":
            outcomes[test] = "failed" if outcomes.get(test) == "passed" else outcomes.get(test, "passed")
    return outcomes, messages


def _elsewhere(text: str, places: Mapping[str, str]) -> str:
    """Write paths below the workspace, which backends have in different places, from there."""
    for path, name in places.items():
        text = text.replace(path, name)
    return text


def _stable(text: str) -> str:
    text = re.sub(r"\b0x[0-9a-f]{6,16}\b", "0x...", text)
    return re.sub(r" in \d+\.\d+s\b( \(\d+:\d+:\d+\))?", "", text).strip()


def _counted(text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    return b"%08d" % len(data) + data


@cache
def _text(module: str) -> str:
    return inspect.getsource(importlib.import_module(f"milepost.envs.swe.{module}"))
