"""Paths below the workspace that never lead out of it, whatever links commands left there."""

from __future__ import annotations

import ctypes
import errno
import os
import stat

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
    except IsADirectoryError:
        pass
    top = _entered(parent, name)
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
                except IsADirectoryError:
                    pass
                try:
                    os.rmdir(child, dir_fd=fd)
                except OSError:
                    os.close(_entered(fd, child))  # only one that may be written to moves
                    if here != b".":
                        up = b"." + os.urandom(12).hex().encode()
                        os.rename(child, up, src_dir_fd=fd, dst_dir_fd=top)
                        child = up
                    queue.append(child)
        finally:
            os.close(fd)
        if here != b".":
            os.rmdir(here, dir_fd=top)


def _entered(parent: int, name: bytes) -> int:
    """Open a folder that its user may have closed, for writing too; never by way of a link."""
    try:
        fd = os.open(name, FOLDER | os.O_NOFOLLOW, dir_fd=parent)
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=parent)
        fd = os.open(name, FOLDER | os.O_NOFOLLOW, dir_fd=parent)
    os.fchmod(fd, 0o700)
    return fd


class Opened:
    """A folder below which everything can be reached: folders that their user closed are open until this is closed.

    What is below is asked for folder by folder, those above first, as ``trees.walk`` goes: each is opened once, however
    deeply it is nested and however much is in it.
    """

    def __init__(self, root: int) -> None:
        self.root = os.dup(root)
        self._parent = b"", os.dup(root)
        self._closed: list[tuple[bytes, int]] = []

    @classmethod
    def at(cls, path: str) -> Opened:
        """Return that of a path."""
        fd = os.open(path, FOLDER)
        try:
            return cls(fd)
        finally:
            os.close(fd)

    def folder(self, path: bytes) -> int:
        """Open a folder; the caller closes it."""
        inside = path + b"/." if path else b"."  # which takes the right to reach what is in it
        try:
            return open_below(self.root, inside, FOLDER, links=False)
        except PermissionError:
            self._closed.append((path, self._change_mode(path, 0o500, keep=0o7777)))
            return open_below(self.root, inside, FOLDER, links=False)

    def file(self, path: bytes, flags: int) -> int:
        """Open a file, which its user may have closed; for no longer than that, as it may have other names."""
        parent, name = self._above(path)
        try:
            return open_below(parent, name, flags, links=False)
        except PermissionError:
            mode = self._change_mode(path, 0o400, keep=0o7777)
            try:
                return open_below(parent, name, flags, links=False)
            finally:
                self._give_back(path, mode)

    def link(self, path: bytes) -> bytes:
        """Return where a link leads."""
        parent, name = self._above(path)
        return os.fsencode(os.readlink(name, dir_fd=parent))

    def close(self) -> None:
        """Give folders the modes that they had."""
        while self._closed:
            self._give_back(*self._closed.pop())
        os.close(self._parent[1])
        os.close(self.root)

    def _above(self, path: bytes) -> tuple[int, bytes]:
        """Return the folder that something is in, and its name there."""
        above, _, name = path.rpartition(b"/")
        if above != self._parent[0]:
            fd = folder(self.root, above or b".", links=False)
            os.close(self._parent[1])
            self._parent = above, fd
        return self._parent[1], name

    def _change_mode(self, path: bytes, mode: int, keep: int = 0) -> int:
        """Change a mode but for bits that are kept, and return it as it was; a link has none."""
        if not path:
            entry = os.fstat(self.root)
            os.fchmod(self.root, stat.S_IMODE(entry.st_mode) & keep | mode)
            return stat.S_IMODE(entry.st_mode)
        parent, name = self._above(path)
        entry = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if not stat.S_ISLNK(entry.st_mode):
            os.chmod(name, stat.S_IMODE(entry.st_mode) & keep | mode, dir_fd=parent)
        return stat.S_IMODE(entry.st_mode)

    def _give_back(self, path: bytes, mode: int) -> None:
        try:
            self._change_mode(path, mode)
        except OSError:  # it is gone
            pass

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


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
