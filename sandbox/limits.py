"""Which limits hold here, and how: control groups where they can be made, else what a process may limit itself.

A control group is made below the caller's own, so that what limits the caller limits its sandboxes as well.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

from milepost.sandbox import leftovers
from milepost.sandbox.core import Limits, SandboxError, Settings

PERIOD_US = 100_000
PER_PROCESS = "per process"
"""How memory is limited where no control group can be made: each process has as much address space."""
SWAP = ("memory.memsw.limit_in_bytes", "memory.swap.max")
"""Are there only where swap is accounted for."""
PART = "main.milepost"
"""What the caller's processes move to where their control group is divided."""
ROUNDS = 10
"""How often they are looked for: some may have started others before they moved."""
LEAST = {"memory": 1 << 25, "processes": 1, "cpus": 0.01, "disk": 1 << 16, "files": 64}
"""Below these nothing would start."""

_number = count()


def probed(probe: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what a backend's probe found, or why it found nothing.

    A probe remembers only what worked: what was in its way may be gone when it is asked again.
    """
    try:
        return {"available": True, "why": None} | probe()
    except (OSError, SandboxError, ValueError, subprocess.TimeoutExpired) as error:
        return {"available": False, "why": str(error), "version": None, "limits": dict.fromkeys((*LEAST, "network"))}


def checked(
    backend: str, settings: Settings, ways: Mapping[str, str | None], without: Collection[str] = ()
) -> dict[str, str | None]:
    """Return how each limit that was asked for is enforced; None: it is not, and was allowed to go without.

    Args:
        backend: For messages.
        settings: Its limits and what it allows.
        ways: How the backend enforces each limit here; None: not at all.
        without: Limits that are left out, to show what they are good for.

    Raises:
        ValueError: A limit cannot be enforced here, or is none.
    """
    ways = {name: None if name in without else way for name, way in ways.items()}
    asked = {field.name: getattr(settings.limits, field.name) for field in fields(Limits)}
    for name, value in asked.items():
        if value is not None and name in LEAST and not value >= LEAST[name]:
            raise ValueError(f"limits: {name}: expected at least {LEAST[name]}, got {value}")
        if value is not None and ways[name] is None and name not in {*settings.allow, *without}:
            none = "" if name == "network" else ", None asks for no limit"
            raise ValueError(
                f"{backend} cannot enforce the limit {name}={value!r} here: allow={{{name!r}}} (--allow {name}) lets "
                f"it go without, another backend may enforce it{none}"
            )
    return {name: None if value is None else ways[name] for name, value in asked.items()}


def in_force(limits: Limits, how: Mapping[str, str | None]) -> Limits:
    """Return limits without those that are not enforced."""
    unenforced: dict[str, Any] = {name: None for name, way in how.items() if way is None and name != "network"}
    return replace(limits, **unenforced)


def made_for(limits: Limits, how: Mapping[str, str | None]) -> Group | None:
    """Return a new control group for what is enforced by one; None: nothing is.

    Raises:
        OSError: It cannot be made.
    """
    found = groups() if any(how[name] not in (None, PER_PROCESS) for name in ("memory", "cpus")) else None
    return found.make(in_force(limits, how)) if found else None


def rlimits(limits: Limits, how: Mapping[str, str | None]) -> dict[str, int]:
    """Return what every command is limited by itself: numbers by the names of ``resource``, without ``RLIMIT_``."""
    found = {"CORE": 1}  # not 0: with a program as receiver of core dumps the kernel asks for this very number
    if limits.memory is not None and how["memory"] == PER_PROCESS:
        found["AS"] = limits.memory
    if limits.processes is not None and how["processes"]:
        found["NPROC"] = limits.processes + 2  # the guest's own two
    if limits.files is not None and how["files"]:
        found["NOFILE"] = limits.files
    return found


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
                if path.exists() or file not in SWAP:
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
            values.append(("memory", SWAP[0], str(limits.memory)) if first else ("memory", SWAP[1], "0"))
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
        """Return descriptors: a process of one thread is in the group after writing 0 to each, with all it starts."""
        # Version 1 moves a thread through "tasks" at once; before it moves a process it waits for all processors.
        names = {path: "tasks" if (path / "tasks").exists() else "cgroup.procs" for path in self.paths}
        return [os.open(path / name, os.O_WRONLY | os.O_CLOEXEC) for path, name in names.items()]

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
                        for pid in filter(None, map(int, (path / "cgroup.procs").read_text().split())):
                            os.kill(pid, 9)  # version 2 shows one that is just gone as 0, which is our own group
                    time.sleep(0.001)


@cache
def groups() -> Groups | None:
    """Return where this process can make control groups, tried out once; None: nowhere."""
    found = find()
    if found:
        try:
            found.make(Limits()).remove()
        except OSError:
            return None
    return found


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


def places() -> list[Path]:
    """Return the folders in which this machine's sandboxes have, or left, control groups: for the reaper."""
    found = groups()
    homes: set[Path] = set()
    for folder in set(found.folders.values()) if found else ():
        for at, names, _ in os.walk(top(folder)):
            marked = [name for name in names if name.startswith(leftovers.PREFIX)]
            homes.update({Path(at)} if marked else ())
            names[:] = [name for name in names if name not in marked]
    return sorted(homes)


def top(folder: Path) -> Path:
    """Return the topmost folder of the control groups that a folder is one of."""
    while os.path.exists(folder.parent / "cgroup.procs"):
        folder = folder.parent
    return folder


def _below(mount: list[str], path: str) -> Path | None:
    """Return the folder of a control group in a mount; None where the mount does not show it."""
    root, at = mount[3], Path(mount[4])
    if path == root:
        return at
    return at / path[len(root.rstrip("/")) :].lstrip("/") if path.startswith(root.rstrip("/") + "/") else None


def _delegated(own: Path) -> Groups | None:
    """Return the caller's group of version 2 if it was given to the caller to divide."""
    own = own.parent if own.name == PART else own
    try:
        there = set((own / "cgroup.controllers").read_text().split()) & {"memory", "cpu"}
        if "memory" not in there or not all(os.access(path, os.W_OK) for path in (own, own / "cgroup.procs")):
            return None
        control = own / "cgroup.subtree_control"
        if not there <= set(control.read_text().split()):
            top = not (own / "cgroup.type").exists()
            if not (top or os.geteuid() or _marked(own)):
                return None
            if not top:
                # A group that is divided may have no processes of its own: they move into a part of it.
                part = own / PART
                part.mkdir(exist_ok=True)
                for _ in range(ROUNDS):
                    for pid in (own / "cgroup.procs").read_text().split():
                        with suppress(ProcessLookupError):  # it has just ended
                            (part / "cgroup.procs").write_text(pid)
            control.write_text(" ".join(f"+{name}" for name in sorted(there)))
    except OSError:
        return None
    return Groups(2, dict.fromkeys(there, own))


def _marked(own: Path) -> bool:
    """Whether a service manager says that its owner may divide a group: root may write to all."""
    for kind in ("user", "trusted"):
        with suppress(OSError):
            if os.getxattr(own, f"{kind}.delegate") == b"1":
                return True
    return False
