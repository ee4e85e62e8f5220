"""What of an agent's changes counts: source files of the package; nothing that decides how it is tested.

The rest is not an error: agents write notes and reproducing scripts. It is left out, and told with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from milepost.envs.swe.diffs import apply_text, unified
from milepost.envs.swe.problem import Origin, Problem, of_task
from milepost.envs.swe.tasks import SweTask
from milepost.sandbox.core import Node

__all__ = ["apply_text", "changes", "unified"]

MAX_FILE = 1 << 20
MAX_FILES = 200
MAX_IGNORED = 50
"""Of what does not count, so many are named."""
TESTS = re.compile(r"(^|/)(tests?|testing)/|(^|/)(test_[^/]*|[^/]*_test|tests?|conftest)\.py$")
CONFIGURATION = re.compile(
    r"(^|/)(pytest\.(ini|toml)|\.pytest\.(ini|toml)|pyproject\.toml|tox\.ini|setup\.(py|cfg)|noxfile\.py)$"
)
STARTUP = re.compile(r"(^|/)(site|user)customize(\.py|/)|\.pth$")
BYTECODE = re.compile(r"(^|/)__pycache__/|\.py[co]$")


def changes(
    task: SweTask | Problem | Origin, diff: Mapping[str, Node | None]
) -> tuple[dict[str, bytes | None], dict[str, str]]:
    """Return what of a ``diff`` counts, new content by file, None for a deleted one; and what does not, and why."""
    problem = of_task(task)
    counted: dict[str, bytes | None] = {}
    ignored: dict[str, str] = {}
    for path, node in sorted(diff.items()):
        if (node is None and (problem.base / path).is_dir()) or (node and node.kind == "folder"):
            continue  # what is in it says it
        why = _why_not(path, node, problem)
        if why is None and len(counted) == MAX_FILES:
            why = f"more than {MAX_FILES} files"
        if why is None:
            counted[path] = None if node is None else node.data
        else:
            ignored[path] = why
    if len(ignored) > MAX_IGNORED:
        rest = len(ignored) - MAX_IGNORED
        ignored = dict(list(ignored.items())[:MAX_IGNORED]) | {"...": f"and {rest} more"}
    return counted, ignored


def _why_not(path: str, node: Node | None, problem: Problem) -> str | None:
    """Return why a change does not count, None if it does."""
    file = problem.base / path
    if path not in problem.texts and TESTS.search(path):
        return "a test, or a part of the tests"
    if CONFIGURATION.search(path):
        return "configuration"
    if STARTUP.search(path):
        return "is run when Python starts"
    if BYTECODE.search(path):
        return "byte code"
    if node and node.kind == "link":
        return "a symbolic link"
    if not problem.counts(path):
        return "outside of the package's sources"
    if node is None:
        return None
    if any((problem.base / folder).is_file() for folder in PurePosixPath(path).parents):
        return "a file is in the place of its folder"
    if file.is_file() and file.read_bytes() == node.data:
        return "only its permissions changed"
    return _unreadable(path, node.data)


def _unreadable(path: str, data: bytes) -> str | None:
    if not path.isprintable():
        return "has an odd name"
    if len(data) > MAX_FILE:
        return f"larger than {MAX_FILE} bytes"
    try:
        data.decode()
    except UnicodeError:
        return "not UTF-8"
    return "has a NUL byte" if b"\0" in data else None
