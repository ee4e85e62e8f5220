"""Removes what crashed processes left of their sandboxes, and nothing whose owner may live.

Whatever outlives a process bears its owner's mark in its name or labels: process id, when that process started (ids
come again), the boot, and the namespace that the id is of. An owner of another namespace or machine cannot be judged
from here, and what it has is left alone.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from milepost.sandbox import bases

PREFIX = "milepost-"
MARKED = re.compile(rf"{PREFIX}(?:[a-z]+-)?(\d+)-(\d+)-([0-9a-f]+)-(\d+)(?:-|$)")


class Owner(NamedTuple):
    """A process, told from all others there were."""

    pid: int
    started: int
    """Clock ticks after the boot."""
    boot: str
    namespace: int
    """Of process ids."""

    @property
    def mark(self) -> str:
        """What names of things that it owns begin with, after ``milepost-`` and perhaps a word."""
        return f"{self.pid}-{self.started}-{self.boot}-{self.namespace}"

    @property
    def labels(self) -> dict[str, str]:
        """The same for containers."""
        return {f"milepost.{name}": str(value) for name, value in self._asdict().items()}

    @property
    def alive(self) -> bool | None:
        """Whether it still runs; None where that cannot be told from here."""
        here = me()
        if (self.boot, self.namespace) != (here.boot, here.namespace):
            return None
        return started(self.pid) == self.started


def me() -> Owner:
    """Return this process."""
    pid = os.getpid()
    return Owner(pid, started(pid) or 0, _boot(), _namespace(pid))


def started(pid: int) -> int | None:
    """Return when a process started, in clock ticks after the boot; None: there is none, or it is dead already."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def owner_of(name: str) -> Owner | None:
    """Return whose mark a name bears; None: nobody's."""
    found = MARKED.match(name)
    return Owner(int(found[1]), int(found[2]), found[3], int(found[4])) if found else None


def labelled(labels: Mapping[str, str]) -> Owner | None:
    """Return whose labels these are; None: nobody's."""
    try:
        pid, at, boot, namespace = (labels[f"milepost.{name}"] for name in Owner._fields)
        return Owner(int(pid), int(at), boot, int(namespace))
    except (KeyError, ValueError):
        return None


def folder(kind: str) -> Path:
    """Make a temporary folder that is removed at a later start if this process cannot do it."""
    return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{kind}-{me().mark}-"))


def clean(*, folders: Iterable[Path] = (), cgroups: Iterable[Path] = ()) -> list[Path]:
    """Remove folders and control groups of dead owners; return them.

    Args:
        folders: Where to look for folders besides that of temporary files.
        cgroups: Folders in which backends make their control groups.
    """
    gone = []
    for path in (path for root in (Path(tempfile.gettempdir()), *folders) for path in _marked(root)):
        owner = owner_of(path.name)
        # Folders outlive the boot, but nobody's of an earlier one uses them any more.
        if owner and (owner.alive is False or (owner.boot != _boot() and _before_boot(path))) and unmount(path):
            bases.remove(path)
            gone.append(path)
    for root in cgroups:
        for path in _marked(root):
            owner = owner_of(path.name)
            if owner and owner.alive is False and remove_cgroup(path):
                gone.append(path)
    return gone


def clean_containers(engine: Any) -> list[str]:
    """Remove containers of dead owners, and such as do not run and have no owner here; return their names.

    Args:
        engine: A client of the ``docker`` package.
    """
    gone = []
    for found in engine.api.containers(all=True, filters={"label": "milepost.pid"}):
        owner = labelled(found["Labels"])
        alive = owner.alive if owner else True
        # An engine may serve other machines: what runs there is theirs.
        if alive is False or (alive is None and found["State"] in ("exited", "dead")):
            try:
                engine.api.remove_container(found["Id"], force=True, v=True)
            except Exception as error:  # another process was faster
                if getattr(getattr(error, "response", None), "status_code", None) not in (404, 409):
                    raise
            gone.append(found["Names"][0].lstrip("/") if found["Names"] else found["Id"])
    return gone


def _marked(root: Path) -> list[Path]:
    with suppress(OSError):
        return [path for path in root.iterdir() if path.name.startswith(PREFIX) and not path.is_symlink()]
    return []


def unmount(path: Path) -> bool:
    """Take away what is mounted in a folder; removing it would remove what belongs to others."""
    with suppress(OSError):
        found = [os.fsdecode(line.split()[4]) for line in Path("/proc/self/mountinfo").read_bytes().splitlines()]
        inside = [at for at in found if Path(at) == path or path in Path(at).parents]
        return all(ctypes.CDLL(None).umount2(os.fsencode(at), 2) == 0 for at in reversed(inside))  # MNT_DETACH
    return True


def remove_cgroup(path: Path) -> bool:
    """Kill what is in a control group and remove it, with the groups in it."""
    for _ in range(100):
        for at, _, _ in os.walk(path, topdown=False):
            with suppress(OSError):
                for pid in Path(at, "cgroup.procs").read_text().split():
                    with suppress(ProcessLookupError):
                        if int(pid) > 0:  # 0: a process of another namespace
                            os.kill(int(pid), signal.SIGKILL)
            with suppress(OSError):
                os.rmdir(at)
        if not path.exists():
            return True
        time.sleep(0.01)
    return False


def _before_boot(path: Path) -> bool:
    with suppress(OSError):
        return path.lstat().st_mtime < time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return False


@cache
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().replace("-", "")[:8]
    except OSError:
        return "0"


@cache
def _namespace(pid: int) -> int:
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0
