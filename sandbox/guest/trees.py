"""Files and trees of the workspace: written, compared with its base, made as that is again."""

from __future__ import annotations

import os
import stat

from milepost.sandbox.guest import paths, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
PIECE = 1 << 20
GONE = (FileNotFoundError, NotADirectoryError)  # a process of a session may remove what is looked at


def read(root: int, path: bytes, n: int) -> wire.Contents:
    """Return a file's content.

    Raises:
        ValueError: It is no ordinary file, or longer than that.
        OSError: It cannot be read.
    """
    fd = paths.open_below(root, path, READ)
    entry, why = os.fstat(fd), ""
    if not stat.S_ISREG(entry.st_mode):
        why = "expected a file, got something else"
    elif entry.st_size > n:
        why = f"expected at most {n} bytes, got {entry.st_size}"
    if why:
        os.close(fd)
        raise ValueError(f"{paths.decode(path)}: {why}")
    return wire.Contents(entry.st_size, wire.content(fd, entry.st_size))


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


def put(root: int, path: bytes, rows: Sequence[Sequence[Any]], data: bytearray) -> None:
    """Write a tree below a folder, in the place of what has its names; None as a kind removes.

    Links come late, so that nothing is written through them, and folders' modes last, so that they forbid nothing.
    """
    top, at, rest = paths.folder(root, path or b".", make=True), 0, memoryview(data)
    order = {None: 0, "folder": 1, "file": 2, "link": 3}
    contents = []
    for row in rows:
        contents.append((row, rest[at : at + row[3]]))
        at += row[3]
    try:
        for (name, kind, mode, _), content in sorted(contents, key=lambda one: order[one[0][1]]):
            where = paths.encode(name)
            if kind == "folder":
                os.close(paths.folder(top, where, links=False, make=True))
                continue
            above, _, last = where.rpartition(b"/")
            try:
                parent = paths.folder(top, above or b".", links=False, make=kind is not None)
            except OSError:
                if kind is None:
                    continue
                raise
            try:
                if kind != "file" or _is_folder(parent, last):
                    paths.remove(parent, last)
                if kind == "link":
                    os.symlink(bytes(content), last, dir_fd=parent)
                elif kind == "file":
                    paths.place(parent, last, content, mode)
            finally:
                os.close(parent)
        for name, kind, mode, _ in reversed(rows):
            if kind == "folder":
                fd = paths.folder(top, paths.encode(name), links=False)
                os.fchmod(fd, mode)
                os.close(fd)
    finally:
        os.close(top)


def restore(root: int, base: str | None) -> None:
    """Give a folder the content of a base again; what compares equal stays."""
    if base is None:
        return paths.empty(root)
    with paths.Opened.at(base) as old:
        before, now = dict(walk(old)), dict[bytes, os.stat_result]()
        try:
            with paths.Opened(root) as top:
                for name, entry in walk(top):
                    if name not in before or not _alike(top, entry, old, before[name], name):
                        _remove(root, name)
                    else:
                        now[name] = entry
        except OSError:  # such as paths too long to open
            paths.empty(root)
            now.clear()
        for name, entry in before.items():
            if name not in now:
                _copy_node(old, root, name, entry)
        for name, entry in reversed(before.items()):
            if not stat.S_ISLNK(entry.st_mode):
                fd = paths.open_below(root, name, READ, links=False)
                os.fchmod(fd, stat.S_IMODE(entry.st_mode))
                os.utime(fd, ns=(entry.st_mtime_ns, entry.st_mtime_ns))
                os.close(fd)


def _alike(top: paths.Opened, entry: os.stat_result, old: paths.Opened, before: os.stat_result, path: bytes) -> bool:
    """Whether something may stay: a folder, or a file or link of that content and no other name, and no attributes."""
    if (not stat.S_ISDIR(entry.st_mode) and entry.st_nlink != 1) or not same(top, entry, old, before, path):
        return False
    if stat.S_ISLNK(entry.st_mode):  # the kernel gives it none
        return True
    fd = top.file(path, READ)
    try:
        return not paths.attributes(fd)
    finally:
        os.close(fd)


def _remove(root: int, path: bytes) -> None:
    above, _, name = path.rpartition(b"/")
    parent = paths.folder(root, above or b".", links=False)
    try:
        paths.remove(parent, name)
    finally:
        os.close(parent)


def _copy_node(old: paths.Opened, root: int, path: bytes, entry: os.stat_result) -> None:
    above, _, name = path.rpartition(b"/")
    parent = paths.folder(root, above or b".", links=False)
    try:
        if stat.S_ISDIR(entry.st_mode):
            os.mkdir(name, 0o700, dir_fd=parent)
        elif stat.S_ISLNK(entry.st_mode):
            os.symlink(old.link(path), name, dir_fd=parent)
        else:
            a, b = old.file(path, READ), os.open(name, paths.CREATE, 0o600, dir_fd=parent)
            _copy_file(a, b, entry)
    finally:
        os.close(parent)


def _is_folder(parent: int, name: bytes) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


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
                _copy_file(os.open(source, READ), os.open(target, paths.CREATE, 0o600), entry)
    for at, folders, _ in os.walk(base, topdown=False):
        for name in folders:
            source = os.path.join(at, name)
            if not os.path.islink(source):
                entry = os.stat(source)
                target = os.path.join(workspace, os.path.relpath(source, base))
                os.chmod(target, stat.S_IMODE(entry.st_mode))
                os.utime(target, ns=(entry.st_mtime_ns, entry.st_mtime_ns))


def clear(folder: str, mode: int) -> None:
    """Empty a folder, whatever commands made of it, and give it its mode."""
    entry = os.lstat(folder) if os.path.lexists(folder) else None
    if entry is None or not stat.S_ISDIR(entry.st_mode):  # never followed: a link leads anywhere
        if entry:
            os.unlink(folder)
        os.mkdir(folder)
    elif entry.st_mode & 0o700 != 0o700 and entry.st_uid == os.geteuid():
        os.chmod(folder, 0o700)
    top = os.open(folder, paths.FOLDER | os.O_NOFOLLOW)
    try:
        paths.empty(top)
        paths.strip(top)
        if stat.S_IMODE(os.fstat(top).st_mode) != mode:
            os.fchmod(top, mode)
    finally:
        os.close(top)


def walk(top: paths.Opened) -> Iterator[tuple[bytes, os.stat_result]]:
    """Yield path and status of everything below a folder, what contains before the contained.

    What is gone meanwhile has nothing in it.
    """
    stack = [b""]
    while stack:
        at = stack.pop()
        try:
            fd = top.folder(at)
        except GONE:
            if not at:
                raise
            continue
        try:
            for name in sorted(map(os.fsencode, os.listdir(fd))):
                try:
                    entry = os.stat(name, dir_fd=fd, follow_symlinks=False)
                except FileNotFoundError:
                    continue
                path = at + b"/" + name if at else name
                yield path, entry
                if stat.S_ISDIR(entry.st_mode):
                    stack.append(path)
        finally:
            os.close(fd)


def same(top: paths.Opened, entry: os.stat_result, old: paths.Opened, before: os.stat_result, path: bytes) -> bool:
    """Whether something has the kind, mode and content that it has in another tree.

    Contents are compared: times can be forged, and a mapped file changes without any.
    """
    if entry.st_mode & 0o177777 != before.st_mode & 0o177777 and not stat.S_ISLNK(entry.st_mode):
        return False
    if stat.S_IFMT(entry.st_mode) != stat.S_IFMT(before.st_mode):
        return False
    if stat.S_ISLNK(entry.st_mode):
        return top.link(path) == old.link(path)
    if stat.S_ISDIR(entry.st_mode):
        return True
    if entry.st_size != before.st_size:
        return False
    a = top.file(path, READ)
    try:
        b = old.file(path, READ)
    except OSError:
        os.close(a)
        raise
    n = min(PIECE, entry.st_size + 1)
    try:
        while True:
            left, right = os.read(a, n), os.read(b, n)
            if left != right:
                return False
            if not left:
                return True
    finally:
        os.close(a)
        os.close(b)


def _copy_file(a: int, b: int, entry: os.stat_result) -> None:
    """Copy what is open as one file to another, and close both."""
    try:
        while os.sendfile(b, a, None, 1 << 30):
            pass
        os.fchmod(b, stat.S_IMODE(entry.st_mode))
        os.utime(b, ns=(entry.st_mtime_ns, entry.st_mtime_ns))
    finally:
        os.close(a)
        os.close(b)
