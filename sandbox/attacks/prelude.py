"""What payloads have at hand: this file is sent into the sandbox before them, and runs there as /usr/bin/python3 -I -S.

A payload returns what it achieved, as text; it raises ``OSError`` where the kernel refused, with one of the errors that
its attack expects, or ``Refused``. Anything else is a defect of the payload, and no verdict.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import resource
import signal
import socket
import stat
import struct
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
X86 = os.uname().machine == "x86_64"
NUMBERS = {
    name: pair[0] if X86 else pair[1]
    for name, pair in {
        "add_key": (248, 217),
        "bpf": (321, 280),
        "capset": (126, 91),
        "clock_settime": (227, 112),
        "clone": (56, 220),
        "clone3": (435, 435),
        "fsconfig": (431, 431),
        "fsmount": (432, 432),
        "fsopen": (430, 430),
        "init_module": (175, 105),
        "io_uring_setup": (425, 425),
        "ioprio_set": (251, 30),
        "keyctl": (250, 219),
        "mount": (165, 40),
        "move_mount": (429, 429),
        "name_to_handle_at": (303, 264),
        "open_by_handle_at": (304, 265),
        "perf_event_open": (298, 241),
        "pidfd_getfd": (438, 438),
        "pidfd_open": (434, 434),
        "process_vm_readv": (310, 270),
        "ptrace": (101, 117),
        "renameat2": (316, 276),
        "semget": (64, 190),
        "sethostname": (170, 161),
        "setns": (308, 268),
        "shmat": (30, 196),
        "shmget": (29, 194),
        "unshare": (272, 97),
        "userfaultfd": (323, 282),
    }.items()
}
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


class Refused(Exception):
    """Nothing came of it, though no system call failed."""


def call(name: str, *args: Any) -> int:
    """Make a system call by its number.

    Raises:
        OSError: It failed.
    """
    given = [ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args]
    result = int(libc.syscall(ctypes.c_long(NUMBERS[name]), *given))
    if result == -1:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
    return result


def first(*ways: Callable[[], str]) -> str:
    """Return what the first way achieved that is not refused; raise what refused the last one."""
    refusal: Exception = Refused("no way to try")
    for way in ways:
        try:
            return way()
        except (OSError, Refused) as error:
            refusal = error
    raise refusal


def capabilities(pid: int | str = "self") -> int:
    """Return the effective capabilities of a process, as bits."""
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1], 16) for line in file if line.startswith("CapEff"))


def ancestors() -> list[int]:
    """Return the processes above this one, as far as they can be seen, the topmost last."""
    found, pid = [], os.getppid()
    while pid > 0:
        found.append(pid)
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                pid = int(file.read().rpartition(b")")[2].split()[1])
        except OSError:
            break
    return found


def named(text: str) -> list[int]:
    """Return the processes that can be seen to have a text among their arguments, but for this one."""
    found = []
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                if text.encode() in file.read() and pid != os.getpid():
                    found.append(pid)
        except OSError:
            continue
    return found


def servers() -> list[int]:
    """Return the processes above this one that run the guest: what attacks on the server aim at."""
    found = []
    for pid in ancestors():
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                line = file.read()
        except OSError:
            continue
        if b"python" in line or b"guest" in line:
            found.append(pid)
    if not found:
        raise Refused("no process of the server can be seen")
    return found


def main(payload: Callable[..., str], given: dict[str, Any], expected: list[int]) -> None:
    """Play a payload and print its verdict as the last line."""
    try:
        done, detail = True, payload(**given)
    except Refused as error:
        done, detail = False, str(error)
    except OSError as error:
        if error.errno not in expected:
            raise
        done, detail = False, f"{errno.errorcode[error.errno or 0]}: {error.strerror}"
    sys.stdout.flush()
    os.write(1, b"\nverdict " + json.dumps([done, detail]).encode() + b"\n")


USED_BY_PAYLOADS = suppress, mmap, resource, signal, socket, stat, struct, time
