"""The sandbox around weakened ones: attacks that are to succeed meet namespaces of this process's own, not the machine.

In it there are no processes but its own, no network but its loopback, no IPC objects; every file is read-only but in a
state folder in memory that ends with it; the clock, modules and the like are beyond its rights. For docker it has an
engine of its own, so that what a container shares with "the host" it shares with this.

``python -m milepost.sandbox.attacks.outer BACKEND GROUP NAME...`` prints one row of JSON for each attack's control.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import socket
import struct
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from milepost.sandbox import folders
from milepost.sandbox.attacks.core import AttackError
from milepost.sandbox.core import MachineError
from milepost.sandbox.guest.supervisor import check, mount
from milepost.sandbox.process import die_with_parent

NAMESPACES = 0x20000 | 0x4000000 | 0x8000000 | 0x20000000 | 0x40000000
"""Of mounts, host name, IPC, processes, network."""
USERS = 0x10000000
ROOM = 1 << 30
"""Bytes that the state folder may hold."""
SHARED = ("null", "zero", "full", "random", "urandom", "tty")
"""The devices of the machine that it has, and ``spare``: the second of them under a name that no sandbox knows."""
BEYOND = (*(2, 9, 16, 17, 20, 22, 25, 26), *(30, 32, 33, 34, 35, 36, 37, 38, 39, 40))
"""Capabilities that reach through namespaces, and that nothing here needs: reading every file by its handle, immutable
files, modules, raw input and output, accounting, reboot, clock, terminals, audit, mandatory access control, the
kernel's log, wake-ups, performance counters, bpf, checkpoints."""
_NOSUID, _RDONLY = 2, 1
_libc = ctypes.CDLL(None, use_errno=True)


def enter() -> None:
    """Move into the sandbox: what returns is a child in it, of which this process is the one that waits.

    Raises:
        OSError: The kernel, or the container around this process, does not let it.
    """
    uid, gid, state = os.geteuid(), os.getegid(), folders.state()
    check(_libc.unshare(NAMESPACES | (USERS if uid else 0)), "unshare")
    if uid:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            Path("/proc/self", name).write_text(text)
    _become_child()  # the first process of the namespace, with which all others end
    _furnish(state)
    _give_up()
    _become_child()  # the second: what the first would not reap is not its concern


def _become_child() -> None:
    """Go on as a child that ends with this process; this one reaps until that child's end, and ends as it did."""
    child = os.fork()
    if not child:
        _libc.prctl(1, signal.SIGKILL, 0, 0, 0)
        return
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


def _furnish(state: Path) -> None:
    mount("none", "/", "none", 0x4000 | 0x40000)  # MS_REC, MS_PRIVATE
    mount("tmpfs", str(state), "tmpfs", _NOSUID, f"mode=0711,size={ROOM}")
    for name in ("tmp", "dev", "etc", "work"):
        (state / name).mkdir()
    (state / "tmp").chmod(0o1777)
    for name, there in {**{name: name for name in SHARED}, "spare": SHARED[1]}.items():
        (state / "dev" / name).touch()
        mount(f"/dev/{there}", str(state / "dev" / name), "none", 0x1000)  # MS_BIND
    for name, target in (("fd", "/proc/self/fd"), ("ptmx", "pts/ptmx")):
        (state / "dev" / name).symlink_to(target)
    for name in ("pts", "shm", "mqueue"):
        (state / "dev" / name).mkdir()
    mount("devpts", str(state / "dev" / "pts"), "devpts", _NOSUID, "newinstance,ptmxmode=0666,mode=620")
    mount(str(state / "dev"), "/dev", "none", 0x1000 | 0x4000)
    _read_only("/", True)
    kinds = [
        (row[4], row[row.index("-") + 1])
        for row in map(str.split, Path("/proc/self/mountinfo").read_text().splitlines())
    ]
    for place, kind in kinds:
        if place == str(state) or kind.startswith("cgroup"):
            _read_only(place, False)
    mount("proc", "/proc", "proc", _NOSUID)
    if not os.geteuid():
        mount("tmpfs", "/run", "tmpfs", _NOSUID, "mode=0755")  # where the machine's services listen
        # A Docker engine writes a key of its own there.
        layers = f"lowerdir=/etc,upperdir={state / 'etc'},workdir={state / 'work'}"
        mount("overlay", "/etc", "overlay", _NOSUID, layers)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as lo:
        flags = struct.unpack("16sh", fcntl.ioctl(lo, 0x8913, struct.pack("16sh", b"lo", 0)))[1]  # SIOCGIFFLAGS
        fcntl.ioctl(lo, 0x8914, struct.pack("16sh", b"lo", flags | 1))  # up
    os.environ["TMPDIR"], tempfile.tempdir = str(state / "tmp"), None
    os.environ.pop("DOCKER_HOST", None)


def _give_up() -> None:
    """Give up rights that reach beyond namespaces, for this process and all it starts."""
    header, held = struct.pack("<Ii", 0x20080522, 0), ctypes.create_string_buffer(24)
    check(_libc.capget(header, held), "capget")
    low = sum(1 << number for number in BEYOND if number < 32)
    high = sum(1 << number - 32 for number in BEYOND if number >= 32)
    for number in BEYOND:
        _libc.prctl(24, number, 0, 0, 0)  # PR_CAPBSET_DROP; fails where the kernel does not know it
    left = [word & ~(low if n < 3 else high) for n, word in enumerate(struct.unpack("<6I", held.raw))]
    check(_libc.capset(header, struct.pack("<6I", *left)), "capset")


def _read_only(place: str, below: bool) -> None:
    """Make a mount, and all below it, read-only; or writable again, itself alone."""
    change = struct.pack("<4Q", _RDONLY if below else 0, 0 if below else _RDONLY, 0, 0)
    numbers = [ctypes.c_long(number) for number in (442, -100, 0x8000 if below else 0)]  # AT_RECURSIVE
    done = _libc.syscall(numbers[0], numbers[1], os.fsencode(place), numbers[2], change, ctypes.c_long(len(change)))
    check(done, f"mount_setattr of {place}")


@contextmanager
def _engine(backend: str) -> Iterator[None]:
    """Have a Docker engine in the sandbox where that is what starts sandboxes."""
    if backend != "docker":
        yield
        return
    from milepost.sandbox.attacks.engine import Engine
    from milepost.sandbox.limits import groups

    groups()  # which divides this process's group where version 2 wants that
    own = [row.split(":", 2)[1:] for row in Path("/proc/self/cgroup").read_text().splitlines()]
    group = next((path for names, path in own if "memory" in names.split(",")), own[-1][1])
    engine = Engine(folders.state("engine"), f"--cgroup-parent={group.removesuffix('/main.milepost')}/engine")
    engine.start()
    os.environ["DOCKER_HOST"] = engine.host
    try:
        yield
    finally:
        engine.stop()


def main(argv: Sequence[str]) -> None:
    """Play the controls of attacks in the sandbox."""
    backend, parent, fds, *names = argv
    die_with_parent(int(parent))
    from milepost.sandbox.guest import confine

    confine.join(map(int, fds.split()))
    enter()
    from milepost.sandbox.attacks import suite

    chosen = {attack.name: attack for attack in suite.ATTACKS}
    with _engine(backend):
        for name in names:
            row = suite.control(backend, chosen[name])
            print(json.dumps(vars(row)), flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (AttackError, MachineError, OSError, ValueError) as problem:
        sys.exit(f"{type(problem).__name__}: {problem}")
