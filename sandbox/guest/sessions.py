"""Shells that live on from command to command, each with a name."""

from __future__ import annotations

import os
import select
import time

from milepost.sandbox.guest.commands import PIECE, Maker, Output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from milepost.sandbox.guest.exec_server import Answer
    from milepost.sandbox.guest.wire import Header

LOOP = r"""while IFS= read -r -d '' -u 9 __milepost; do
eval "$__milepost" </dev/null 9<&- 8>&-
printf '%d\n' "$?" >&8
done"""
"""What a shell does: the two pipes are out of reach of what it starts. What a command does to its own shell, such as
telling a wrong exit code, deceives whoever gave the command alone."""


class Shell:
    """One bash; orphans of what it started become its children, so that descent tells what belongs to it."""

    def __init__(self, maker: Maker) -> None:
        commands, self.say = os.pipe()
        self.out, into = os.pipe()
        self.told, tell = os.pipe()
        null = os.open("/dev/null", os.O_RDONLY)
        fds = {0: null, 1: into, 2: into, 8: tell, 9: commands}
        argv = ["/bin/bash", "--noprofile", "--norc", "-c", LOOP]
        self.pid = maker.start(argv, {}, maker.folder(None), fds, reaper=True)
        for fd in (commands, into, tell, null):
            os.close(fd)

    def close(self) -> None:
        """Close its pipes."""
        for fd in (self.say, self.out, self.told):
            os.close(fd)


class Sessions:
    """Shells by name, each begun at its first command and again after its end."""

    def __init__(self, maker: Maker) -> None:
        self._maker, self._shells = maker, dict[str, Shell]()

    def pids(self) -> set[int]:
        """Return the shells' process ids."""
        return {shell.pid for shell in self._shells.values()}

    def forget(self) -> None:
        """Close the pipes of all; who kills everything kills them too."""
        for name in list(self._shells):
            self._shells.pop(name).close()

    def end(self, name: str) -> None:
        """Kill a shell and what it started."""
        if shell := self._shells.pop(name, None):
            shell.close()
            self._maker.family.kill({os.getpid()}, self.pids())

    def run(self, request: Header) -> Answer:
        """Run a command in a shell; one that ends the shell, or whose time is over, ends the session."""
        name, start = request["name"], time.monotonic()
        if name not in self._shells:
            self._shells[name] = Shell(self._maker)
        shell, output = self._shells[name], Output(request["max_output"])
        rest = memoryview(request["command"].encode("utf-8", "surrogateescape") + b"\0")
        os.set_blocking(shell.say, False)
        poll = select.poll()
        poll.register(shell.out, select.POLLIN)
        poll.register(shell.told, select.POLLIN)
        poll.register(shell.say, select.POLLOUT)
        poll.register(self._maker.host, 0)
        line, ended = b"", False
        while not (ended or line.endswith(b"\n")):
            left = start + request["timeout_s"] - time.monotonic()
            if left <= 0:
                self.end(name)
                return output.answer(None, time.monotonic() - start)
            for fd, event in poll.poll(left * 1000 + 1):
                if fd == self._maker.host:
                    raise EOFError
                if fd == shell.say:
                    try:
                        rest = rest[os.write(fd, rest[:PIECE]) :]
                    except BlockingIOError:
                        continue
                    except BrokenPipeError:
                        rest = rest[:0]
                    if not rest:
                        poll.unregister(fd)
                elif event & select.POLLIN:
                    part = os.read(fd, PIECE)
                    if fd == shell.out:
                        output.add(part)
                    else:
                        line += part
                elif fd == shell.told:
                    ended = True
                else:
                    poll.unregister(fd)
        output.drain(shell.out)
        return output.answer(self._ended(name) if ended else int(line), time.monotonic() - start)

    def _ended(self, name: str) -> int:
        pid, end = self._shells[name].pid, time.monotonic() + 2
        status = None
        while status is None and time.monotonic() < end:
            status = (self._maker.family.reap() or {}).get(pid)
            time.sleep(0.001)
        self.end(name)
        return 137 if status is None else os.waitstatus_to_exitcode(status)
