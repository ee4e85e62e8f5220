"""What is taken out of the workspace, trees and differences: rows ``[path, kind, mode, size]``, the contents behind."""

from __future__ import annotations

import os
import stat

from milepost.sandbox.guest import paths, trees, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from milepost.sandbox.guest.exec_server import Answer

ROW = 64
weight = 4
"""How many times names count, as long as they may be in a header: the host reads one of a quarter of a tree's size."""
KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link"}


def get(root: int, path: bytes, n: int) -> Answer:
    """Return everything below a folder; nothing is gone.

    Raises:
        ValueError: It holds more bytes than that.
    """
    fd = paths.folder(root, path)
    try:
        return diff(fd, None, n)
    finally:
        os.close(fd)


def diff(root: int, base: str | None, n: int) -> Answer:
    """Return nodes of the workspace that the base has not, or otherwise, and the paths that it alone has.

    Raises:
        ValueError: The nodes hold more bytes than that.
    """
    taken = Taken(root, n)
    try:
        gone = taken.beside(base) if base else taken.whole()
    except BaseException:
        taken.top.close()
        raise
    header = {"rows": taken.rows, "gone": list(map(paths.decode, gone))}
    return header, [wire.Contents(sum(row[3] for row in taken.rows), taken.contents())]


class Taken:
    """Nodes of a folder that are taken out, of at most so many bytes.

    Folders in it that their user closed stay open until the contents were sent: opening them anew for each file takes
    minutes where somebody nested and closed hundreds.
    """

    def __init__(self, root: int, n: int) -> None:
        self.top, self._room = paths.Opened(root), n
        self.rows: list[list[Any]] = []
        self._targets: list[bytes] = []

    def whole(self) -> list[bytes]:
        """Take everything; nothing is gone."""
        for name, entry in _nodes(self.top):
            self._add(name, entry)
        return []

    def beside(self, base: str) -> list[bytes]:
        """Take what a base has not, or otherwise; return the paths that it alone has."""
        with paths.Opened.at(base) as old:
            gone = dict(_nodes(old))
            for name, entry in _nodes(self.top):
                try:
                    same = name in gone and trees.same(self.top, entry, old, gone[name], name)
                except trees.GONE:
                    continue
                if same or self._add(name, entry):
                    gone.pop(name, None)
        return list(gone)

    def contents(self) -> Iterator[bytes]:
        """Yield what is behind the rows; files are read only when it is sent, as memory may have no room for them."""
        links = iter(self._targets)
        for name, kind, _, size in self.rows:
            if kind == "link":
                yield next(links)
            elif size:
                try:
                    fd = self.top.file(paths.encode(name), trees.READ)
                except (OSError, ValueError):
                    fd = os.open("/dev/null", trees.READ)
                yield from wire.content(fd, size)
        self.top.close()

    def _add(self, path: bytes, entry: os.stat_result) -> bool:
        """Add a node, and what a link leads to; return whether it is there yet."""
        kind, size = KINDS[stat.S_IFMT(entry.st_mode)], 0
        try:
            if kind == "link":
                target = self.top.link(path)
                self._targets.append(target)
                size = len(target)
            elif kind == "file" and entry.st_size <= self._room:
                fd = self.top.file(path, trees.READ)
                now = os.fstat(fd)
                os.close(fd)
                size = now.st_size if stat.S_ISREG(now.st_mode) else 0
        except trees.GONE:
            return False
        cost = max(size, entry.st_size if kind == "file" else 0) + weight * (ROW + 6 * len(path))
        if cost > self._room:
            raise ValueError(f"{paths.decode(path)}: with it the tree is larger than a tree may be")
        self._room -= cost
        self.rows.append([paths.decode(path), kind, stat.S_IMODE(entry.st_mode) & 0o777, size])
        return True


def _nodes(top: paths.Opened) -> Iterator[tuple[bytes, os.stat_result]]:
    return (found for found in trees.walk(top) if stat.S_IFMT(found[1].st_mode) in KINDS)
