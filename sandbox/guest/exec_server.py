"""The server inside a sandbox: one framed request after the other on a pipe, one answer each.

A frame is two little-endian uint32, the length of a JSON header and of the bytes behind it, then both. The first frame
says that the server is ready. Where it is PID 1 of a namespace of its own, it kills everything else after a command.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import struct
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

Header = dict[str, Any]


class Pipe:
    """The two pipes to the host, out of reach of commands."""

    def __init__(self) -> None:
        self._in, self._out = os.dup(0), os.dup(1)
        null = os.open("/dev/null", os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)

    def receive(self) -> tuple[Header, bytes]:
        """Return the next request; the process ends when the host is gone."""
        n_header, n_data = struct.unpack("<II", self._read(8))
        return json.loads(self._read(n_header)), self._read(n_data)

    def send(self, header: Header, data: bytes = b"") -> None:
        """Answer."""
        text = json.dumps(header).encode()
        rest = memoryview(struct.pack("<II", len(text), len(data)) + text + data)
        while rest:
            rest = rest[os.write(self._out, rest) :]

    def _read(self, n: int) -> bytes:
        parts = []
        while n:
            part = os.read(self._in, min(n, 1 << 20))
            if not part:
                os._exit(0)
            parts.append(part)
            n -= len(part)
        return b"".join(parts)


class Server:
    """Answers requests."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.workspace: str = config["workspace"]
        self.env: dict[str, str] = config["env"]
        self.alone = os.getpid() == 1
        libc = ctypes.CDLL(None)
        libc.prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE: commands have the same user, and may not read this process
        libc.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER

    def answer(self, request: Header, data: bytes) -> tuple[Header, bytes]:
        """Return what a request gives; an error of the request as ``{"error": text}``."""
        try:
            return getattr(self, f"op_{request['op']}")(request, data)
        except (OSError, ValueError) as error:
            return {"error": str(error)}, b""

    def op_ping(self, request: Header, data: bytes) -> tuple[Header, bytes]:
        """Say that it is there."""
        return {}, b""

    def op_read(self, request: Header, data: bytes) -> tuple[Header, bytes]:
        """Read a file."""
        with open(os.path.join(self.workspace, request["path"]), "rb") as file:
            return {}, file.read(request["max_bytes"] + 1)

    def op_write(self, request: Header, data: bytes) -> tuple[Header, bytes]:
        """Write a file."""
        path = os.path.join(self.workspace, request["path"])
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
            os.chmod(file.fileno(), request["mode"])
        return {}, b""

    def op_run(self, request: Header, data: bytes) -> tuple[Header, bytes]:
        """Run a command and kill what it leaves."""
        start = time.monotonic()
        out, into = os.pipe()
        feed, give = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.setsid()
                os.dup2(feed, 0), os.dup2(into, 1), os.dup2(into, 2)
                os.closerange(3, 256)
                os.chdir(os.path.join(self.workspace, request["cwd"] or "."))
                os.execvpe(request["argv"][0], request["argv"], self.env | request["env"])
            except BaseException as error:
                os.write(2, str(error).encode())
            os._exit(127)
        os.close(into), os.close(feed)
        os.set_blocking(give, False)
        head, tail, n_out, status = b"", b"", 0, None
        half, end = request["max_output"] // 2, start + request["timeout_s"]
        giving: int | None = give
        while (left := end - time.monotonic()) > 0:
            ready, able, _ = select.select([out], [give] if giving else [], [], min(left, 0.02))
            if able:
                with suppress(BrokenPipeError):
                    data = data[os.write(give, data[:65536]) :] if data else data
                if not data:
                    os.close(give)
                    giving = None
            if ready:
                part = os.read(out, 65536)
                n_out += len(part)
                room = half - len(head)
                head, tail = head + part[:room], (tail + part[room:])[-half:]
                if not part:
                    break
            done, code = os.waitpid(pid, os.WNOHANG)
            if done:
                status = code
                if not select.select([out], [], [], 0)[0]:
                    break
        if giving:
            os.close(give)
        found = self.sweep()
        status = found.get(pid, status) if status is None else status
        os.close(out)
        exit_code = None if status is None or left <= 0 else os.waitstatus_to_exitcode(status)
        answer = {"exit_code": exit_code, "seconds": time.monotonic() - start, "n_head": len(head)}
        return answer | {"n_omitted": n_out - len(head) - len(tail)}, head + tail

    def sweep(self) -> dict[int, int]:
        """Kill and reap all that is left; return exit statuses by process id."""
        if self.alone:
            with suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)
        else:
            for pid in children(os.getpid()):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        found = {}
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, 0)
                found[pid] = status
        return found


def children(of: int) -> list[int]:
    """Return all processes that descend from one."""
    parents = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
            parents[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
    found, ring = [], {of}
    while ring := {pid for pid, parent in parents.items() if parent in ring}:
        found += ring
    return found


def main() -> None:
    """Serve until the host is gone; the settings are the first argument, JSON."""
    server, pipe = Server(json.loads(sys.argv[1])), Pipe()
    pipe.send({"ready": True})
    while True:
        request, data = pipe.receive()
        pipe.send(*server.answer(request, data))
