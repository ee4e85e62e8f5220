"""One command: started, fed, listened to, and over at its end or when its time is."""

from __future__ import annotations

import ctypes
import os
import select
import time

from milepost.sandbox.guest import landlock, processes
from milepost.sandbox.guest.paths import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Mapping, Sequence
    from typing import Any

    from milepost.sandbox.guest.exec_server import Answer
    from milepost.sandbox.guest.wire import Header
else:
    import _signal as signal

PIECE = 1 << 16


class Output:
    """What came out: its beginning and end, as many bytes as were asked for."""

    def __init__(self, n: int) -> None:
        self._n_head, self._n_tail = n - n // 2, n // 2
        self.head, self.tail, self.n = bytearray(), bytearray(), 0

    def add(self, part: bytes | bytearray) -> None:
        """Keep what there is room for."""
        self.n += len(part)
        room = self._n_head - len(self.head)
        self.head += part[:room]
        self.tail += part[room:] if room > 0 else part
        if len(self.tail) > 2 * self._n_tail + PIECE:
            self._cut()

    def drain(self, fd: int) -> bool:
        """Take what lies in a pipe that does not block; say whether more may come."""
        for _ in range(17):  # a pipe holds 16 pieces at most; whoever goes on writing is not waited for
            try:
                part = os.read(fd, PIECE)
            except BlockingIOError:
                return True
            if not part:
                return False
            self.add(part)
        return True

    def move(self, to: Output) -> None:
        """Give another all that is kept, and begin anew."""
        self._cut()
        to.n += self.n - len(self.head) - len(self.tail)
        to.add(self.head)
        to.add(self.tail)
        self.head, self.tail, self.n = bytearray(), bytearray(), 0

    def answer(self, exit_code: int | None, seconds: float) -> Answer:
        """Return it with how the command ended."""
        self._cut()
        left_out = self.n - len(self.head) - len(self.tail)
        header = {"exit_code": exit_code, "seconds": seconds, "n_head": len(self.head), "n_omitted": left_out}
        return header, [self.head, self.tail]

    def _cut(self) -> None:
        del self.tail[: max(0, len(self.tail) - self._n_tail)]


def above(fd: int, highest: int) -> int:
    """Return a copy of a descriptor with a number above another; how many there may be can be a small number."""
    while (copy := os.dup(fd)) <= highest:
        fd = copy
    return copy


class Maker:
    """Starts commands as the settings want them."""

    def __init__(self, config: Mapping[str, Any], family: processes.Family, host: int, fence: int | None) -> None:
        self.workspace, self.env, self.family = config["workspace"], config["env"], family
        self.host = host
        """The pipe whose end means that nobody waits for an answer any more."""
        self.aside: dict[int, Output] = {}
        """Pipes that are read whatever else is waited for: nothing in the background is to wait for a reader."""
        self.without = config.get("without") or ()
        self._fence = fence
        self._limits = dict(config["rlimits"])

    def folder(self, cwd: str | None) -> str:
        """Return the folder of a command.

        Raises:
            ValueError: There is none of that name.
        """
        folder = os.path.join(self.workspace, cwd or ".")
        if not os.path.isdir(folder):
            raise ValueError(f"cwd: no folder {cwd!r} in the sandbox")
        return folder

    def start(
        self, argv: Sequence[str], env: Mapping[str, str], folder: str, fds: Mapping[int, int], reaper: bool = False
    ) -> int:
        """Start a program with some descriptors, here by their numbers there; return its process id.

        Its standard error becomes a sentence and its exit code 127 or 126 where it cannot be started, as by a shell.
        """
        words = [encode(word) for word in argv]
        whole = {encode(name): encode(value) for name, value in {**self.env, **env}.items()}
        pid = os.fork()
        if pid:
            return pid
        try:
            os.setsid()
            for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)  # which are ignored here, and an exec would keep so
            fence = max(fds) + 1
            kept = fds if self._fence is None else {**fds, fence: self._fence}
            moved = {at: above(fd, fence) for at, fd in kept.items()}
            for fd in range(fence + 1):
                if fd in moved:
                    os.dup2(moved[fd], fd)
                else:
                    os.closerange(fd, fd + 1)
            os.closerange(fence + 1, 1 << 20)  # the pipes to the host too, before others may look at this process
            if "dumpable" not in self.without:
                processes.expose()
            processes.offer()
            if fence in kept:
                landlock.put_behind(fence)
                os.close(fence)
            if reaper:
                processes.adopt()
            self._limit()
            os.chdir(folder)
            _become(words, whole)
        except BaseException as error:
            os.write(2, words[0] + f": {error}\n".encode("utf-8", "backslashreplace"))
        os._exit(126)

    def run(self, request: Header, data: bytearray) -> Answer:
        """Run one to its end; what it left behind still runs."""
        folder, start = self.folder(request["cwd"]), time.monotonic()
        output = Output(request["max_output"])
        feed, give = os.pipe()
        out, into = os.pipe()
        try:
            try:
                pid = self.start(request["argv"], request["env"], folder, {0: feed, 1: into, 2: into})
            except OSError as error:  # what sessions run has used up all processes
                output.add(f"{request['argv'][0]}: {error.strerror}\n".encode("utf-8", "backslashreplace"))
                return output.answer(126, time.monotonic() - start)
            os.close(feed)
            os.close(into)
            feed = into = -1
            os.set_blocking(give, False)
            os.set_blocking(out, False)
            if not data:
                os.close(give)
                give = -1
            status = self._listen(pid, out, give, memoryview(data), output, start + request["timeout_s"])
            if status is None:
                processes.kill(pid, processes.SIGKILL)
            seconds = time.monotonic() - start
            output.drain(out)
            return output.answer(None if status is None else os.waitstatus_to_exitcode(status), seconds)
        finally:
            for fd in {feed, give, out, into} - {-1}:
                os.close(fd)

    def idle(self) -> None:
        """Wait until the host asks, or is gone."""
        poll = self.poll()
        poll.modify(self.host, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == self.host:
                    return
                self.notice(poll, fd)

    def poll(self) -> select.poll:
        """Return what waits for the host's end, for ends of processes, and for what is read aside."""
        poll = select.poll()
        poll.register(self.host, 0)
        poll.register(self.family.wake, select.POLLIN)
        for fd in self.aside:
            poll.register(fd, select.POLLIN)
        return poll

    def notice(self, poll: select.poll, fd: int) -> dict[int, int]:
        """Do what an event of ``poll`` asks for; return statuses of processes that ended.

        Raises:
            EOFError: The host is gone.
        """
        if fd == self.host:
            raise EOFError
        if fd == self.family.wake:
            return self.family.reap() or {}
        if not self.aside[fd].drain(fd):
            poll.unregister(fd)
        return {}

    def _listen(self, pid: int, out: int, give: int, data: memoryview, output: Output, end: float) -> int | None:
        """Wait for a process, feeding it and taking its output; None when its time is over."""
        poll = self.poll()
        poll.register(out, select.POLLIN)
        if data:
            poll.register(give, select.POLLOUT)
        while (left := end - time.monotonic()) > 0:
            for fd, _ in poll.poll(left * 1000 + 1):
                if fd == out:
                    if not take(output, out):  # it closed its output, and goes on
                        poll.unregister(out)
                elif fd == give:
                    data = data[feed(give, data) :]
                    if not data:
                        poll.unregister(give)
                        os.dup2(out, give)  # which closes it: the number stays ours
                elif pid in (found := self.notice(poll, fd)):
                    return found[pid]
        return None

    def _limit(self) -> None:
        if self._limits:
            import resource

            for name, value in self._limits.items():
                number = getattr(resource, f"RLIMIT_{name}")
                hard = resource.getrlimit(number)[1]
                value = value if hard == resource.RLIM_INFINITY else min(value, hard)
                resource.setrlimit(number, (value, value))


def take(output: Output, fd: int) -> bool:
    """Take one piece from a pipe, so that clocks are looked at between; say whether more may come."""
    try:
        part = os.read(fd, PIECE)
    except BlockingIOError:
        return True
    output.add(part)
    return bool(part)


def feed(fd: int, data: memoryview) -> int:
    """Write what a pipe has room for; all counts as written where nobody reads any more."""
    try:
        return os.write(fd, data[:PIECE])
    except BlockingIOError:
        return 0
    except OSError:
        return len(data)


def _become(argv: list[bytes], env: dict[bytes, bytes]) -> None:
    """Become a program, looked for as a shell does; what execvpe does, but for an import in every command."""
    folders = [b""] if b"/" in argv[0] else [at + b"/" for at in env.get(b"PATH", b"/usr/bin:/bin").split(b":")]
    problem = ""
    for folder in folders:
        try:
            os.execve(folder + argv[0], argv, env)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            problem = error.strerror or str(error)
    os.write(2, argv[0] + f": {problem or 'not found'}\n".encode())
    os._exit(126 if problem else 127)


def remove_ipc() -> None:
    """Remove System V objects, which outlive their processes, of a namespace of our own."""
    libc = ctypes.CDLL(None)
    for kind, remove, more in (
        ("shm", libc.shmctl, (0, None)),
        ("sem", libc.semctl, (0, 0)),
        ("msg", libc.msgctl, (0, None)),
    ):
        try:
            with open(f"/proc/sysvipc/{kind}") as table:
                ids = [int(line.split()[1]) for line in list(table)[1:]]
        except (OSError, ValueError):
            continue
        for number in ids:
            remove(number, *more)
