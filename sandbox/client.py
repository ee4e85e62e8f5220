"""The host's side of a sandbox: requests over a pipe, with a clock that a silent guest cannot stop."""

from __future__ import annotations

import json
import posixpath
import select
import struct
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from milepost.sandbox.core import Node, Result, SandboxError, Session
from milepost.sandbox.hosts import PROC_OPEN, Host, wait

GRACE_S = 15.0
"""What a guest may take beyond a command's own time."""
MAX_OUTPUT = 1 << 26
MAX_TREE = 1 << 28
"""Bytes of a tree or difference."""
MAX_HEADER = 1 << 26
START_S = 60.0
"""What a start, or a reset, may take: the base may have to be copied."""
UNREADABLE = "the guest answered something unreadable"
KINDS = ("file", "folder", "link")


class GuestSandbox:
    """A ``Sandbox`` over a ``Host``; safe to use from several threads, one request at a time."""

    def __init__(self, host: Host) -> None:
        self.backend, self.workspace, self.isolation = host.backend, host.workspace, host.isolation
        self._host, self._lock = host, threading.RLock()
        self._gone: str | None = None
        self._closed = False
        self._n = 0
        self._begin()

    def run(
        self,
        command: str | Sequence[str],
        *,
        timeout_s: float = 60.0,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        max_output: int = 1 << 16,
    ) -> Result:
        """Run a shell command, or a program with arguments; nothing that it started outlives it."""
        if not isinstance(command, Sequence) or not command or not command[0]:
            raise ValueError(f"command: expected a text, or a program with arguments, got {repr(command)[:80]}")
        argv = ["/bin/bash", "-c", command] if isinstance(command, str) else list(command)
        _text("command", *argv)
        _text("env", *(env or {}).keys(), *(env or {}).values())
        if any("=" in name or not name for name in env or {}):
            raise ValueError(f"env: expected names without '=', got {sorted(env or {})}")
        folder = None if cwd is None else self._below(cwd)
        request = {"op": "run", "argv": argv, "cwd": folder, "env": dict(env or {})}
        return self._result(request, timeout_s, max_output, _bytes("stdin", stdin))

    def session(self, name: str = "main") -> Session:
        """Return the shell of that name, which is started at its first command."""
        return GuestSession(self, name)

    def read(self, path: str, *, max_bytes: int = 1 << 24) -> bytes:
        """Return a file's content; a longer one is a ``ValueError``."""
        _whole("max_bytes", max_bytes, 0, MAX_TREE)
        return self._ask({"op": "read", "path": self._below(path), "max_bytes": max_bytes}, n_data=max_bytes)[1]

    def write(self, path: str, data: bytes | str, *, mode: int = 0o644) -> None:
        """Write a file, and the folders above it."""
        content = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
        below = self._below(path)
        if below == ".":
            raise ValueError(f"{path}: expected a file, got the workspace")
        self._ask({"op": "write", "path": below, "mode": _mode(mode)}, _bytes("data", content))

    def get_tree(self, path: str = ".") -> dict[str, Node]:
        """Return all files, folders and links below a folder."""
        answer, data = self._ask({"op": "get", "path": self._below(path), "max_bytes": MAX_TREE}, n_data=MAX_TREE)
        return self._nodes(answer, data)

    def put_tree(self, tree: Mapping[str, Node | None], path: str = ".") -> None:
        """Write a tree below a folder, in the place of what is there; None removes, so that a ``diff`` can be put."""
        rows: list[list[Any]] = []
        for name, node in tree.items():
            _text("tree", name)
            if _outside(name) or posixpath.normpath(name) == ".":
                raise ValueError(f"tree: expected paths below its folder, got {name!r}")
            if node is not None and (not isinstance(node, Node) or node.kind not in KINDS):
                raise ValueError(
                    f"tree: {name}: expected None, or a Node of a kind among {KINDS}, got {repr(node)[:80]}"
                )
            kind, data, mode = (node.kind, _bytes("data", node.data), node.mode) if node else (None, b"", 0)
            if kind == "link" and (not data or b"\0" in data):
                raise ValueError(f"tree: {name}: expected a link's target, got {data!r}")
            if kind == "folder" and data:
                raise ValueError(f"tree: {name}: expected no data in a folder, got {len(data)} bytes")
            rows.append([posixpath.normpath(name), kind, _mode(mode), len(data)])
        data = b"".join(node.data for node in tree.values() if node)
        self._ask({"op": "put", "path": self._below(path), "rows": rows}, data)

    def diff(self) -> dict[str, Node | None]:
        """Return what the workspace has otherwise than its base: nodes as they are now, None for what is gone."""
        answer, data = self._ask({"op": "diff", "max_bytes": MAX_TREE}, n_data=MAX_TREE)
        nodes = self._nodes(answer, data)
        try:
            return {**nodes, **dict.fromkeys(map(str, answer["gone"]))}
        except (KeyError, TypeError):
            raise self._end(UNREADABLE) from None

    def place(self, mount: str) -> str:
        """Return where commands find one of ``Settings.mounts``."""
        if mount not in self._host.settings.mounts:
            raise ValueError(f"mount: expected one of {sorted(self._host.settings.mounts)}, got {mount!r}")
        return self._host.place(mount)

    def reset(self) -> None:
        """Make it as new: no process, no session, the base alone in the workspace; a dead one is started again."""
        with self._lock:
            if self._closed:
                raise SandboxError(f"{self.backend}: the sandbox is closed")
            if self._gone is None:
                try:
                    self._send({"op": "reset"}, b"", time.monotonic() + START_S)
                    self._ready()
                    return
                except SandboxError:
                    pass
                except BaseException:  # Ctrl-C: the next one would take its answer for its own
                    self._end("a reset was interrupted")
                    raise
            self._link.close()
            self._host.stop()
            self._begin()

    def close(self) -> None:
        """Kill and remove it; a second call does nothing."""
        self._closed, self._gone = True, self._gone or "the sandbox is closed"
        self._host.stop()  # first: one who waits for an answer in another thread sees its end
        with self._lock:
            self._link.close()
            self._host.stop()  # another thread may have been starting it

    def __enter__(self) -> GuestSandbox:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _begin(self) -> None:
        try:
            self._link = self._host.start()
        except BaseException as error:
            self._gone = self._gone or "the guest did not start"
            self._host.stop()
            if isinstance(error, OSError):
                raise SandboxError(f"{self.backend}: {error}") from None
            raise
        self._gone = "the sandbox is closed" if self._closed else None
        try:
            if not self._ready().get("fenced") and "proc" in self.isolation:
                self.isolation = {**self.isolation, "proc": PROC_OPEN}
        except BaseException:
            self._gone = self._gone or "the guest did not start"
            self._link.close()
            self._host.stop()
            raise

    def _ready(self) -> dict[str, Any]:
        answer, _ = self._receive(time.monotonic() + START_S, 0)
        if "ready" not in answer:
            raise self._end(f"the guest did not start: {answer.get('failed', answer)}")
        return answer

    def _result(self, request: dict[str, Any], timeout_s: float, max_output: int, stdin: bytes = b"") -> Result:
        _whole("max_output", max_output, 1, MAX_OUTPUT)
        if not isinstance(timeout_s, (int, float)) or not 0 < timeout_s < 1e6:
            raise ValueError(f"timeout_s: expected seconds above 0, got {timeout_s!r}")
        request |= {"max_output": max_output, "timeout_s": timeout_s}
        answer, data = self._ask(request, stdin, timeout_s, max_output)
        try:
            n, exit_code = int(answer["n_head"]), answer["exit_code"]
            if exit_code is not None:
                exit_code = int(exit_code)
            seconds, n_omitted, ended = float(answer["seconds"]), int(answer["n_omitted"]), answer.get("ended") is True
        except (KeyError, TypeError, ValueError):
            raise self._end(UNREADABLE) from None
        return Result(exit_code, seconds, data[:n], data[n:], n_omitted, ended)

    def _ask(
        self, request: dict[str, Any], data: bytes = b"", timeout_s: float = 0.0, n_data: int = 0
    ) -> tuple[dict[str, Any], bytes]:
        with self._lock:
            if self._gone is not None:
                raise SandboxError(f"{self.backend}: {self._gone}")
            self._n += 1
            end = time.monotonic() + timeout_s + GRACE_S
            try:
                self._send(request | {"n": self._n}, data, end)
                answer, result = self._receive(end, n_data)
            except SandboxError:
                raise
            except BaseException:  # Ctrl-C: what the guest is doing now, and would answer, is not known
                self._end("a request was interrupted")
                raise
            if answer.get("n") != self._n:
                raise self._end("the guest answered something else")
        if "error" in answer:
            raise ValueError(" ".join(str(answer["error"]).split()))
        return answer, result

    def _send(self, request: dict[str, Any], data: bytes, end: float) -> None:
        text = json.dumps(request).encode()
        try:
            self._link.send(struct.pack("<II", len(text), len(data)) + text, end)
            if data:
                self._link.send(memoryview(data), end)
        except TimeoutError:
            raise self._end("the guest did not listen in time, and was killed") from None
        except (OSError, ValueError):
            raise self._end(self._host.why_gone()) from None

    def _receive(self, end: float, n_data: int) -> tuple[dict[str, Any], bytes]:
        n_header, n = struct.unpack("<II", self._read(8, end))
        if n_header > MAX_HEADER or n > n_data:
            raise self._end(f"the guest announced {n_header} + {n} bytes, more than it was asked for")
        try:
            header = json.loads(self._read(n_header, end))
        except (ValueError, RecursionError):
            header = None
        if not isinstance(header, dict):
            raise self._end(UNREADABLE)
        return header, self._read(n, end)

    def _read(self, n: int, end: float) -> bytes:
        parts = []
        while n:
            try:
                ready = wait(self._link.fileno(), select.POLLIN, end)
                part = self._link.receive(min(n, 1 << 20)) if ready else b""
            except (OSError, ValueError):
                ready, part = True, b""
            if not ready:
                raise self._end("the guest did not answer in time, and was killed")
            if not part:
                raise self._end(self._gone or self._host.why_gone())
            parts.append(part)
            n -= len(part)
        return b"".join(parts)

    def _end(self, why: str) -> SandboxError:
        """Kill the guest, of which nothing more is believed, and return the error that says why."""
        self._gone = self._gone or why
        self._host.stop()
        return SandboxError(f"{self.backend}: {self._gone}")

    def _below(self, path: str) -> str:
        """Return a path as relative to the workspace."""
        _text("path", path)
        inside = posixpath.relpath(path, self.workspace) if posixpath.isabs(path) else posixpath.normpath(path)
        if _outside(inside):
            raise ValueError(f"path: expected one below {self.workspace}, got {path!r}")
        return inside

    def _nodes(self, answer: dict[str, Any], data: bytes) -> dict[str, Node]:
        nodes: dict[str, Node] = {}
        at = 0
        try:
            for name, kind, mode, size in answer["rows"]:
                if _outside(name) or kind not in KINDS or not 0 <= size <= len(data) - at:
                    raise ValueError
                nodes[name] = Node(kind, data[at : at + size], mode & 0o777)
                at += size
        except (KeyError, TypeError, ValueError, AttributeError):
            raise self._end(UNREADABLE) from None
        return nodes


class GuestSession:
    """A shell in a guest."""

    def __init__(self, sandbox: GuestSandbox, name: str) -> None:
        _text("session", name)
        self._sandbox, self._name = sandbox, name

    def run(self, command: str, *, timeout_s: float = 60.0, max_output: int = 1 << 16) -> Result:
        """Run a command in it; one whose time is over ends the session, which then begins anew."""
        _text("command", command)
        request = {"op": "session", "name": self._name, "command": command}
        return self._sandbox._result(request, timeout_s, max_output)

    def close(self) -> None:
        """End it, and all that it started."""
        self._sandbox._ask({"op": "end", "name": self._name})


def _outside(path: str) -> bool:
    return posixpath.isabs(path) or ".." in path.split("/") or "\0" in path


def _mode(mode: int) -> int:
    if not isinstance(mode, int) or not 0 <= mode <= 0o777:
        raise ValueError(f"mode: expected permission bits, got {oct(mode) if isinstance(mode, int) else repr(mode)}")
    return mode


def _whole(what: str, number: int, least: int, most: int) -> None:
    if not isinstance(number, int) or not least <= number <= most:
        raise ValueError(f"{what}: expected a whole number from {least} to {most}, got {number!r}")


def _bytes(what: str, data: bytes) -> bytes:
    if not isinstance(data, (bytes, bytearray)):
        raise ValueError(f"{what}: expected bytes, got {repr(data)[:80]}")
    return data


def _text(what: str, *texts: str) -> None:
    for text in texts:
        if not isinstance(text, str) or "\0" in text:
            raise ValueError(f"{what}: expected a text without NUL bytes, got {repr(text)[:80]}")
