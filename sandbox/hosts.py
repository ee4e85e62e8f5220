"""How backends start guests, and the pipes to them."""

from __future__ import annotations

import os
import select
import subprocess
import threading
import time
from collections.abc import Collection, Mapping
from typing import Any, Protocol

from milepost.sandbox.core import Settings

GUEST = ("dumpable", "sweep", "paths", "proc")
"""Protections that are the guest's own, whatever its host: that commands cannot look into the server, that nothing
outlives its command, that no path leads out of the workspace, that commands write to nothing in /proc."""

PROC_OPEN = "what commands may write to there"
"""What a record says of /proc where the kernel has no Landlock of version 2."""
WARDEN_S = 15.0
"""How long a warden may take to kill what is below it, for which its own patience is ``processes.PATIENCE_S``."""


def guards(without: Collection[str]) -> dict[str, str]:
    """Return what a record says of the guest's own protections."""
    return {
        "server": "open to commands" if "dumpable" in without else "closed to commands",
        "leftovers": "live on after their command" if "sweep" in without else "killed with their command",
        "proc": PROC_OPEN if "proc" in without else "read-only for commands",
        "paths": "may lead out of the workspace" if "paths" in without else "end in the workspace",
    }


class Link(Protocol):
    """Two ends of pipes (or one socket) to a guest."""

    def fileno(self) -> int:
        """Return what to wait on for its answers."""
        ...

    def receive(self, n: int) -> bytes:
        """Return up to so many bytes, none at its end."""
        ...

    def send(self, data: bytes | memoryview, end: float) -> None:
        """Send all of it; raise ``TimeoutError`` if that is not done at a time of ``time.monotonic``."""
        ...

    def close(self) -> None:
        """Close both ends; a second call does nothing."""
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


class PipeLink:
    """The two pipes of a child process."""

    def __init__(self, to_guest: int, from_guest: int) -> None:
        self._to, self._from, self._lock = to_guest, from_guest, threading.Lock()
        os.set_blocking(to_guest, False)

    @classmethod
    def of(cls, process: subprocess.Popen[bytes]) -> PipeLink:
        """Take over the pipes of a process."""
        assert process.stdin
        assert process.stdout
        link = cls(os.dup(process.stdin.fileno()), os.dup(process.stdout.fileno()))
        process.stdin.close()
        process.stdout.close()
        return link

    def fileno(self) -> int:
        """Return what to wait on for its answers."""
        return self._from

    def receive(self, n: int) -> bytes:
        """Return up to so many bytes, none at its end."""
        return os.read(self._from, n)

    def send(self, data: bytes | memoryview, end: float) -> None:
        """Send all of it; raise ``TimeoutError`` if that is not done at a time of ``time.monotonic``."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._to, rest[: 1 << 20]) :]
            except BlockingIOError:
                if not wait(self._to, select.POLLOUT, end):
                    raise TimeoutError from None

    def close(self) -> None:
        """Close both ends; a second call does nothing."""
        with self._lock:
            for fd in {self._to, self._from} - {-1}:
                os.close(fd)
            self._to = self._from = -1


def end_guest(process: subprocess.Popen[bytes]) -> None:
    """End a guest by its warden, which kills all that is below it."""
    process.terminate()
    try:
        process.wait(WARDEN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def said_of(process: subprocess.Popen[bytes] | None) -> str:
    """Return how a guest's process ended, in words."""
    if process is None:
        return "the guest was stopped"
    try:
        code = process.wait(1.0)
    except subprocess.TimeoutExpired:
        return "the guest closed its pipe"
    return f"the guest was killed by signal {-code}" if code < 0 else f"the guest ended with exit code {code}"


def wait(fd: int, event: int, end: float) -> bool:
    """Wait for a descriptor until a time of ``time.monotonic``; return whether it is ready."""
    poll = select.poll()  # select knows no descriptor above 1,023
    poll.register(fd, event)
    return bool(poll.poll(max(0.0, end - time.monotonic()) * 1000))
