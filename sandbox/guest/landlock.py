"""Fences of the kernel's Landlock: around files, TCP, signals and abstract sockets, for a process and all it starts.

Structures and numbers are those of the kernel's ``landlock.h``, which all architectures share.
"""

from __future__ import annotations

import ctypes
import os
import struct

from milepost.sandbox.guest import confine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

_libc = ctypes.CDLL(None, use_errno=True)

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REFER, TRUNCATE = 1, 1 << 1, 1 << 2, 1 << 3, 1 << 13, 1 << 14
MAKE_CHAR, MAKE_BLOCK, IOCTL_DEV = 1 << 6, 1 << 11, 1 << 15
FILE = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
"""What can be allowed of something that is no folder."""
READ = EXECUTE | READ_FILE | READ_DIR
TCP, SCOPES = 0b11, 0b11
"""Binding and connecting; abstract sockets and signals."""


def version() -> int:
    """Return the version of Landlock's interface, 0 where it is missing."""
    return max(0, int(_libc.syscall(444, None, ctypes.c_size_t(0), 1)))


def known(abi: int) -> int:
    """Return the uses of files that a version can refuse."""
    return (1 << (13 if abi < 2 else 14 if abi < 3 else 15 if abi < 5 else 16)) - 1


def enter(files: int, rules: Sequence[tuple[str, int]] = (), *, tcp: bool = False, scopes: bool = False) -> None:
    """Refuse uses of files, but for what rules allow below a path; TCP; signals and abstract sockets beyond the fence.

    What the kernel's version does not know is not refused.

    Raises:
        OSError: Landlock is missing, or a path is.
    """
    fence = made(files, rules, tcp=tcp, scopes=scopes)
    put_behind(fence)
    os.close(fence)


def made(files: int, rules: Sequence[tuple[str, int]] = (), *, tcp: bool = False, scopes: bool = False) -> int:
    """Return the descriptor of a fence that nobody is behind yet; see ``enter``."""
    abi = version()
    files &= known(abi)
    parts = [files, TCP if tcp and abi >= 4 else 0, SCOPES if scopes and abi >= 6 else 0]
    attributes = struct.pack("<3Q", *parts)[: 8 if abi < 4 else 16 if abi < 6 else 24]
    fence = _check(_libc.syscall(444, attributes, ctypes.c_size_t(len(attributes)), 0), "Landlock")
    for path, uses in rules:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        if not os.path.isdir(path):
            uses &= FILE
        if uses & files:
            below = struct.pack("<Qi", uses & files, fd)
            _check(_libc.syscall(445, fence, 1, below, 0), f"Landlock, for {path}")
        os.close(fd)
    return fence


def put_behind(fence: int) -> None:
    """Put this process, and all that it starts, behind a fence."""
    confine.no_new_privileges()
    _check(_libc.syscall(446, fence, 0), "Landlock")


def for_commands(parts: Collection[str] | None) -> int | None:
    """Make the fence that each command is put behind; None where it is not wanted, or the kernel has none that will do.

    Whatever its parts are, a command can trace, and see the memory, descriptors and program of, only what it started.

    Args:
        parts: ``proc``: it may not write to what /proc shows, such as whom the kernel kills first when memory is short;
            ``signals``: it may signal only what it started. None: no fence.
    """
    # Below version 2 nothing behind a fence can be moved to another folder: not worth it for /proc alone.
    if parts is None or (version() < 2 and set(parts) == {"proc"}):
        return None
    places = [f"/{name}" for name in os.listdir("/") if name != "proc"]
    rules = [(place, REFER | WRITE_FILE) for place in places if os.path.exists(place) and not os.path.islink(place)]
    files = MAKE_CHAR | MAKE_BLOCK | REFER | (WRITE_FILE if "proc" in parts else 0)
    return made(files, rules, scopes="signals" in parts)


def _check(result: int, what: str) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return int(result)
