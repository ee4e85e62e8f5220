"""What an agent did to the files of its workspace, and what is left to do until the bug is gone."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

from milepost.envs.swe.oracle import Wanted
from milepost.envs.swe.packages import package
from milepost.envs.swe.patch import changes
from milepost.envs.swe.tasks import SweTask, base, texts
from milepost.sandbox.core import Node, Sandbox


class Workspace:
    """The files of an agent's sandbox, as they were when it was looked at last."""

    def __init__(self, sandbox: Sandbox, task: SweTask) -> None:
        self._sandbox, self._task, self._tree = sandbox, task, base(task)
        self._clean = {file: clean for file, (_, clean) in texts(task).items()}
        self._sources = set(package(task.package).files(self._tree))
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
        too_much = ""
        try:
            diff = self._sandbox.diff()
        except ValueError as error:  # more than can be taken out of a sandbox whose disk is not limited
            diff, too_much = {}, str(error)
        if self.key and diff == self.diff and not too_much:
            return False
        self.diff = diff
        self.patch, self.ignored = changes(self._task, diff)
        if too_much:
            self.ignored = {"all": too_much}
        digest = blake2b(too_much.encode(), digest_size=12)
        for path, node in sorted(diff.items()):
            digest.update(repr((path, node and (node.kind, node.mode, len(node.data)))).encode())
            digest.update(node.data if node else b"")
        self.key = digest.hexdigest()
        return True

    def wanted(self) -> Wanted:
        """Return the files of the package that are not as they are without the bug, and how they should be."""
        found = {}
        for path in sorted({*self._clean, *self.patch, *(self._sources & self.diff.keys())}):
            file = self._tree / path
            original = file.read_bytes() if file.is_file() else None
            now, then = self._content(path, original), self._clean.get(path, original)
            if now != then:
                found[path] = now, then
        return found

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
