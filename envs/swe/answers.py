"""How a tool's answer is written: short, stable, and with what was left out said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from milepost.envs.swe.grade import Grade
from milepost.envs.swe.testing import TestRun, shorten

MAX_LINE = 200
"""Characters of a line that is shown."""
MAX_MESSAGE = 4
"""Lines of a test's error."""
MAX_IGNORED = 3
"""Changes that do not count, of which it is told why."""


@dataclass(frozen=True)
class Room:
    """How much an answer may say, and how long a turn may take."""

    lines: int = 40
    chars: int = 1500
    timeout_s: float = 60.0

    def cut(self, text: str) -> str:
        """Return a text's beginning and end, as much as there is room for."""
        lines = text.splitlines()
        if len(lines) > self.lines:
            half = max(self.lines // 2, 1)
            lines = [*lines[:half], f"[... {len(lines) - 2 * half} lines left out ...]", *lines[-half:]]
        return shorten("\n".join(lines), self.chars)

    def fitting(self, rows: Sequence[str]) -> list[str]:
        """Return the first rows, as many as there is room for, at least one."""
        found: list[str] = []
        left = self.chars
        for row in map(_short, rows[: self.lines]):
            left -= len(row) + 1
            if left < 0 and found:
                break
            found.append(row)
        return found


def listed(rows: Sequence[str], one: str, several: str, room: Room, more: bool = False) -> str:
    """Return what was found, a line each, with their number; ``more``: there are more than these."""
    fits = room.fitting(rows)
    n = f"{len(rows)}{' or more' if more else ''} {one if len(rows) == 1 and not more else several}"
    left = len(rows) - len(fits)
    rest = (
        [f"[... {left}{' or more' if more else ''} left out; ask for something narrower ...]"] if left or more else []
    )
    return "\n".join([f"{n}{':' if rows else '.'}", *fits, *rest])


def window(file: str, lines: Sequence[str], first: int, n: int, room: Room) -> tuple[str, int]:
    """Return ``n`` numbered lines of a file as far as there is room, and the number of the first of them."""
    n = min(n, room.lines)
    first = max(1, min(first, len(lines) - n + 1))
    rows = room.fitting([f"{number}|{line}" for number, line in enumerate(lines[first - 1 : first - 1 + n], first)])
    return "\n".join([f"{file}, lines {first}-{first + len(rows) - 1} of {len(lines)}:", *rows]), first


def tested(run: TestRun, timeout_s: float) -> str:
    """Return how tests went: how many pass, and why the others do not."""
    if run.timed_out:
        return f"The tests took longer than {timeout_s:g} s and were stopped."
    if not run.complete:
        return f"The tests did not come to their end.\n{run.output}"
    # A file that could not be read has an error of its own, and its tests were not run.
    files = [name for name in run.outcomes if "::" not in name and run.outcomes[name] != "skipped"]
    tests = [name for name, outcome in run.outcomes.items() if "::" in name and outcome != "skipped"]
    if not files and not tests:
        return f"No test was run.\n{run.output}"
    bad = sorted(name for name in tests if run.outcomes[name] != "passed")
    lines = [f"{len(tests) - len(bad)} of {len(tests)} tests pass."]
    for name in [*files, *(name for name in bad if name in run.messages or not files)]:
        said = [line for line in run.messages.get(name, "").splitlines() if line.strip()]
        lines += [name, *(f"    {line}" for line in said[:MAX_MESSAGE])]
    return "\n".join(lines)


def submitted(grade: Grade, ignored: Mapping[str, str]) -> str:
    """Return how a submission was graded; where nothing counts, why."""
    if grade.result == "empty_patch":
        whys = "".join(f" {path}: {why}." for path, why in list(ignored.items())[:MAX_IGNORED])
        return f"Submitted: nothing was changed that counts.{whys}"
    if grade.run is not None and not grade.run.complete:
        return "Submitted: the tests do not come to their end. Not solved."
    others = f", {len(grade.regressions)} others fail now" if grade.regressions else ""
    solved = "Solved" if grade.result == "resolved" else "Not solved"
    return f"Submitted: {grade.fail_to_pass:.0%} of the failing tests pass{others}. {solved}."


def _short(line: str) -> str:
    return line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]} [... {len(line) - MAX_LINE} characters more]"
