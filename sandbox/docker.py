"""Sandboxes as containers of a Docker engine; podman's socket, which speaks the same, does as well.

The guest is the container's first process and the last one that believes anything: commands have no privileges, no
network, no file system to write to but a workspace and temporary folders of limited size, and what ``guest.confine``
refuses on top of the engine's own list of system calls.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from collections.abc import Collection, Mapping
from contextlib import closing, suppress
from functools import cache
from typing import Any

from milepost.sandbox import bases, bwrap, leftovers, reach, runtime, skeleton
from milepost.sandbox.core import SandboxError, Settings
from milepost.sandbox.hosts import GUEST, Link, guards
from milepost.sandbox.limits import LEAST, checked
from milepost.sandbox.names import refuse_unknown

PROTECTIONS = (
    *("seccomp", "capabilities", "privileges", "readonly", "pid", "ipc", "network", "devices", "systempaths"),
    *LEAST,
)
"""What can be left out to show what it is good for, besides ``hosts.GUEST``."""
UID = 1000
WORKSPACE, BASE = "/workspace", "/base"
TIMEOUT_S = 30
"""What the engine may take for anything that is asked of it."""
PATIENCE_S = 2.0
"""How long a guest may take to end by itself, before it is killed."""
ANSWER_S = 5
"""What it may take to say that it is there."""
HINT = "start a Docker engine (DOCKER_HOST says where it listens), or use bubblewrap"


def engine(timeout_s: int | None = None) -> Any:
    """Return a client of the engine that ``DOCKER_HOST`` names; whoever asked for it closes it.

    Args:
        timeout_s: What the engine may take for anything that the client asks; None is ``TIMEOUT_S``.

    Raises:
        ValueError: The package is missing, or no engine answers.
    """
    try:
        import docker
    except ImportError:
        raise ValueError("docker: needs the Docker client: pip install 'milepost[docker]'") from None
    try:
        client = docker.from_env(timeout=timeout_s or TIMEOUT_S)
        client.ping()
    except Exception as error:  # the SDK's own, requests' and urllib3's
        raise ValueError(f"docker: no engine answers: {HINT} ({_short(error)})") from None
    return client


def capabilities() -> dict[str, Any]:
    """Return whether an engine answers, and what it enforces; one that answered is not asked again."""
    try:
        return dict(_capabilities(os.environ.get("DOCKER_HOST", "")))
    except ValueError as error:
        return {"available": False, "why": str(error).removeprefix("docker: ")}


@cache
def _capabilities(host: str) -> dict[str, Any]:
    try:
        with closing(engine(ANSWER_S)) as client:
            info = client.info()
    except OSError as error:  # requests' own are; the engine went away between the two
        raise ValueError(f"docker: no engine answers: {HINT} ({_short(error)})") from None
    by = f"cgroup v{info.get('CgroupVersion', '1')}"
    return {
        "available": True,
        "why": None,
        "version": info.get("ServerVersion"),
        "storage": info.get("Driver"),
        "rootless": any("rootless" in option for option in info.get("SecurityOptions") or ()),
        "cpus": info.get("NCPU"),
        "limits": {
            "memory": by if info.get("MemoryLimit") else None,
            "processes": by if info.get("PidsLimit") else None,
            "cpus": by if info.get("CpuCfsQuota") else None,
            "disk": "tmpfs",
            "files": "per process",
            "network": "namespace",
        },
    }


class DockerHost:
    """Starts the guest as a hardened container."""

    backend = "docker"

    def __init__(self, settings: Settings, *, without: Collection[str] = ()) -> None:
        """Prepare one.

        Args:
            settings: ``image`` must have a Python of its own.
            without: Some of ``PROTECTIONS`` or ``GUEST`` that are left out, to show that they matter; in a sandbox
                around it.

        Raises:
            ValueError: No engine, no such image, or a limit that this engine does not enforce.
            SandboxError: The engine answered before, and does not now.
        """
        refuse_unknown("docker without", without, (*PROTECTIONS, *GUEST))
        self.settings, self._without = settings, frozenset(without)
        self.workspace = settings.workspace or WORKSPACE
        said = capabilities()
        if not said["available"]:
            raise ValueError(f"docker: {said['why']}")
        if said["cpus"] and (settings.limits.cpus or 0) > said["cpus"]:
            raise ValueError(f"limits: cpus: expected at most the engine's {said['cpus']}, got {settings.limits.cpus}")
        how = checked(self.backend, settings, said["limits"], self._without)
        self._mounts = {bwrap.place(at): reach.readable(path) for at, path in settings.mounts.items()}
        self._mounts |= reach.blanks(settings.hidden if settings.image is None else ())
        self._base = bases.prepare(settings.base) if settings.base else None
        copied = bases.size(self._base) if self._base else 0
        self._room = bwrap.room(settings, how["memory"] is not None, "disk" in self._without, copied)
        try:
            _clean_once(os.environ.get("DOCKER_HOST", ""))
            self._client = engine()
        except Exception as error:
            why = _short(error).removeprefix(f"docker: no engine answers: {HINT} ")
            raise SandboxError(f"docker: the engine does not answer any more: {why}") from None
        try:
            self._image = self._find_image()
        finally:
            self._client.close()  # which does not end it: it opens what it needs again
        self.isolation: Mapping[str, Any] = {
            "backend": "docker",
            "version": said["version"],
            "image": settings.image or "skeleton with the host's /usr",
            "limits": how,
            "tmpfs_bytes": dict(self._room),
            "without": sorted(self._without),
            **self._claims(),
        }
        self._container: Any = None
        self._link: DockerLink | None = None

    def start(self) -> Link:
        """Start a guest with an untouched workspace.

        Raises:
            SandboxError: The engine does not do it.
        """
        for left in list(_left):
            _remove(self._client.api, left)
        try:
            if "systempaths" in self._without:
                _show_system_paths(self._client.api)
            self._container = self._client.containers.create(**self._arguments())
            wanted = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
            self._link = DockerLink(self._client.api.attach_socket(self._container.id, params=wanted))
            self._container.start()
            return self._link
        except Exception as error:
            self.stop()
            raise SandboxError(f"docker: the container did not start: {_short(error)}") from None

    def stop(self) -> None:
        """Remove the container; a second call does nothing."""
        container, self._container = self._container, None
        if container is not None:
            with suppress(Exception):  # to kill it costs the engine one more program, a third of a removal
                if self._link:
                    self._link.end()
                    self._client.api.wait(container.id, timeout=PATIENCE_S)
            _remove(self._client.api, container.id)
        self._client.close()

    def why_gone(self) -> str:
        """Say why the guest is gone, as far as can be told."""
        container = self._container
        if container is None:
            return "the container was removed"
        try:
            for _ in range(20):  # its end is known a moment after its pipe's
                container.reload()
                if container.status != "running":
                    break
                time.sleep(0.05)
            state = container.attrs["State"]
        except Exception as error:
            if getattr(getattr(error, "response", None), "status_code", None) == 404:
                return "the container was removed from outside"
            return f"the Docker engine does not answer: {_short(error)}"
        if state.get("OOMKilled"):
            return "the container ran out of memory"
        code = state.get("ExitCode")
        killed = " (killed from outside, or out of memory)" if code == 137 else ""
        return f"the container is {state.get('Status')}, exit code {code}{killed} {state.get('Error', '')}".rstrip()

    def place(self, mount: str) -> str:
        """Return where commands find a mount."""
        return bwrap.place(mount)

    def _claims(self) -> dict[str, Any]:
        """Return what records say of the protections that are no limits."""
        there = {name: name not in self._without for name in PROTECTIONS}
        spaces = {name: "its own" if there[name] else "the host's" for name in ("pid", "ipc", "network", "devices")}
        return spaces | {
            "user": UID if there["capabilities"] else 0,
            "capabilities": "none" if there["capabilities"] else "the engine's, and SYS_ADMIN",
            "privileges": "no new ones" if there["privileges"] else "those of the programs it starts",
            "filesystem": "read-only but for memory" if there["readonly"] else "open to writing",
            "systempaths": "closed" if there["systempaths"] else "open",
            "seccomp": there["seccomp"],
            **guards(self._without),
        }

    def _arguments(self) -> dict[str, Any]:
        """Return what ``docker create`` is told."""
        limits, without = self.settings.limits, self._without
        binds = {runtime.PLACE: str(runtime.guest_folder())}
        binds |= {place: str(path) for place, path in self._mounts.items()}
        if self._base:
            binds[BASE] = str(self._base)
        if self.settings.image is None:
            binds |= {path: path for path in ("/usr", "/etc/alternatives", "/etc/ld.so.cache") if os.path.exists(path)}
        binds |= {"/dev": "/dev"} if "devices" in without else {}
        closed = "readonly" not in without
        security = [] if "privileges" in without else ["no-new-privileges"]
        arguments: dict[str, Any] = {
            "image": self._image,
            "entrypoint": runtime.command(runtime.PLACE, json.dumps(self._config()), self._python()),
            "command": [],
            "labels": leftovers.me().labels,
            "stdin_open": True,
            "user": f"{UID}:{UID}",
            "working_dir": "/",
            "network_mode": "host" if "network" in without else "none",
            "pid_mode": "host" if "pid" in without else None,
            "read_only": closed,
            "cap_drop": ["ALL"],
            "ipc_mode": "host" if "ipc" in without else "private",
            "log_config": {"type": "none"},
            "tmpfs": {place: _tmpfs(size) for place, size in self._room.items()},
            "mounts": [
                {"Type": "bind", "Source": path, "Target": place, "ReadOnly": closed} for place, path in binds.items()
            ],
            "security_opt": security + (["seccomp=unconfined"] if "seccomp" in without else []),
            "ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}],
        }
        if "capabilities" in without:
            arguments |= {"cap_drop": [], "cap_add": ["SYS_ADMIN"], "user": "0:0"}
        if limits.files is not None and "files" not in without:
            arguments["ulimits"].append({"Name": "nofile", "Soft": limits.files, "Hard": limits.files})
        if limits.memory is not None and "memory" not in without:
            arguments |= {"mem_limit": limits.memory, "memswap_limit": limits.memory}
        if limits.processes is not None and "processes" not in without:
            arguments["pids_limit"] = limits.processes + 1  # the guest is one
        if limits.cpus is not None and "cpus" not in without:
            arguments["nano_cpus"] = int(limits.cpus * 1e9)
        return arguments

    def _config(self) -> dict[str, Any]:
        """Return the guest's settings."""
        env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8"}
        network = "any" if "network" in self._without else self.settings.limits.network
        return {
            "workspace": self.workspace,
            "base": BASE if self.settings.base else None,
            "env": env | dict(self.settings.env),
            "rlimits": {},
            "overlay": False,
            "clean": ["/tmp", "/dev/shm", "/dev/mqueue"],
            "parent": None,
            "memory": self.settings.limits.memory,
            "fence": None if "proc" in self._without else ["proc"],
            "filter": None if "seccomp" in self._without else {"network": network},
            "without": sorted(self._without),
        }

    def _python(self) -> str:
        if self.settings.image is None:
            return runtime.interpreter()
        return "python3"  # by the image's PATH

    def _find_image(self) -> str:
        import docker.errors

        name = self.settings.image or skeleton.NAME
        try:
            return str(self._client.images.get(name).id)
        except docker.errors.ImageNotFound:
            if self.settings.image:
                raise ValueError(f"docker: no image {name!r} here: docker pull {name}, or name another") from None
        except docker.errors.APIError as error:
            raise ValueError(f"docker: image {name!r}: {_short(error)}") from None
        self._client.api.import_image_from_data(
            skeleton.files(), repository=name.partition(":")[0], tag=name.partition(":")[2]
        )
        return str(self._client.images.get(name).id)


class DockerLink:
    """The attached pipes of a container: a socket on which the engine frames what comes out."""

    def __init__(self, attached: Any) -> None:
        self._attached = attached
        self._socket: socket.socket = getattr(attached, "_sock", attached)
        self._socket.settimeout(TIMEOUT_S)
        self._left = 0

    def fileno(self) -> int:
        """Return what to wait on for its answers."""
        return self._socket.fileno()

    def receive(self, n: int) -> bytes:
        """Return up to so many bytes, none at its end; what came on standard error is left out."""
        while not self._left:
            head = self._exactly(8)
            if len(head) < 8:
                return b""
            stream, size = struct.unpack(">BxxxL", head)
            if stream == 2:
                self._exactly(size)
            else:
                self._left = size
        part = self._socket.recv(min(n, self._left))
        self._left -= len(part)
        return part

    def send(self, data: bytes | memoryview, end: float) -> None:
        """Send all of it; raise ``TimeoutError`` if that is not done at a time of ``time.monotonic``."""
        self._socket.settimeout(max(0.001, end - time.monotonic()))
        self._socket.sendall(data)
        self._socket.settimeout(TIMEOUT_S)

    def end(self) -> None:
        """Let the guest see the end of what it reads, at which it ends itself."""
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close both ends; a second call does nothing."""
        self._attached.close()
        self._socket.close()

    def _exactly(self, n: int) -> bytes:
        parts = []
        while n and (part := self._socket.recv(n)):
            parts.append(part)
            n -= len(part)
        return b"".join(parts)


_left: set[str] = set()
"""Containers that could not be removed because their engine was gone: the next start of one tries again."""


def _remove(api: Any, container: str) -> None:
    """Remove a container, now or later."""
    try:
        api.remove_container(container, force=True, v=True)
        _left.discard(container)
    except Exception as error:
        (_left.discard if getattr(error, "response", None) is not None else _left.add)(container)


def _tmpfs(size: int | None) -> str:
    """Return the options of a file system in memory; a file takes a page at least, so names are limited as well."""
    limit = "" if size is None else f",size={size},nr_inodes={max(1024, size >> 12)}"
    return f"uid={UID},gid={UID},mode=0755,exec{limit}"


def _show_system_paths(api: Any) -> None:
    """Let containers write to what an engine shows read-only in /proc; its client has no argument for that."""
    create = api.create_container
    shown: dict[str, list[str]] = {"MaskedPaths": [], "ReadonlyPaths": []}
    api.create_container = lambda **given: create(**given | {"host_config": given["host_config"] | shown})


@cache
def _clean_once(host: str) -> None:
    with closing(engine()) as client:
        leftovers.clean_containers(client)


def _short(error: Exception) -> str:
    """Return one line of an SDK's error."""
    said = getattr(error, "explanation", None) or str(error) or type(error).__name__
    return " ".join(str(said).split())[:300]
