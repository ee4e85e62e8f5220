"""Folders that workspaces begin with, copied once to where every sandbox may read and none may write.

A copy lies under a name made of its content, so that it is never changed: another content is another base. It belongs
to the sandbox's user and group, which an overlay in a user namespace needs; backends mount it read-only.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import sha256
from operator import attrgetter
from pathlib import Path
from secrets import token_hex

from milepost.sandbox import folders
from milepost.sandbox.core import SandboxError
from milepost.sandbox.guest import paths

SETTLED_S = 2.0
"""A folder in which something changed so lately is read again: clocks of file systems are coarse."""
PAGE = 4096
COPYING_S = 86400.0
"""A copy that has no name yet is left alone for so long: it may be being made."""

Signature = tuple[tuple[bytes, int, int, int, int, int], ...]

_memo: dict[Path, tuple[Signature, Path]] = {}
_using: dict[Path, tuple[int, set[str]]] = {}
"""By folder of bases, this process's list of those in use: open and locked as long as it lives, and what it says."""


def prepare(folder: Path | str) -> Path:
    """Return the base with a folder's content: its paths, kinds, permission bits and data.

    Links are kept as links. Everyone may read what is in it; bits beyond permissions (setuid ...) are dropped. A folder
    that lies among the bases is one already.

    Raises:
        ValueError: It is no folder, or has something in it that is neither file, folder nor link, or cannot be read.
        SandboxError: There is no room.
    """
    folder = Path(os.path.abspath(folder))
    home = folders.state("bases")
    if folder.parent == home and folder.is_dir():
        return _use(home, folder.name) or folder
    if folder.is_symlink() or not folder.is_dir():
        raise ValueError(f"base: expected a folder, got {folder}")
    try:
        seen, before = time.time_ns(), _signature(folder)
        known = _memo.get(folder)
        if known and known[0] == before and (base := _use(home, known[1].name)):
            return base
        base = _use(home, _walk(folder, None)) or _copy(home, folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SandboxError(f"base {folder}: no room for its copy below {home}") from None
        raise ValueError(f"base {folder}: cannot be read: {error}") from None
    if max(row[5] for row in before) < seen - SETTLED_S * 1e9:
        _memo[folder] = before, base
    return base


def clean(older_than_s: float = 30 * 86400.0) -> list[Path]:
    """Remove bases that no process uses and none has asked for lately; return them."""
    home = folders.state("bases")
    gone: list[Path] = []
    with _locked(home, fcntl.LOCK_EX):
        used = _used(home)
        for path in home.iterdir():
            with suppress(FileNotFoundError):
                if path.is_symlink() or not path.is_dir() or path.name == "users" or path.name in used:
                    continue
                if path.name.startswith(".") and time.time() - path.lstat().st_mtime < COPYING_S:
                    continue
                if time.time() - path.lstat().st_atime < older_than_s:
                    continue
                away = home / f".old-{token_hex(8)}"
                path.rename(away)
                gone.append(path)
                remove(away)
    return gone


@cache
def size(base: Path) -> int:
    """Return what a copy of a prepared base takes in memory: bytes in whole pages, at least one for every name."""
    return sum(max(PAGE, -(-status.st_size // PAGE) * PAGE) for _, status in _entries(base))


def remove(folder: Path) -> None:
    """Remove a folder as far as it lets itself be, however its own folders are closed and nested."""
    with suppress(RecursionError):
        shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # it is gone, or something in it is not to be removed
        above = os.open(folder.parent, paths.FOLDER)
        try:
            paths.remove(above, os.fsencode(folder.name))
        finally:
            os.close(above)


def _copy(home: Path, folder: Path) -> Path:
    """Copy a folder; its name is that of what was copied, whatever happened to the folder meanwhile."""
    new = home / f".new-{os.getpid()}-{token_hex(8)}"
    try:
        name = _walk(folder, new)
        with _locked(home, fcntl.LOCK_EX):
            if not (home / name).is_dir():
                new.rename(home / name)
            _note(home, name)
        return home / name
    finally:
        if new.exists():
            remove(new)


def _walk(folder: Path, to: Path | None) -> str:
    """Return the name that a content gives, and copy it on the way where a place is given."""
    total, uid_gid = sha256(), folders.owner()
    made: list[tuple[Path, int, os.stat_result]] = []
    for path, entry in _entries(folder):
        here = to / os.fsdecode(path) if to and path else to
        source = os.path.join(os.fsencode(folder), path)
        mode, data = stat.S_IMODE(entry.st_mode) & 0o777 | 0o444, b""
        if stat.S_ISDIR(entry.st_mode):
            mode |= 0o111
            if here:
                here.mkdir()
                made.append((here, mode, entry))
        elif stat.S_ISLNK(entry.st_mode):
            data, mode = os.readlink(source), 0
            if here:
                os.symlink(os.fsdecode(data), here)
        else:
            data = _file(source)
            if here:
                here.write_bytes(data)
                os.chmod(here, mode)
                os.utime(here, ns=(entry.st_mtime_ns, entry.st_mtime_ns))
        if here and os.geteuid() == 0:
            os.chown(here, *uid_gid, follow_symlinks=False)
        head = f"{stat.S_IFMT(entry.st_mode)} {mode} {len(path)} {len(data)} ".encode()
        total.update(head + path + sha256(data).digest())
    for here, mode, entry in reversed(made):
        os.chmod(here, mode)
        os.utime(here, ns=(entry.st_mtime_ns, entry.st_mtime_ns))
    return f"{total.hexdigest()[:32]}-{uid_gid[0]}-{uid_gid[1]}"


def _file(path: bytes) -> bytes:
    # A link or FIFO that came into the file's place meanwhile is neither followed nor waited for.
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        return file.read()


def _entries(folder: Path) -> Iterator[tuple[bytes, os.stat_result]]:
    """Yield path and status of a folder and everything below it, in one order, what contains before the contained."""
    top = os.fsencode(folder)
    yield b"", os.lstat(top)
    stack = [b""]
    while stack:
        at = stack.pop()
        with os.scandir(os.path.join(top, at)) as found:
            entries = sorted(found, key=attrgetter("name"))
        before = at + b"/" if at else b""
        for entry in entries:
            status, path = entry.stat(follow_symlinks=False), before + entry.name
            if stat.S_ISDIR(status.st_mode):
                stack.append(path)
            elif not (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)):
                kind = "special file (socket, FIFO or device)"
                raise ValueError(f"base {folder}: expected files, folders and links, got a {kind}: {os.fsdecode(path)}")
            yield path, status


def _signature(folder: Path) -> Signature:
    return tuple((path, s.st_ino, s.st_mode, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for path, s in _entries(folder))


def _use(home: Path, name: str) -> Path | None:
    """Return a base that is there, and say that this process uses it."""
    with _locked(home, fcntl.LOCK_SH):
        if not (home / name).is_dir():
            return None
        _note(home, name)
    return home / name


def _note(home: Path, name: str) -> None:
    if home not in _using:
        # Its lock ends with the last process that has it, in whatever namespace that is.
        fd, _ = tempfile.mkstemp(prefix=f"{os.getpid()}-", dir=folders.state("bases", "users"))
        fcntl.flock(fd, fcntl.LOCK_EX)
        _using[home] = fd, set()
    fd, names = _using[home]
    if name not in names:
        os.write(fd, name.encode() + b"\n")
        names.add(name)
        with suppress(OSError):
            os.utime(home / name, ns=(time.time_ns(), os.stat(home / name).st_mtime_ns))


def _used(home: Path) -> set[str]:
    """Return the names in use by living processes, and forget what dead ones used."""
    names: set[str] = set()
    for path in folders.state("bases", "users").iterdir():
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
        except BlockingIOError:
            names.update(path.read_text().split())
        finally:
            os.close(fd)
    return names


@contextmanager
def _locked(home: Path, how: int) -> Iterator[None]:
    fd = os.open(home / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, how)
        yield
    finally:
        os.close(fd)
