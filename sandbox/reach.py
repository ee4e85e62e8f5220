"""What the user of a sandbox may read: root's own files are often closed to others, and then it gets a copy."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from milepost.sandbox import bases, folders


def reachable(path: Path) -> bool:
    """Whether a sandbox's user may read a file or folder and enter those above it; what is in it is not looked at."""
    uid, gid = folders.owner()
    if uid == os.geteuid():
        return os.access(path, os.R_OK)
    real = path.resolve(strict=True)
    return all(_may(at, uid, gid, 0o1) for at in real.parents) and _may(real, uid, gid, 0o5 if real.is_dir() else 0o4)


def readable(path: Path | str) -> Path:
    """Return a file or folder, or where its copy lies that a sandbox's user may read.

    Raises:
        ValueError: It is not there, or cannot be read.
        SandboxError: There is no room for a copy.
    """
    path = Path(os.path.abspath(path))
    if not path.exists():
        raise ValueError(f"mount: expected a file or folder, got nothing at {path}")
    if reachable(path):
        return path
    if path.is_dir():
        return bases.prepare(path.resolve())
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(path, folder)
        return bases.prepare(folder) / path.name


def blanks(hidden: Iterable[str]) -> dict[str, Path]:
    """Return what is mounted in the place of what is hidden: nothing where nothing is, else an empty file or folder."""
    return {at: _nothing() / ("folder" if os.path.isdir(at) else "file") for at in hidden if os.path.exists(at)}


@cache
def _nothing() -> Path:
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch, "folder").mkdir()
        Path(scratch, "file").touch()
        return bases.prepare(scratch)


def _may(path: Path, uid: int, gid: int, bits: int) -> bool:
    status = path.stat()
    shift = 6 if status.st_uid == uid else 3 if status.st_gid == gid else 0
    return stat.S_IMODE(status.st_mode) >> shift & bits == bits
