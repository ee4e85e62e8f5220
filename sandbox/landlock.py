"""Sandboxes of the kernel's Landlock and seccomp alone, for where no namespaces can be had: weaker, and never chosen
by itself.

Commands see which other processes run, and that files exist, and may change times and modes of their user's own files:
for an ordinary user these are all that it has, bases and other sandboxes among them.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from milepost.sandbox import bases, bwrap, folders, leftovers, limits, reach, runtime
from milepost.sandbox.core import SandboxError, Settings
from milepost.sandbox.hosts import GUEST, Link, PipeLink, end_guest, guards, said_of
from milepost.sandbox.names import refuse_unknown

PROTECTIONS = ("seccomp", "landlock", "fence", "signals", "network", "userns", "user", *limits.LEAST)
"""What can be left out to show what it is good for, besides ``hosts.GUEST``. ``fence`` is that of each command towards
its server; ``signals`` what both fences say of signals and abstract sockets; ``user`` a user of its own."""
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/proc")
FILES = (*bwrap.FILES, "group", "hosts", "nsswitch.conf", "passwd")
DEVICES = ("/dev/full", "/dev/null", "/dev/random", "/dev/urandom", "/dev/zero")
PATH = "/usr/local/bin:/usr/bin:/bin"
FIRST_UID, N_UIDS = 200_000, 10_000
"""As root every sandbox has a user of its own, so that processes are counted, and signals stay, within it."""


def capabilities() -> dict[str, Any]:
    """Return whether Landlock works here, and how each limit is enforced."""
    return limits.probed(_capabilities)


@cache
def _capabilities() -> dict[str, Any]:
    config = {"probe": True, "read": _system(), "write": [], "devices": [], "seccomp": {"network": "none"}}
    argv = runtime.command(runtime.guest_folder("fence"), json.dumps(config | {"without": []}))
    asked = runtime.start(lambda: subprocess.run(argv, capture_output=True, text=True, timeout=20))
    if asked.returncode:
        raise ValueError((asked.stderr.strip().splitlines() or ["the guest did not start"])[-1])
    groups = limits.groups()
    ways = {
        "memory": groups.text if groups else limits.PER_PROCESS,
        "processes": "RLIMIT_NPROC of a user of its own" if own_users() else None,
        "cpus": groups.text if groups and "cpu" in groups.folders else None,
        "disk": None,
        "files": "RLIMIT_NOFILE",
        "network": "seccomp",
    }
    return {"version": json.loads(asked.stdout)["abi"], "limits": ways}


class LandlockHost:
    """Starts the guest as a plain process that fences itself in.

    Args:
        settings: How the sandbox begins. The size of the workspace is not limited, and ``loopback`` cannot be had.
        without: Some of ``PROTECTIONS`` or ``GUEST`` that are left out, to show that they matter, in an outer one.

    Raises:
        ValueError: Landlock is not there, or cannot do what is asked for.
    """

    backend = "landlock"

    def __init__(self, settings: Settings, *, without: Collection[str] = frozenset()) -> None:
        refuse_unknown("landlock without", without, (*PROTECTIONS, *GUEST))
        known = capabilities()
        if not known["available"]:
            raise ValueError(f"landlock is not there: {known['why']}")
        if settings.image is not None:
            raise ValueError(f"image: only docker has images, got {settings.image!r} for landlock")
        self.settings, self._without, self._abi = settings, frozenset(without), known["version"]
        ways = dict(known["limits"])
        if settings.limits.network == "loopback":
            ways["network"] = None
        self._how = limits.checked(self.backend, settings, ways, self._without)
        self._mounts = {at: str(reach.readable(path)) for at, path in settings.mounts.items()}
        self._base = str(bases.prepare(settings.base)) if settings.base else None
        self._user = _User(own=own_users() and "user" not in self._without)
        self._folder = leftovers.folder("landlock")
        self.workspace = str(self._folder / "workspace")
        self.isolation: Mapping[str, Any] = self._isolation()
        self._process: subprocess.Popen[bytes] | None = None
        self._group: limits.Group | None = None

    def start(self) -> Link:
        """Start a guest with an untouched workspace."""
        try:
            self._folder.mkdir(mode=0o700)  # again, where it was stopped
        except FileExistsError:
            there = os.lstat(self._folder)
            if not stat.S_ISDIR(there.st_mode) or there.st_uid != os.geteuid():
                raise SandboxError(f"landlock: {self._folder} is somebody else's") from None
        for path in (self._folder, self._folder / "workspace", self._folder / "tmp"):
            path.mkdir(exist_ok=True)
            os.chown(path, *self._user.ids, follow_symlinks=False)
        fds: list[int] = []
        try:
            self._group = limits.made_for(self.settings.limits, self._how)
            fds = self._group.open() if self._group else []
            argv = runtime.command(runtime.guest_folder("fence"), json.dumps(self._config() | {"groups": fds}))
            self._process = runtime.start(lambda: runtime.spawn(argv, fds, self._user.ids))
        except OSError as error:
            self.stop()
            raise SandboxError(f"landlock: {error}") from None
        finally:
            for fd in fds:
                os.close(fd)
        return PipeLink.of(self._process)

    def stop(self) -> None:
        """Kill it with all that it started and remove what it left; a second call does nothing."""
        process, self._process = self._process, None
        if process:
            end_guest(process)
        self._user.kill()
        group, self._group = self._group, None
        if group:
            group.remove()
        if self._folder.exists():
            bases.remove(self._folder)

    def why_gone(self) -> str:
        """Say why the guest is gone, as far as can be told."""
        memory = self._group and self._group.n_out_of_memory
        return said_of(self._process) + (" (out of memory)" if memory else "")

    def place(self, mount: str) -> str:
        """Return where commands find a mount."""
        return self._mounts[mount]

    def _config(self) -> dict[str, Any]:
        tmp = str(self._folder / "tmp")
        own = [path for path in (self._base, *self._mounts.values()) if path]
        limited = self._how["memory"] == limits.PER_PROCESS
        return {
            "workspace": self.workspace,
            "base": self._base,
            "env": {"PATH": PATH, "HOME": tmp, "TMPDIR": tmp, "LANG": "C.UTF-8"} | dict(self.settings.env),
            "rlimits": limits.rlimits(limits.in_force(self.settings.limits, self._how), self._how),
            "overlay": False,
            "clean": [tmp],
            "parent": os.getpid(),
            "fence": self._fence(),
            "without": sorted(self._without),
            "read": [*(path for place in _system() for path in _but(place, self.settings.hidden)), *own],
            "write": [self.workspace, tmp],
            "devices": [path for path in DEVICES if os.path.exists(path)],
            "seccomp": {"network": "none" if self._how["network"] else "any", "shared_memory": not limited},
            "probe": False,
        }

    def _fence(self) -> list[str] | None:
        """Return the parts of each command's fence."""
        return None if "fence" in self._without else [p for p in ("signals", "proc") if p not in self._without]

    def _isolation(self) -> dict[str, Any]:
        there = {name: name not in self._without for name in PROTECTIONS}
        signals = there["landlock"] and there["fence"] and there["signals"] and self._abi >= 6
        return {
            "backend": self.backend,
            "version": f"Landlock {self._abi}",
            "filesystem": "the host's, read-only system files" if there["landlock"] else "the host's",
            "modes": "of its own files" if self._user.own else "of all files of its user",
            "pid": "the host's processes are visible",
            "signals": "to its own processes" if signals else "to all processes of its user",
            "fences": "around it, and each command" if there["fence"] else "around it",
            "network": "no sockets but of the file system" if self._how["network"] else "the host's",
            "seccomp": there["seccomp"],
            "capabilities": "none",
            "user_namespaces": "refused" if there["userns"] else "allowed",
            "user": self._user.text,
            **guards(self._without),
            "limits": self._how,
            "without": sorted(self._without),
        }


class _User:
    """As whom a sandbox runs: as root a user of its own, which no other sandbox takes meanwhile."""

    def __init__(self, own: bool) -> None:
        self._lock: int | None = None
        self.own = own
        self.ids = folders.owner()
        for number in _numbers() if own else ():
            fd = os.open(folders.state("users") / str(number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                continue
            self._lock, self.ids = fd, (number, number)
            break
        same = self.ids[0] == os.geteuid()
        self.text = f"uid {self.ids[0]}" if same else f"dropped to uid {self.ids[0]}"

    def kill(self) -> None:
        """Kill what still runs of a user that is the sandbox's own."""
        while self._lock is not None and (left := _processes_of(self.ids[0])):
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, 9)

    def __del__(self) -> None:
        if self._lock is not None:
            os.close(self._lock)


@cache
def own_users() -> bool:
    """Whether root may become any user."""
    return os.geteuid() == 0 and all(
        folders._mapped(table, number) for table in ("uid_map", "gid_map") for number in (FIRST_UID, FIRST_UID + N_UIDS)
    )


def _numbers() -> Iterator[int]:
    first = int.from_bytes(os.urandom(4), "little")
    return (FIRST_UID + (first + n) % N_UIDS for n in range(N_UIDS))


def _processes_of(uid: int) -> list[int]:
    found = []
    for path in Path("/proc").iterdir():
        with suppress(OSError):
            if path.name.isdigit() and path.stat().st_uid == uid and b"Z" not in _state(path):
                found.append(int(path.name))
    return found


def _state(path: Path) -> bytes:
    return (path / "stat").read_bytes().rpartition(b")")[2].split()[0]


def _but(place: str, hidden: Collection[str]) -> Iterator[str]:
    """Yield what may be read of a place without what is hidden in it; a link has no right, its target has its own."""
    real = os.path.realpath(place)
    if not any(path == real or path.startswith(f"{real}/") for path in hidden):
        yield real
    elif real not in hidden:
        for child in os.scandir(real):
            if not child.is_symlink():
                yield from _but(child.path, hidden)


def _system() -> list[str]:
    """Return what every program needs to read."""
    places = [*SYSTEM, *(f"/etc/{name}" for name in FILES), str(runtime.guest_folder("fence"))]
    python = runtime.interpreter()
    places += [] if python.startswith("/usr/") else [os.path.dirname(os.path.dirname(python))]
    return [path for path in places if os.path.exists(path)]
