"""What an agent did to the files of its workspace, and what is left to do until the bug is gone."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

from milepost.envs.swe.oracle import Wanted
from milepost.envs.swe.patch import changes
from milepost.envs.swe.problem import Problem
from milepost.sandbox.core import Node, Sandbox


class Workspace:
    """The files of an agent's sandbox, as they were when it was looked at last."""

    def __init__(self, sandbox: Sandbox, problem: Problem) -> None:
        self._sandbox, self._problem = sandbox, problem
        self.diff: Mapping[str, Node | None] = {}
        """What is otherwise than at the beginning."""
        self.patch: Mapping[str, bytes | None] = {}
        """What of it counts: new content by file, None for one that is gone."""
        self.ignored: Mapping[str, str] = {}
        """What of it does not, and why."""
        self.key = ""
        """Identity of the content."""
        self.look()

    def look(self) -> bool:
        """Read what is there now; return whether it is something else than before."""
        why = ""
        try:
            diff = self._sandbox.diff()
        except ValueError as error:  # too much to take out, paths too long, folders that a session closes meanwhile
            diff, why = {}, str(error)
        if self.key and diff == self.diff and not why:
            return False
        self.diff = diff
        self.patch, self.ignored = changes(self._problem, diff)
        if why:
            self.ignored = {"all": why}
        digest = blake2b(why.encode(), digest_size=12)
        for path, node in sorted(diff.items()):
            digest.update(repr((path, node and (node.kind, node.mode, len(node.data)))).encode())
            digest.update(node.data if node else b"")
        self.key = digest.hexdigest()
        return True

    def wanted(self) -> Wanted:
        """Return the files of the package that are not as they are without the bug, and how they should be."""
        clean = {path: then for path, (_, then) in self._problem.texts.items()}
        spoilt = {path for path in self.diff if self._problem.counts(path) and self._file(path) is not None}
        found = {}
        for path in sorted({*clean, *self.patch, *spoilt}):
            original = self._file(path)
            now, then = self._content(path, original), clean.get(path, original)
            if now != then:
                found[path] = now, then
        return found

    def _file(self, path: str) -> bytes | None:
        """Return what a file had at the beginning."""
        file = self._problem.base / path
        return file.read_bytes() if file.is_file() and not file.is_symlink() else None

    def _content(self, path: str, original: bytes | None) -> bytes | None:
        if path not in self.diff:
            return original
        node = self.diff[path]
        if node is None or node.kind != "file":
            return None
        try:
            node.data.decode()
        except UnicodeDecodeError:
            return None
        return node.data
