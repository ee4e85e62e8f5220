"""The backends that are present here, for tests that hold on each of them.

Where docker or bubblewrap is absent its tests are skipped with the reason; in CI (``MILEPOST_CI=1``) they fail instead.
"""

import importlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from milepost.sandbox import bubblewrap, reach
from milepost.sandbox.client import GuestSandbox
from milepost.sandbox.core import Settings
from milepost.sandbox.make import BACKENDS, make

EACH = [pytest.param(name, marks=[pytest.mark.docker] if name == "docker" else []) for name in BACKENDS]
"""All backends, as parameters."""


def need(backend: str) -> str:
    """Return a backend's name; skip, or fail in CI, where it is absent."""
    said: dict[str, Any] = importlib.import_module(f"milepost.sandbox.{backend}").capabilities()
    if not said["available"]:
        told = f"no {backend}: {said['why']}"
        if os.environ.get("MILEPOST_CI") and backend in ("docker", "bubblewrap"):
            pytest.fail(told)
        pytest.skip(told)
    return backend


@contextmanager
def open_one(backend: str, settings: Settings | None = None) -> Iterator[GuestSandbox]:
    """Start a sandbox and close it."""
    settings = settings or Settings()
    if backend == "landlock":  # where nothing bounds the disk
        settings = replace(settings, allow=settings.allow | {"disk", "processes"})
    sandbox = make(need(backend), settings)
    try:
        yield sandbox
    finally:
        sandbox.close()


def as_an_ordinary_user(code: str) -> Any:
    """Run Python as a user of whom nothing else is here, and return what it printed, JSON; skip where that cannot be.

    It has this machine's bubblewrap, and the source; nothing of its own.
    """
    root = Path(__file__).parents[1]
    if os.geteuid():
        pytest.skip("takes root")
    if not reach.reachable(root / ".typing" / "milepost" / "sandbox" / "core.py"):
        pytest.skip("the source cannot be reached by an ordinary user")
    if subprocess.run(["/usr/bin/python3", "-V"], capture_output=True, text=True).stdout < "Python 3.11":
        pytest.skip("the system's Python is too old")
    program = bubblewrap.capabilities().get("executable")
    code = f"from milepost.sandbox import bwrap\nbwrap.executable = lambda: {program!r}\n{code}"
    user: dict[str, Any] = {"user": 65531, "group": 65531, "extra_groups": []}
    with tempfile.TemporaryDirectory() as home:  # pytest's own folders are closed to others
        os.chown(home, 65531, 65531)
        env = {"PYTHONPATH": str(root / ".typing"), "XDG_STATE_HOME": home, "PATH": os.environ["PATH"]}
        argv = ["/usr/bin/python3", "-B", "-c", code]
        said = subprocess.run(argv, capture_output=True, text=True, env=env, cwd="/", **user)
    assert said.returncode == 0, said.stderr
    return json.loads(said.stdout)


def repository(folder: Path) -> Path:
    """Write a small base: files, a folder in a folder, a program, a link."""
    folder.mkdir(parents=True)
    (folder / "pkg" / "sub").mkdir(parents=True)
    (folder / "pkg" / "a.py").write_text("A = 1\n")
    (folder / "pkg" / "sub" / "b.py").write_text("B = 2\n")
    (folder / "README").write_text("read\n")
    (folder / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (folder / "run.sh").chmod(0o755)
    (folder / "link").symlink_to("pkg/a.py")
    return folder
