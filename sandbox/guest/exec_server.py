"""The server inside a sandbox: one framed request after the other on a pipe (see ``wire``), one answer each.

The first frame, ``{"ready": true}``, says that the workspace is as new. The settings are JSON, the first argument:

    workspace   the folder that requests are about
    base        the folder that it begins with, or null
    env         the environment of commands
    rlimits     limits of each command by their names without RLIMIT_, such as {"NPROC": 128}
    overlay     whether a supervisor makes the workspace; else it is copied from the base here
    clean       folders that are emptied at a reset
    memory      what the server may use together with all commands, or null
    filter      null, or the keywords of ``confine.filtered`` for system calls that are refused from now on
    fence       what ``landlock.for_commands`` gets
    parent      where there is no PID namespace, the process id with which everything ends; null: whoever it is
    without     protections that are left out, to show what they are good for
"""

from __future__ import annotations

import os
import sys

from milepost.sandbox.guest import commands, landlock, paths, processes, taken, trees, wire
from milepost.sandbox.guest.sessions import Sessions

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Mapping
    from typing import Any

    from milepost.sandbox.guest.wire import Header

    Answer = tuple[Header, list[wire.Part]]
else:
    import _signal as signal

RESET_EXIT = 75
"""With this the server asks its supervisor for a new workspace and a new server."""


class Server:
    """Answers requests about one workspace."""

    def __init__(self, config: Mapping[str, Any], pipe: wire.Pipe, fence: int | None) -> None:
        without = config.get("without") or ()
        self.config, self.pipe = config, pipe
        self.family = processes.Family()
        self.maker = commands.Maker(config, self.family, pipe.reads, fence)
        self.sessions = Sessions(self.maker)
        self.keep_strays = "sweep" in without
        paths.unguarded = "paths" in without
        if config.get("memory"):  # a header is a 32nd of it at most, as making one takes several times that
            taken.weight = max(taken.weight, (1 << 33) // config["memory"])
        os.umask(0o022)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the host, which ends its guests
        if not config["overlay"] and config["base"]:
            trees.copy(config["base"], config["workspace"])
        # Held open: in whatever way the workspace is moved or closed by commands, requests are about this one.
        self.root = os.open(config["workspace"], paths.FOLDER)
        self.modes = {at: _mode(at) for at in (config["workspace"], *config["clean"]) if os.path.isdir(at)}

    def answer(self, request: Header, data: bytearray | None) -> Answer:
        """Return what a request gives; an error of the request as ``{"error": text}``."""
        if data is None:
            return {"error": "no memory for so much data"}, []
        try:
            answer: Answer = getattr(self, f"op_{request['op']}")(request, data)
            return answer
        except (OSError, ValueError) as error:
            return {"error": _said(error, request)}, []
        except MemoryError:
            return {"error": "no memory left in the sandbox"}, []
        except (AttributeError, KeyError, TypeError) as error:  # the host asked for what there is not
            return {"error": f"{request.get('op')}: {type(error).__name__}: {error}"}, []

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
        return {}, [trees.read(self._root(), paths.encode(request["path"]), request["max_bytes"])]

    def op_write(self, request: Header, data: bytearray) -> Answer:
        """Write a file."""
        trees.write(self._root(), paths.encode(request["path"]), data, request["mode"])
        return {}, []

    def op_get(self, request: Header, data: bytearray) -> Answer:
        """Return a tree."""
        return taken.get(self._root(), paths.encode(request["path"]), request["max_bytes"])

    def op_put(self, request: Header, data: bytearray) -> Answer:
        """Write a tree."""
        trees.put(self._root(), paths.encode(request["path"]), request["rows"], data)
        return {}, []

    def op_diff(self, request: Header, data: bytearray) -> Answer:
        """Return what differs from the base."""
        return taken.diff(self._root(), self.config["base"], request["max_bytes"])

    def op_reset(self, request: Header, data: bytearray) -> Answer:
        """Make everything as new, here or by way of the supervisor."""
        if self.config["overlay"]:
            os._exit(RESET_EXIT)
        self.sessions.forget()
        self.family.sweep()
        for folder in self.config["clean"]:
            if folder in self.modes:
                trees.clear(folder, self.modes[folder])
        if os.getpid() == 1:  # else the objects are those of others too
            commands.remove_ipc()
        if not os.path.samestat(os.lstat(self.config["workspace"]), os.fstat(self.root)):
            raise OSError("the workspace was moved")
        trees.restore(self._root(), self.config["base"])
        paths.strip(self.root)
        os.fchmod(self.root, self.modes[self.config["workspace"]])
        return {"ready": True}, []

    def _root(self) -> int:
        mode = os.fstat(self.root).st_mode & 0o7777
        if mode & 0o700 != 0o700:
            os.fchmod(self.root, mode | 0o700)
        return self.root


def _mode(path: str) -> int:
    return os.stat(path).st_mode & 0o7777


def _said(error: OSError | ValueError, request: Header) -> str:
    if isinstance(error, OSError) and error.errno:
        name = error.filename if error.filename is not None else request.get("path", "")
        name = os.fsdecode(name) if isinstance(name, (str, bytes)) else ""
        return f"{name}: {os.strerror(error.errno)}".removeprefix(": ")
    return str(error)


def serve(config: Mapping[str, Any], pipe: wire.Pipe, fence: int | None) -> None:
    """Serve until the host is gone, and put commands behind a fence."""
    try:
        server = Server(config, pipe, fence)
    except (OSError, ValueError) as error:
        pipe.send({"failed": str(error)})
        os._exit(1)
    header: Header = {"ready": True, "fenced": fence is not None}
    parts: list[wire.Part] = []
    while True:
        pipe.send(header, *parts)
        server.maker.idle()
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
    hidden = "dumpable" not in (config.get("without") or ())
    if os.getpid() != 1:
        processes.guard(config["parent"] or os.getppid(), hidden)
    if hidden:
        processes.protect()
    processes.adopt()
    if config.get("filter"):
        from milepost.sandbox.guest import confine

        confine.seccomp(confine.filtered(machine=os.uname().machine, guard=os.getpid(), **config["filter"]))
    try:
        serve(config, pipe, landlock.for_commands(config["fence"]))
    except OSError as error:
        pipe.send({"failed": str(error)})
    except EOFError:
        pass
    os._exit(0)
