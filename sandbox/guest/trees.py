"""Files, trees and differences of the workspace, as rows ``[path, kind, mode, size]`` with the contents behind them."""

from __future__ import annotations

import os
import stat

from milepost.sandbox.guest import paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from milepost.sandbox.guest.exec_server import Answer

READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
PIECE = 1 << 20
KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link"}


class Folder:
    """An open folder, for a ``with`` statement."""

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, paths.FOLDER)

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self.fd)


def read(root: int, path: bytes, n: int) -> bytearray:
    """Return a file's content, one byte more than asked for where it is longer.

    Raises:
        ValueError: It is no ordinary file.
        OSError: It cannot be read.
    """
    fd = paths.open_below(root, path, READ)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError(f"{paths.decode(path)}: expected a file, got something else")
        return _content(fd, n + 1)
    finally:
        os.close(fd)


def write(root: int, path: bytes, data: bytes | bytearray | memoryview, mode: int) -> None:
    """Write a file and the folders above it; a link at its place is replaced."""
    above, _, name = path.rstrip(b"/").rpartition(b"/")
    parent = paths.folder(root, above or b".", make=True)
    try:
        paths.place(parent, name, data, mode)
    except IsADirectoryError:
        raise ValueError(f"{paths.decode(path)}: expected a file, got a folder") from None
    finally:
        os.close(parent)


def get(root: int, path: bytes, n: int) -> Answer:
    """Return everything below a folder.

    Raises:
        ValueError: It holds more bytes than that.
    """
    rows: list[list[Any]] = []
    parts: list[bytes | bytearray] = []
    top = paths.folder(root, path)
    try:
        for name, entry in walk(top):
            n -= _take(top, name, entry, rows, parts, n)
    finally:
        os.close(top)
    return {"rows": rows}, parts


def put(root: int, path: bytes, rows: Sequence[Sequence[Any]], data: bytearray) -> None:
    """Write a tree below a folder; links come last, so that nothing is written through them."""
    top, at, rest = paths.folder(root, path or b".", make=True), 0, memoryview(data)
    links = []
    try:
        for name, kind, mode, size in rows:
            where, content, at = paths.encode(name), rest[at : at + size], at + size
            if kind == "folder":
                fd = paths.folder(top, where, links=False, make=True)
                os.fchmod(fd, mode)
                os.close(fd)
            elif kind == "link":
                links.append((where, bytes(content)))
            else:
                above, _, last = where.rpartition(b"/")
                parent = paths.folder(top, above or b".", links=False, make=True)
                try:
                    paths.place(parent, last, content, mode)
                finally:
                    os.close(parent)
        for where, target in links:
            above, _, last = where.rpartition(b"/")
            parent = paths.folder(top, above or b".", links=False, make=True)
            try:
                paths.remove(parent, last)
                os.symlink(target, last, dir_fd=parent)
            finally:
                os.close(parent)
    finally:
        os.close(top)


def diff(root: int, base: str | None, n: int) -> Answer:
    """Return nodes of the workspace that the base has not, or otherwise, and the paths that it alone has.

    Contents are compared: times can be forged, and a mapped file changes without any.
    """
    rows: list[list[Any]] = []
    parts: list[bytes | bytearray] = []
    now = dict(walk(root))
    if base is None:
        for name, entry in now.items():
            n -= _take(root, name, entry, rows, parts, n)
        return {"rows": rows, "gone": []}, parts
    with Folder(base) as old:
        before = dict(walk(old.fd))
        for name, entry in now.items():
            if name not in before or not _same(root, entry, old.fd, before[name], name):
                n -= _take(root, name, entry, rows, parts, n)
        return {"rows": rows, "gone": [paths.decode(name) for name in before if name not in now]}, parts


def copy(base: str, workspace: str) -> None:
    """Copy a tree into an empty folder."""
    for at, folders, files in os.walk(base):
        to = os.path.join(workspace, os.path.relpath(at, base))
        for name in folders + files:
            source, target = os.path.join(at, name), os.path.join(to, name)
            entry = os.lstat(source)
            if stat.S_ISLNK(entry.st_mode):
                os.symlink(os.readlink(source), target)
            elif stat.S_ISDIR(entry.st_mode):
                os.mkdir(target, 0o700)
            else:
                _copy_file(source, target, entry)
    for at, folders, _ in os.walk(base, topdown=False):
        for name in folders:
            source = os.path.join(at, name)
            if not os.path.islink(source):
                entry = os.stat(source)
                target = os.path.join(workspace, os.path.relpath(source, base))
                os.chmod(target, stat.S_IMODE(entry.st_mode))
                os.utime(target, ns=(entry.st_mtime_ns, entry.st_mtime_ns))


def clear(folder: str) -> None:
    """Empty a folder and keep it."""
    mode = stat.S_IMODE(os.stat(folder).st_mode)
    above, _, name = folder.rstrip("/").rpartition("/")
    parent = os.open(above or "/", paths.FOLDER)
    try:
        paths.empty(parent, os.fsencode(name))
    finally:
        os.close(parent)
        os.chmod(folder, mode)


def walk(top: int) -> Iterator[tuple[bytes, os.stat_result]]:
    """Yield path and status of files, folders and links below a folder, what contains before the contained.

    What cannot be looked into is opened up first, as it is the same user's; other kinds of entries are left out.
    """
    stack = [b""]
    while stack:
        at = stack.pop()
        try:
            fd = paths.open_below(top, at or b".", paths.FOLDER, links=False)
        except PermissionError:
            fd = _opened_up(top, at)
        try:
            names = sorted(map(os.fsencode, os.listdir(fd)))
            for name in names:
                entry = os.stat(name, dir_fd=fd, follow_symlinks=False)
                path = at + b"/" + name if at else name
                if stat.S_IFMT(entry.st_mode) in KINDS:
                    yield path, entry
                if stat.S_ISDIR(entry.st_mode):
                    stack.append(path)
        finally:
            os.close(fd)


def _opened_up(top: int, path: bytes) -> int:
    above, _, name = path.rpartition(b"/")
    parent = paths.folder(top, above or b".", links=False)
    try:
        os.chmod(name, 0o700, dir_fd=parent)
    finally:
        os.close(parent)
    return paths.open_below(top, path, paths.FOLDER, links=False)


def _open(root: int, path: bytes) -> int:
    """Open a file for reading that its user may have closed to itself."""
    try:
        return paths.open_below(root, path, READ, links=False)
    except PermissionError:
        above, _, name = path.rpartition(b"/")
        parent = paths.folder(root, above or b".", links=False)
        try:
            mode = stat.S_IMODE(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
            os.chmod(name, mode | 0o400, dir_fd=parent)
            fd = os.open(name, READ | os.O_NOFOLLOW, dir_fd=parent)
            os.chmod(name, mode, dir_fd=parent)
            return fd
        finally:
            os.close(parent)


def _link(root: int, path: bytes) -> bytes:
    above, _, name = path.rpartition(b"/")
    parent = paths.folder(root, above or b".", links=False)
    try:
        return os.fsencode(os.readlink(name, dir_fd=parent))
    finally:
        os.close(parent)


def _take(
    root: int, path: bytes, entry: os.stat_result, rows: list[list[Any]], parts: list[bytes | bytearray], n: int
) -> int:
    """Add a node to an answer; return its bytes."""
    kind, data = KINDS[stat.S_IFMT(entry.st_mode)], b""
    content: bytes | bytearray = data
    if kind == "link":
        content = _link(root, path)
    elif kind == "file":
        fd = _open(root, path)
        try:
            content = _content(fd, n + 1) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
        finally:
            os.close(fd)
    if len(content) > n:
        raise ValueError(f"{paths.decode(path)}: more bytes than a tree may have")
    rows.append([paths.decode(path), kind, stat.S_IMODE(entry.st_mode) & 0o777, len(content)])
    parts.append(content)
    return len(content)


def _same(root: int, entry: os.stat_result, old: int, before: os.stat_result, path: bytes) -> bool:
    if entry.st_mode & 0o177777 != before.st_mode & 0o177777 and not stat.S_ISLNK(entry.st_mode):
        return False
    if stat.S_IFMT(entry.st_mode) != stat.S_IFMT(before.st_mode):
        return False
    if stat.S_ISLNK(entry.st_mode):
        return _link(root, path) == _link(old, path)
    if stat.S_ISDIR(entry.st_mode):
        return True
    if entry.st_size != before.st_size:
        return False
    a, b = _open(root, path), _open(old, path)
    try:
        while True:
            left, right = os.read(a, PIECE), os.read(b, PIECE)
            if left != right:
                return False
            if not left:
                return True
    finally:
        os.close(a)
        os.close(b)


def _content(fd: int, n: int) -> bytearray:
    data = bytearray()
    while len(data) < n and (part := os.read(fd, min(PIECE, n - len(data)))):
        data += part
    return data


def _copy_file(source: str, target: str, entry: os.stat_result) -> None:
    a = os.open(source, READ)
    b = os.open(target, paths.CREATE, 0o600)
    try:
        while os.sendfile(b, a, None, 1 << 30):  # type: ignore[arg-type]
            pass
        os.fchmod(b, stat.S_IMODE(entry.st_mode))
        os.utime(b, ns=(entry.st_mtime_ns, entry.st_mtime_ns))
    finally:
        os.close(a)
        os.close(b)
