"""PID 1 of a bubblewrap sandbox: gives every generation of the server an untouched workspace and namespaces of its own.

It is started with capabilities in its user namespace, which the server gives up before it serves. A generation
ends when its server asks for a reset, and takes its processes, mounts and IPC objects with it: milliseconds, no exec.
"""

from __future__ import annotations

import ctypes
import os
import sys

from milepost.sandbox.guest import confine, exec_server, landlock, processes, trees, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

BROKEN = 76
"""Exit code where no server could be started; standard error says why."""

_NEWNS, _NEWIPC, _NEWPID = 0x20000, 0x08000000, 0x20000000
_NOSUID, _NODEV, _NOEXEC = 2, 4, 8
_libc = ctypes.CDLL(None, use_errno=True)


def supervise(config: dict[str, Any]) -> None:
    """Run one server after the other until one ends otherwise than for a reset; then end as it did.

    The settings are the server's, and:

        room        bytes of each temporary file system by its place, null for no limit
        layers      whether the base is laid under the workspace; else it is copied
        seccomp     keywords of ``confine.filtered``
        groups      descriptors for ``confine.join``
        probe       whether to say what can be, instead
    """
    while True:
        status = _generation(config)
        if status != exec_server.RESET_EXIT:
            os._exit(status)


def _generation(config: dict[str, Any]) -> int:
    """Run a server; return its exit code, or 128 and the signal that ended it."""
    alone, ipc = "pid" not in config["without"], "ipc" not in config["without"]
    child = os.fork()
    if child == 0:
        try:
            check(_libc.unshare(_NEWNS | (_NEWIPC if ipc else 0) | (_NEWPID if alone else 0)), "unshare")
            # The first process of the new namespace is the next child; who unshared it is not in it, and leaves.
            if alone and os.fork():
                os._exit(0)
            furnish(config)
            confine_server(config)
            serve(config)
        except Exception as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        os._exit(BROKEN)
    status = os.waitpid(child, 0)[1]
    if alone and status == 0:
        # The child of one that is gone is adopted here: this is the first process of its parent's namespace.
        status = os.waitpid(-1, 0)[1]
    elif not alone:
        processes.Family().sweep()
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def furnish(config: dict[str, Any]) -> None:
    """Mount what commands may write to, empty but for the base, and a view of this namespace's processes."""
    mount("none", "/", "none", 0x40000 | 0x4000)  # MS_PRIVATE, MS_REC
    if "pid" not in config["without"]:
        mount("proc", "/proc", "proc", _NOSUID | _NODEV | _NOEXEC)
    for place, size in config["room"].items():
        mode = "0755" if place == config["workspace"] else "1777"
        mount("tmpfs", place, "tmpfs", _NOSUID | _NODEV, room(size, mode))
    if config["base"] and config["layers"]:
        overlay(config["workspace"], config["base"])
    elif config["base"]:
        trees.copy(config["base"], config["workspace"])


def room(size: int | None, mode: str) -> str:
    """Return the options of a file system in memory; a file takes a page at least, so names are limited as well."""
    return f"mode={mode}" + ("" if size is None else f",size={size},nr_inodes={max(size // 4096, 1024)}")


def overlay(workspace: str, base: str) -> None:
    """Lay a base under a folder that is the root of a file system, which then holds what differs from it."""
    for name in ("upper", "work"):
        os.mkdir(f"{workspace}/{name}", 0o755)
    # The workspace itself has the base's permissions, as files in it have.
    os.chmod(f"{workspace}/upper", os.stat(base).st_mode & 0o777 | 0o700)
    layers = f"lowerdir={base},upperdir={workspace}/upper,workdir={workspace}/work,userxattr"
    mount("overlay", workspace, "overlay", _NOSUID | _NODEV, layers)


def confine_server(config: dict[str, Any]) -> None:
    """Give up what only the supervisor needs, and what commands must not have."""
    without = config["without"]
    if "capabilities" not in without:
        confine.drop_capabilities()
    confine.no_new_privileges()
    if "seccomp" not in without:
        program = confine.filtered(machine=os.uname().machine, guard=os.getpid(), without=without, **config["seccomp"])
        confine.seccomp(program)


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """Mount a file system.

    Raises:
        OSError: It cannot be.
    """
    done = _libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode())
    check(done, f"mount of {kind} at {target}")


def probe(config: dict[str, Any]) -> dict[str, Any]:
    """Return what the kernel lets a supervisor do: ``generation`` is None or what stands against it."""
    found: dict[str, Any] = {"generation": None, "overlay": None, "seccomp": None, "release": os.uname().release}
    for name, attempt in (("generation", furnish), ("overlay", _try_overlay), ("seccomp", confine_server)):
        reads, writes = os.pipe()
        between = os.fork()
        if between == 0:
            try:
                check(_libc.unshare(_NEWNS | _NEWIPC | _NEWPID), "unshare")
                if os.fork() == 0:
                    attempt(config)
                    os._exit(0)
            except Exception as error:
                os.write(writes, str(error).encode())
            os._exit(0)
        os.close(writes)
        why = os.read(reads, 4096).decode()
        os.close(reads)
        found[name] = why or None
    return found


def _try_overlay(config: dict[str, Any]) -> None:
    """Find out whether a folder that was removed and made again is empty: old kernels' tmpfs cannot note that."""
    mount("none", "/", "none", 0x40000 | 0x4000)
    mount("tmpfs", "/tmp", "tmpfs", _NOSUID | _NODEV)
    mount("tmpfs", "/workspace", "tmpfs", _NOSUID | _NODEV)
    os.makedirs("/tmp/base/folder")
    with open("/tmp/base/folder/file", "w"):
        pass
    overlay("/workspace", "/tmp/base")
    confine.drop_capabilities()
    os.unlink("/workspace/folder/file")
    os.rmdir("/workspace/folder")
    os.mkdir("/workspace/folder")
    if os.listdir("/workspace/folder"):
        raise OSError("a folder that was made again has its old files")


def check(result: int, what: str) -> None:
    """Raise the error of a system call that failed, an ``OSError`` that says of what."""
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def serve(config: dict[str, Any]) -> None:
    """Serve the host until it is gone, or asks for a reset."""
    pipe = exec_server.take_pipes()
    if "dumpable" not in config["without"]:
        processes.protect()
    processes.adopt()
    try:
        exec_server.serve(config, pipe, landlock.for_commands(config["fence"]))
    except EOFError:
        os._exit(0)


def main() -> None:
    """Supervise, or with ``probe`` in the settings print what can be; they are the first argument, JSON."""
    config = wire.loads(sys.argv[1])
    if config["probe"]:
        os.write(1, wire.dumps(probe(config)).encode())
        return
    confine.join(config["groups"])
    processes.adopt()  # which it would not have to, were it always the first process of a namespace
    if config["rlimits"]:
        import resource  # noqa: F401  once, not in every command
    supervise(config)
