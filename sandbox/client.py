"""The host's side of a sandbox: requests over a pipe, with a clock that a silent guest cannot stop."""

from __future__ import annotations

import json
import os
import select
import struct
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from milepost.sandbox.core import Node, Result, SandboxError, Session, Settings, Tree

GRACE_S = 10.0
"""What a guest may take beyond a command's own time."""


class Link(Protocol):
    """Two ends of pipes (or one socket) to a guest."""

    def fileno(self) -> int:
        """Return what to wait on for its answers."""
        ...

    def receive(self, n: int) -> bytes:
        """Return up to so many bytes, none at its end."""
        ...

    def send(self, data: bytes) -> None:
        """Send all of it."""
        ...

    def close(self) -> None:
        """Close both ends."""
        ...


class Host(Protocol):
    """How one backend starts and stops guests: all in which backends differ."""

    backend: str
    workspace: str
    isolation: Mapping[str, Any]
    settings: Settings

    def start(self) -> Link:
        """Start a guest with an untouched workspace."""
        ...

    def stop(self) -> None:
        """Kill it with all that it started and remove what it left; a second call does nothing."""
        ...

    def why_gone(self) -> str:
        """Say why the guest is gone, as far as can be told."""
        ...

    def place(self, mount: str) -> str:
        """Return where commands find a mount."""
        ...


class GuestSandbox:
    """A ``Sandbox`` over a ``Host``; safe to use from several threads, one request at a time."""

    def __init__(self, host: Host) -> None:
        self._host, self._lock, self._link = host, threading.RLock(), host.start()
        self.backend, self.workspace, self.isolation = host.backend, host.workspace, host.isolation
        self._receive(GRACE_S)
        self._closed = False

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
        argv = ["/bin/bash", "-c", command] if isinstance(command, str) else list(command)
        request = {"op": "run", "argv": argv, "timeout_s": timeout_s, "cwd": cwd, "env": dict(env or {})}
        answer, data = self._ask(request | {"max_output": max_output}, stdin, timeout_s)
        n = answer["n_head"]
        return Result(answer["exit_code"], answer["seconds"], data[:n], data[n:], answer["n_omitted"])

    def session(self, name: str = "main") -> Session:
        """Return the shell of that name, which is started at its first command."""
        raise NotImplementedError

    def read(self, path: str, *, max_bytes: int = 1 << 24) -> bytes:
        """Return a file's content; a longer one is a ``ValueError``."""
        _, data = self._ask({"op": "read", "path": path, "max_bytes": max_bytes})
        if len(data) > max_bytes:
            raise ValueError(f"{path}: expected at most {max_bytes} bytes, got more")
        return data

    def write(self, path: str, data: bytes | str, *, mode: int = 0o644) -> None:
        """Write a file, and the folders above it."""
        self._ask({"op": "write", "path": path, "mode": mode}, data.encode() if isinstance(data, str) else data)

    def get_tree(self, path: str = ".") -> dict[str, Node]:
        """Return all files, folders and links below a folder."""
        raise NotImplementedError

    def put_tree(self, tree: Tree, path: str = ".") -> None:
        """Write a tree below a folder."""
        raise NotImplementedError

    def diff(self) -> dict[str, Node | None]:
        """Return what the workspace has otherwise than its base: nodes as they are now, None for what is gone."""
        raise NotImplementedError

    def place(self, mount: str) -> str:
        """Return where commands find one of ``Settings.mounts``."""
        return self._host.place(mount)

    def reset(self) -> None:
        """Make it as new: no process, no session, the base alone in the workspace."""
        with self._lock:
            if self._closed:
                raise SandboxError("closed")
            self._link.close()
            self._host.stop()
            self._link = self._host.start()
            self._receive(GRACE_S)

    def close(self) -> None:
        """Kill and remove it; a second call does nothing."""
        self._closed = True
        self._host.stop()  # first: one who waits for an answer in another thread sees its end
        with self._lock:
            self._link.close()

    def _ask(self, request: dict[str, Any], data: bytes = b"", timeout_s: float = 0.0) -> tuple[dict[str, Any], bytes]:
        text = json.dumps(request).encode()
        with self._lock:
            try:
                self._link.send(struct.pack("<II", len(text), len(data)) + text + data)
            except OSError:
                raise SandboxError(f"{self.backend}: {self._host.why_gone()}") from None
            answer, result = self._receive(timeout_s + GRACE_S)
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer, result

    def _receive(self, timeout_s: float) -> tuple[dict[str, Any], bytes]:
        end = time.monotonic() + timeout_s
        n_header, n_data = struct.unpack("<II", self._read(8, end))
        return json.loads(self._read(n_header, end)), self._read(n_data, end)

    def _read(self, n: int, end: float) -> bytes:
        parts = []
        while n:
            if not select.select([self._link], [], [], max(0.0, end - time.monotonic()))[0]:
                self.close()
                raise SandboxError(f"{self.backend}: the guest did not answer in time, and was killed")
            part = self._link.receive(min(n, 1 << 20))
            if not part:
                raise SandboxError(f"{self.backend}: {self._host.why_gone()}")
            parts.append(part)
            n -= len(part)
        return b"".join(parts)


class PipeLink:
    """The two pipes of a child process."""

    def __init__(self, to_guest: int, from_guest: int) -> None:
        self._to, self._from = to_guest, from_guest

    def fileno(self) -> int:
        """Return what to wait on for its answers."""
        return self._from

    def receive(self, n: int) -> bytes:
        """Return up to so many bytes, none at its end."""
        return os.read(self._from, n)

    def send(self, data: bytes) -> None:
        """Send all of it."""
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._to, rest) :]

    def close(self) -> None:
        """Close both ends."""
        for fd in {self._to, self._from} - {-1}:
            os.close(fd)
        self._to = self._from = -1
