"""The backends that are present here, for tests that hold on each of them.

Where docker or bubblewrap is absent its tests are skipped with the reason; in CI (``MILEPOST_CI=1``) they fail instead.
"""

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

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
