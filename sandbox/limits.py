"""Which limits hold here, and how: control groups where they can be made, else what a process may limit itself.

A control group is made below the caller's own, so that what limits the caller limits its sandboxes as well.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path

from milepost.sandbox import leftovers
from milepost.sandbox.core import Limits, Settings

PERIOD_US = 100_000
_number = count()


@dataclass(frozen=True)
class Groups:
    """Where control groups can be made: a folder by controller. With version 2 it is one folder for all."""

    version: int
    folders: Mapping[str, Path]

    @property
    def text(self) -> str:
        """What records say of it."""
        return f"cgroup v{self.version}"

    def make(self, limits: Limits) -> Group:
        """Make a group with those of the limits that it can enforce.

        Raises:
            OSError: It cannot be made.
        """
        name = f"{leftovers.PREFIX}{leftovers.me().mark}-{next(_number)}"
        group = Group({folder / name for folder in self.folders.values()})
        try:
            for path in group.paths:
                path.mkdir()
            for controller, file, value in self._values(limits):
                path = self.folders[controller] / name / file
                # Only where swap is accounted for there is a file for it.
                with suppress(FileNotFoundError, PermissionError) if "sw" in file else suppress():
                    path.write_text(value)
        except OSError:
            group.remove()
            raise
        return group

    def _values(self, limits: Limits) -> list[tuple[str, str, str]]:
        values = []
        if limits.memory is not None and "memory" in self.folders:
            first = self.version == 1
            values.append(("memory", "memory.limit_in_bytes" if first else "memory.max", str(limits.memory)))
            swap = ("memory.memsw.limit_in_bytes", str(limits.memory)) if first else ("memory.swap.max", "0")
            values.append(("memory", *swap))
        if limits.cpus is not None and "cpu" in self.folders:
            quota = str(max(1000, round(limits.cpus * PERIOD_US)))
            if self.version == 1:
                values += [("cpu", "cpu.cfs_period_us", str(PERIOD_US)), ("cpu", "cpu.cfs_quota_us", quota)]
            else:
                values.append(("cpu", "cpu.max", f"{quota} {PERIOD_US}"))
        return values


@dataclass(frozen=True)
class Group:
    """A control group of one sandbox."""

    paths: Collection[Path]

    def open(self) -> list[int]:
        """Return descriptors: whoever has them is in the group after writing 0 to each, and so is all it starts."""
        return [os.open(path / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC) for path in self.paths]

    @property
    def n_out_of_memory(self) -> int:
        """How many processes of it were killed for memory."""
        for path in self.paths:
            for name in ("memory.events", "memory.oom_control"):
                with suppress(OSError, ValueError):
                    rows = dict(line.split() for line in (path / name).read_text().splitlines())
                    return int(rows["oom_kill"])
        return 0

    def remove(self, patience_s: float = 2.0) -> None:
        """Remove it once its processes, which were killed, are gone."""
        end = time.monotonic() + patience_s
        for path in self.paths:
            while path.exists():
                try:
                    path.rmdir()
                except OSError:
                    if time.monotonic() > end:
                        break
                    with suppress(OSError, ValueError):
                        for pid in map(int, (path / "cgroup.procs").read_text().split()):
                            os.kill(pid, 9)
                    time.sleep(0.001)


def find(process: Path = Path("/proc/self")) -> Groups | None:
    """Return where control groups for memory, and perhaps CPU, can be made; None: nowhere.

    Args:
        process: The caller's folder in ``/proc``.
    """
    try:
        own = {row.split(":", 2)[1]: row.split(":", 2)[2] for row in (process / "cgroup").read_text().splitlines()}
        mounts = [row.split() for row in (process / "mountinfo").read_text().splitlines()]
    except OSError:
        return None
    folders: dict[str, Path] = {}
    second = None
    for row in mounts:
        kind, options = row[row.index("-") + 1], row[-1].split(",")
        if kind == "cgroup2":
            second = _below(row, own.get("", "/"))
        for controller in {"memory", "cpu"} & set(options) if kind == "cgroup" else ():
            names = next((name for name in own if controller in name.split(",")), None)
            path = _below(row, own[names]) if names else None
            if path and os.access(path, os.W_OK):
                folders[controller] = path
    if "memory" in folders:
        return Groups(1, folders)
    return _delegated(second) if second else None


def _below(mount: list[str], path: str) -> Path | None:
    """Return the folder of a control group in a mount; None where the mount does not show it."""
    root, at = mount[3], Path(mount[4])
    if path == root:
        return at
    return at / path[len(root.rstrip("/")) :].lstrip("/") if path.startswith(root.rstrip("/") + "/") else None


def _delegated(own: Path) -> Groups | None:
    """Return the caller's group of version 2 if it was given to the caller to divide."""
    try:
        there = set((own / "cgroup.controllers").read_text().split()) & {"memory", "cpu"}
        if "memory" not in there or not all(os.access(path, os.W_OK) for path in (own, own / "cgroup.procs")):
            return None
        control = own / "cgroup.subtree_control"
        if not there <= set(control.read_text().split()):
            top = not (own / "cgroup.type").exists()
            given = os.geteuid() or {os.getxattr(own, f"{kind}.delegate") for kind in ("user", "trusted")} & {b"1"}
            if not (top or given):
                return None
            if not top:
                # A group that is divided may have no processes of its own: they move into a part of it.
                part = own / f"{leftovers.PREFIX}host-{leftovers.me().mark}"
                part.mkdir(exist_ok=True)
                for pid in (own / "cgroup.procs").read_text().split():
                    (part / "cgroup.procs").write_text(pid)
            control.write_text(" ".join(f"+{name}" for name in sorted(there)))
    except OSError:
        return None
    return Groups(2, dict.fromkeys(there, own))
