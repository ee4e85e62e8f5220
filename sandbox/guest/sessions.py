"""Shells that live on from command to command, each with a name."""

from __future__ import annotations

import os
import select
import time

from milepost.sandbox.guest.commands import PIECE, Maker, Output, feed, take

TYPE_CHECKING = False
if TYPE_CHECKING:
    from milepost.sandbox.guest.exec_server import Answer
    from milepost.sandbox.guest.wire import Header

BASH = "/bin/bash"
REPORT = 40
"""The shell's descriptor for exit codes: scripts use low ones, and fewer open files than 64 cannot be asked for."""
SCRIPT = """{before}eval '{command}' </dev/null {fd}>&-
command printf '%s %d\\n' {nonce} "$?" >&{fd}
"""
"""What the shell reads for a command: both pipes are out of reach of what it starts. What a command does to its own
shell deceives whoever gave the command alone, and a report without the nonce of the present command nobody."""
RESTORE = "[[ $- == *e* ]] || (exit {code})\n"
"""For commands that ask for the last one's exit code; set -e would end the shell, and has let no failure pass."""
ANEW = b"[the session's shell had ended; this is a new one]\n"


class Shell:
    """One bash; orphans of what it started become its children, so that descent tells what belongs to it."""

    def __init__(self, maker: Maker) -> None:
        commands, self.say = os.pipe()
        self.out, into = os.pipe()
        self.told, tell = os.pipe()
        try:
            argv, fds = [BASH, "--noprofile", "--norc"], {0: commands, 1: into, 2: into, REPORT: tell}
            self.pid = maker.start(argv, {}, maker.folder(None), fds, reaper=True)
        except OSError:
            self.close()
            raise
        finally:
            for fd in (commands, into, tell):
                os.close(fd)
        for fd in (self.say, self.out, self.told):
            os.set_blocking(fd, False)
        self.code = 0

    def close(self) -> None:
        """Close its pipes."""
        for fd in (self.say, self.out, self.told):
            os.close(fd)


class Sessions:
    """Shells by name, each begun at its first command and again after its end."""

    def __init__(self, maker: Maker) -> None:
        self._maker, self._shells = maker, dict[str, Shell]()

    def pids(self) -> set[int]:
        """Return the process ids of shells that live."""
        return {shell.pid for shell in self._shells.values() if not self._ended(shell)}

    def forget(self) -> None:
        """Close the pipes of all; who kills everything kills them too."""
        for name in list(self._shells):
            self._forget(name)

    def end(self, name: str) -> None:
        """Kill a shell and what it started."""
        if name in self._shells:
            self._forget(name)
            self._maker.family.kill({os.getpid()}, self.pids())

    def run(self, request: Header) -> Answer:
        """Run a command in a shell; one that ends the shell, or whose time is over, ends the session."""
        name, begin = request["name"], time.monotonic()
        output = Output(request["max_output"])
        self._maker.family.reap()  # a shell may have ended just before the request came
        if name in self._shells and self._ended(self._shells[name]):
            self._maker.aside[self._shells[name].out].move(output)
            output.add(ANEW)
            self.end(name)
        if name not in self._shells:
            if not os.path.exists(BASH):
                raise ValueError(f"session: needs {BASH}, which the sandbox has not")
            try:
                shell = self._shells[name] = Shell(self._maker)
            except OSError as error:  # other sessions have used up all processes
                output.add(f"{BASH}: {error.strerror}\n".encode())
                header, parts = output.answer(126, time.monotonic() - begin)
                return header | {"ended": True}, parts
            self._maker.aside[shell.out] = Output(PIECE)
            self._maker.family.watched[shell.pid] = None
        shell = self._shells[name]
        aside = self._maker.aside.pop(shell.out)
        aside.move(output)
        try:
            code = self._hear(shell, request["command"], output, begin + request["timeout_s"])
            output.drain(shell.out)
        finally:
            self._maker.aside[shell.out] = aside
        ended = code is None or self._ended(shell)
        header, parts = output.answer(code, time.monotonic() - begin)
        if ended:
            self.end(name)
        return header | {"ended": ended}, parts

    def _hear(self, shell: Shell, command: str, output: Output, end: float) -> int | None:
        """Have a shell run a command; return its exit code, the shell's own where that ended, None when time is up."""
        nonce = os.urandom(12).hex()
        before = RESTORE.format(code=shell.code) if shell.code else ""
        quoted = command.replace("'", "'\\''")
        text = SCRIPT.format(before=before, command=quoted, nonce=nonce, fd=REPORT)
        rest = memoryview(text.encode("utf-8", "surrogateescape"))
        poll = self._maker.poll()
        poll.register(shell.out, select.POLLIN)
        poll.register(shell.told, select.POLLIN)
        poll.register(shell.say, select.POLLOUT)
        told = Output(PIECE)
        while (left := end - time.monotonic()) > 0:
            for fd, _ in poll.poll(left * 1000 + 1):
                if fd == shell.say:
                    rest = rest[feed(fd, rest) :]
                    if not rest:
                        poll.unregister(fd)
                elif fd == shell.out:
                    if not take(output, fd):
                        poll.unregister(fd)
                elif fd == shell.told:
                    if not take(told, fd):
                        poll.unregister(fd)
                    code = _code(bytes(told.head + told.tail), nonce)
                    if code is not None:
                        shell.code = code
                        return code
                elif shell.pid in (found := self._maker.notice(poll, fd)):
                    return os.waitstatus_to_exitcode(found[shell.pid])
        return None

    def _ended(self, shell: Shell) -> bool:
        return self._maker.family.watched.get(shell.pid) is not None

    def _forget(self, name: str) -> None:
        shell = self._shells.pop(name)
        self._maker.aside.pop(shell.out, None)
        self._maker.family.watched.pop(shell.pid, None)
        shell.close()


def _code(told: bytes, nonce: str) -> int | None:
    """Return the exit code in the line of a nonce, once that is there."""
    for line in told.split(b"\n")[:-1]:
        word, _, code = line.partition(b" ")
        if word == nonce.encode() and code.isdigit():
            return int(code) & 0xFF
    return None
