"""The server inside a sandbox: one framed request after the other on a pipe (see ``wire``), one answer each.

The first frame, ``{"ready": true}``, says that the workspace is as new. The settings are JSON, the first argument:

    workspace   the folder that requests are about
    base        the folder that it begins with, or null
    env         the environment of commands
    rlimits     limits of each command by their names without RLIMIT_, such as {"NPROC": 128}
    overlay     whether a supervisor makes the workspace; else it is copied from the base here
    clean       folders that are emptied at a reset
    confine     null, or what ``confine.command`` gets in every child that becomes a command
    without     protections that are left out, to show what they are good for
"""

from __future__ import annotations

import os
import sys

from milepost.sandbox.guest import commands, paths, processes, trees, wire
from milepost.sandbox.guest.sessions import Sessions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from milepost.sandbox.guest.wire import Header

    Answer = tuple[Header, list[bytes | bytearray]]

RESET_EXIT = 75
"""With this the server asks its supervisor for a new workspace and a new server."""


class Server:
    """Answers requests about one workspace."""

    def __init__(self, config: Mapping[str, Any], pipe: wire.Pipe) -> None:
        without = config.get("without") or ()
        self.config, self.pipe = config, pipe
        self.family = processes.Family()
        self.maker = commands.Maker(config, self.family, pipe.reads)
        self.sessions = Sessions(self.maker)
        self.keep_strays = "sweep" in without
        self.free_paths = "paths" in without
        if not config["overlay"] and config["base"]:
            trees.copy(config["base"], config["workspace"])

    def answer(self, request: Header, data: bytearray | None) -> Answer:
        """Return what a request gives; an error of the request as ``{"error": text}``."""
        if data is None:
            return {"error": "no memory for so much data"}, []
        try:
            return getattr(self, f"op_{request['op']}")(request, data)
        except (OSError, ValueError) as error:
            return {"error": _said(error, request)}, []
        except MemoryError:
            return {"error": "no memory left in the sandbox"}, []

    def op_ping(self, request: Header, data: bytearray) -> Answer:
        """Say that it is there."""
        return {}, []

    def op_run(self, request: Header, data: bytearray) -> Answer:
        """Run a command, and kill what it leaves but for the sessions."""
        try:
            return self.maker.run(request, data)
        finally:
            if not self.keep_strays:
                self.family.sweep(self.sessions.pids())

    def op_session(self, request: Header, data: bytearray) -> Answer:
        """Run a command in a session."""
        return self.sessions.run(request)

    def op_end(self, request: Header, data: bytearray) -> Answer:
        """End a session, and all that it started."""
        self.sessions.end(request["name"])
        return {}, []

    def op_read(self, request: Header, data: bytearray) -> Answer:
        """Read a file."""
        with self._root() as root:
            return {}, [trees.read(root.fd, paths.encode(request["path"]), request["max_bytes"])]

    def op_write(self, request: Header, data: bytearray) -> Answer:
        """Write a file."""
        with self._root() as root:
            trees.write(root.fd, paths.encode(request["path"]), data, request["mode"])
        return {}, []

    def op_get(self, request: Header, data: bytearray) -> Answer:
        """Return a tree."""
        with self._root() as root:
            return trees.get(root.fd, paths.encode(request["path"]), request["max_bytes"])

    def op_put(self, request: Header, data: bytearray) -> Answer:
        """Write a tree."""
        with self._root() as root:
            trees.put(root.fd, paths.encode(request["path"]), request["rows"], data)
        return {}, []

    def op_diff(self, request: Header, data: bytearray) -> Answer:
        """Return what differs from the base."""
        with self._root() as root:
            return trees.diff(root.fd, self.config["base"], request["max_bytes"])

    def op_reset(self, request: Header, data: bytearray) -> Answer:
        """Make everything as new, here or by way of the supervisor."""
        if self.config["overlay"]:
            os._exit(RESET_EXIT)
        self.sessions.forget()
        self.family.sweep()
        for folder in (*self.config["clean"], self.config["workspace"]):
            trees.clear(folder)
        commands.remove_ipc()
        if self.config["base"]:
            trees.copy(self.config["base"], self.config["workspace"])
        return {"ready": True}, []

    def _root(self) -> trees.Folder:
        return trees.Folder(self.config["workspace"])


def _said(error: OSError | ValueError, request: Header) -> str:
    if isinstance(error, OSError) and error.errno:
        name = error.filename if error.filename is not None else request.get("path", "")
        name = os.fsdecode(name) if isinstance(name, (str, bytes)) else ""
        return f"{name}: {os.strerror(error.errno)}".removeprefix(": ")
    return str(error)


def serve(config: Mapping[str, Any], pipe: wire.Pipe) -> None:
    """Serve until the host is gone."""
    try:
        server = Server(config, pipe)
    except (OSError, ValueError) as error:
        pipe.send({"failed": str(error)})
        os._exit(1)
    header: Header = {"ready": True}
    parts: list[bytes | bytearray] = []
    while True:
        pipe.send(header, *parts)
        request, data = pipe.receive()
        header, parts = server.answer(request, data)
        header["n"] = request.get("n")


def take_pipes() -> wire.Pipe:
    """Return the pipes to the host, which commands do not inherit."""
    pipe = wire.Pipe(os.dup(0), os.dup(1))
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1):
        os.dup2(null, fd)
    os.close(null)
    return pipe


def main() -> None:
    """Serve as the process that the host started."""
    config = wire.loads(sys.argv[1])
    pipe = take_pipes()
    if os.getpid() != 1:
        processes.guard(config["parent"])
    if "dumpable" not in (config.get("without") or ()):
        processes.protect()
    try:
        serve(config, pipe)
    except EOFError:
        pass
    os._exit(0)
