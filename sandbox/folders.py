"""Where sandboxes keep what outlives a process, and as whom they run what is not trusted.

Root's own folders and temporary files are often closed to others, so that an ordinary user's guest could not even
reach them. What a sandbox reads therefore lies in a state folder that its user may traverse.
"""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path

from milepost.sandbox.core import SandboxError

UID = GID = 65533
"""Whom root becomes before anything of a sandbox runs: above the users that systems and ``systemd`` hand out, and not
``nobody``, who may own files elsewhere. Landlock, which has no namespaces, takes 200000 and more, one a sandbox."""


def owner() -> tuple[int, int]:
    """Return user and group of what runs in sandboxes: an ordinary user's own; root's are ``UID`` and ``GID``."""
    if os.geteuid() == 0 and _mapped("uid_map", UID) and _mapped("gid_map", GID):
        return UID, GID
    return os.geteuid(), os.getegid()


def state(*names: str) -> Path:
    """Return a folder below the state folder, made where it is missing.

    Others may enter it but not list it where root made it; an ordinary user's is closed to others.

    Raises:
        SandboxError: It cannot be made.
    """
    folder = _root()
    for name in names:
        folder = folder / name
        folder.mkdir(mode=0o711, exist_ok=True)
    return folder


@cache
def _root() -> Path:
    problems = []
    for folder in _places():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, exist_ok=True)
            if folder.stat().st_uid == os.geteuid() and os.access(folder, os.W_OK | os.X_OK):
                return folder
            problems.append(f"{folder} is not ours to write")
        except OSError as error:
            problems.append(f"{folder}: {error.strerror}")
    raise SandboxError(f"no folder for the state of sandboxes: {'; '.join(problems)}")


def _places() -> list[Path]:
    last = Path(tempfile.gettempdir(), f"milepost-{os.geteuid()}")
    if os.geteuid() == 0:
        return [Path("/var/lib/milepost"), last]
    homes = [(os.environ.get("XDG_STATE_HOME", ""), ".local/state"), (os.environ.get("XDG_CACHE_HOME", ""), ".cache")]
    given = [Path(home) if os.path.isabs(home) else Path(os.path.expanduser("~"), other) for home, other in homes]
    return [home / "milepost" for home in given if home.is_absolute()] + [last]


@cache
def _mapped(table: str, number: int) -> bool:
    """Whether a user or group exists here: in a container without root rights often only root itself does."""
    try:
        rows = [list(map(int, line.split())) for line in Path("/proc/self", table).read_text().splitlines()]
    except OSError:
        return True
    return any(first <= number < first + n for first, _, n in rows)
