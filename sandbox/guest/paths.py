"""Paths below the workspace that never lead out of it, whatever links commands left there."""

from __future__ import annotations

import ctypes
import errno
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)
_OPENAT2 = ctypes.c_long(437)
_NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH = 0x02, 0x04, 0x08
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
ATTRIBUTES = ("user.", "system.posix_acl_")
"""Extended attributes that whoever owns a file may give it."""


unguarded = False
"""Whether links lead anywhere: only to show what the guard is good for."""


class _How(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


def encode(path: str) -> bytes:
    """Return a path as the kernel has it; bytes that are not UTF-8 travel as lone surrogates."""
    return path.encode("utf-8", "surrogateescape")


def decode(path: bytes) -> str:
    """Return a path as it travels."""
    return path.decode("utf-8", "surrogateescape")


def open_below(root: int, path: bytes, flags: int, *, links: bool = True) -> int:
    """Open something below a folder.

    Args:
        root: The folder's descriptor.
        path: Relative to it.
        flags: As for ``os.open``; creates nothing.
        links: Whether symbolic links are followed, as long as they stay below the folder.

    Raises:
        ValueError: It leads out of the folder.
        OSError: It cannot be opened.
    """
    if unguarded:
        return os.open(path, flags | os.O_CLOEXEC, dir_fd=root)
    if not _known:
        return _walk(root, path, flags)
    how = _How(flags | os.O_CLOEXEC, 0, _BENEATH | _NO_MAGICLINKS | (0 if links else _NO_SYMLINKS))
    for _ in range(100):
        fd = _openat2(root, path, how)
        if fd >= 0:
            return fd
        if ctypes.get_errno() not in (errno.EAGAIN, errno.EINTR):  # EAGAIN: something was renamed meanwhile
            break
    if ctypes.get_errno() == errno.EXDEV:
        raise ValueError(f"{decode(path)}: leads out of the workspace")
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), decode(path))


def _openat2(root: int, path: bytes, how: _How) -> int:
    return int(_libc.syscall(_OPENAT2, ctypes.c_long(root), path, ctypes.byref(how), ctypes.c_long(24)))


def _walk(root: int, path: bytes, flags: int) -> int:
    """The same where the kernel, or a filter on it, has no openat2: no link is followed at all."""
    *above, last = [part for part in path.split(b"/") if part not in (b"", b".")] or [b"."]
    if b".." in (*above, last):
        raise ValueError(f"{decode(path)}: leads out of the workspace")
    here = os.dup(root)
    try:
        for part in above:
            here, above_it = os.open(part, FOLDER | os.O_NOFOLLOW, dir_fd=here), here
            os.close(above_it)
        return os.open(last, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
    finally:
        os.close(here)


def _probe() -> bool:
    here = os.open("/", os.O_PATH | os.O_CLOEXEC)
    fd = _openat2(here, b".", _How(os.O_PATH | os.O_CLOEXEC, 0, _BENEATH))
    os.close(here)
    if fd >= 0:
        os.close(fd)
    return fd >= 0


_known = _probe()


def folder(root: int, path: bytes, *, links: bool = True, make: bool = False) -> int:
    """Open a folder below another, made where it is missing if that is asked for; the caller closes it.

    Without ``links``, what stands in a folder's place is removed if it is to be made.
    """
    try:
        return open_below(root, path, FOLDER, links=links)
    except OSError as error:
        if not make or not path or error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
        above, _, name = path.rpartition(b"/")
        parent = folder(root, above or b".", links=links, make=bool(above))
        try:
            if error.errno != errno.ENOENT and not links:
                os.unlink(name, dir_fd=parent)
            try:
                os.mkdir(name, 0o755, dir_fd=parent)
            except FileExistsError:
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), decode(path)) from None
        finally:
            os.close(parent)
        return open_below(root, path, FOLDER, links=links)


def place(parent: int, name: bytes, data: bytes | bytearray | memoryview, mode: int) -> None:
    """Write a file whole or not at all; a link of that name is replaced, never followed."""
    hidden = b".milepost-%d" % os.getpid()
    try:
        fd = os.open(hidden, CREATE, 0o600, dir_fd=parent)
    except FileExistsError:
        remove(parent, hidden)
        fd = os.open(hidden, CREATE, 0o600, dir_fd=parent)
    try:
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(fd, rest) :]
            os.fchmod(fd, mode)
        finally:
            os.close(fd)
        os.rename(hidden, name, src_dir_fd=parent, dst_dir_fd=parent)
    except OSError as error:  # it names the hidden file
        os.unlink(hidden, dir_fd=parent)
        raise OSError(error.errno, error.strerror, decode(name)) from None


def remove(parent: int, name: bytes) -> None:
    """Remove whatever has that name, however deeply folders are nested below it."""
    try:
        return os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return None
    except (IsADirectoryError, PermissionError):
        pass
    os.chmod(name, 0o700, dir_fd=parent)
    top = os.open(name, FOLDER | os.O_NOFOLLOW, dir_fd=parent)
    try:
        empty(top)
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=parent)


def empty(top: int) -> None:
    """Remove all that is in a folder.

    A folder in it that is not empty moves up into the topmost first: one level at a time, so that neither depth nor
    the length of a path matters.
    """
    queue = [b"."]
    while queue:
        here = queue.pop()
        fd = os.open(here, FOLDER | os.O_NOFOLLOW, dir_fd=top)
        try:
            for entry in os.listdir(fd):
                child = os.fsencode(entry)
                try:
                    os.unlink(child, dir_fd=fd)
                    continue
                except (IsADirectoryError, PermissionError):
                    os.chmod(child, 0o700, dir_fd=fd)
                try:
                    os.rmdir(child, dir_fd=fd)
                except OSError:
                    if here != b".":
                        up = b"." + os.urandom(12).hex().encode()
                        os.rename(child, up, src_dir_fd=fd, dst_dir_fd=top)
                        child = up
                    queue.append(child)
        finally:
            os.close(fd)
        if here != b".":
            os.rmdir(here, dir_fd=top)


def forced(root: int, path: bytes, do: Callable[[], Any]) -> Any:
    """Return what a function gives; what its user closed on the way to a path is open for as long as that takes."""
    try:
        return do()
    except PermissionError:
        closed: list[tuple[bytes, int]] = []
        try:
            for end in (at for at, byte in enumerate(path + b"/") if byte == ord("/")):
                closed.append((path[:end], change_mode(root, path[:end], 0o500, keep=0o7777)))
            return do()
        finally:
            close_again(root, closed)


def close_again(root: int, closed: list[tuple[bytes, int]]) -> None:
    """Give what was opened the modes that it had."""
    for path, mode in reversed(closed):
        try:
            change_mode(root, path, mode)
        except OSError:  # it is gone
            pass


def change_mode(root: int, path: bytes, mode: int, keep: int = 0) -> int:
    """Change a mode but for bits that are kept, and return it as it was; a link has none."""
    above, _, name = path.rpartition(b"/")
    parent = folder(root, above or b".", links=False)
    try:
        entry = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if not stat.S_ISLNK(entry.st_mode):
            os.chmod(name, entry.st_mode & keep | mode, dir_fd=parent)
        return stat.S_IMODE(entry.st_mode)
    finally:
        os.close(parent)


def attributes(fd: int) -> list[str]:
    """Return the extended attributes that commands may have given something."""
    try:
        return [name for name in os.listxattr(fd) if name.startswith(ATTRIBUTES)]
    except OSError:  # its file system has none
        return []


def strip(fd: int) -> None:
    """Remove them."""
    for name in attributes(fd):
        os.removexattr(fd, name)
