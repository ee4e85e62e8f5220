"""One command: started, fed, listened to, and over at its end or when its time is."""

from __future__ import annotations

import ctypes
import os
import select
import time

from milepost.sandbox.guest import processes

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
        self.half = max(1, n // 2)
        self.head, self.tail, self.n = bytearray(), bytearray(), 0

    def add(self, part: bytes) -> None:
        """Keep what there is room for."""
        self.n += len(part)
        room = self.half - len(self.head)
        self.head += part[:room]
        self.tail += part[room:] if room > 0 else part
        if len(self.tail) > 2 * self.half + PIECE:
            del self.tail[: -self.half]

    def drain(self, fd: int) -> None:
        """Take what lies in a pipe now, without waiting."""
        for _ in range(64):  # a pipe holds 16 pieces at most; whoever goes on writing is not waited for
            if not select.select([fd], [], [], 0)[0] or not (part := os.read(fd, PIECE)):
                return
            self.add(part)

    def answer(self, exit_code: int | None, seconds: float) -> Answer:
        """Return it with how the command ended."""
        del self.tail[: -self.half]
        left_out = self.n - len(self.head) - len(self.tail)
        header = {"exit_code": exit_code, "seconds": seconds, "n_head": len(self.head), "n_omitted": left_out}
        return header, [self.head, self.tail]


class Maker:
    """Starts commands as the settings want them."""

    def __init__(self, config: Mapping[str, Any], family: processes.Family, host: int) -> None:
        self.workspace, self.env, self.family = config["workspace"], config["env"], family
        self.host = host
        """The pipe whose end means that nobody waits for an answer any more."""
        self.without = config.get("without") or ()
        self._confine = config.get("confine")
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
        pid = os.fork()
        if pid:
            return pid
        code = 126
        try:
            os.setsid()
            for number in (signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)  # which Python ignores, and an exec would keep so
            moved = {at: os.dup2(fd, 100 + at) for at, fd in fds.items()}
            for fd in range(max(fds) + 1):
                if fd in moved:
                    os.dup2(moved[fd], fd)
                else:
                    os.closerange(fd, fd + 1)
            os.closerange(max(fds) + 1, 1 << 20)  # the pipes to the host too, before others may look at this process
            if "dumpable" not in self.without:
                processes.expose()
            if reaper:
                processes.adopt()
            self._limit()
            os.chdir(folder)
            os.execvpe(argv[0], argv, {**self.env, **env})
        except FileNotFoundError:
            code = 127
            os.write(2, f"{argv[0]}: not found\n".encode("utf-8", "surrogateescape"))
        except BaseException as error:
            os.write(2, f"{argv[0]}: {error}\n".encode("utf-8", "surrogateescape"))
        os._exit(code)

    def run(self, request: Header, data: bytearray) -> Answer:
        """Run one to its end; what it left behind still runs."""
        folder, start = self.folder(request["cwd"]), time.monotonic()
        feed, give = os.pipe()
        out, into = os.pipe()
        try:
            pid = self.start(request["argv"], request["env"], folder, {0: feed, 1: into, 2: into})
            os.close(feed)
            os.close(into)
            feed = into = -1
            os.set_blocking(give, False)
            output = Output(request["max_output"])
            status, give = self._listen(pid, out, give, memoryview(data), output, start + request["timeout_s"])
            if status is None:
                processes.kill(pid, processes.SIGKILL)
            seconds = time.monotonic() - start
            output.drain(out)
            return output.answer(None if status is None else os.waitstatus_to_exitcode(status), seconds)
        finally:
            for fd in {feed, give, out, into} - {-1}:
                os.close(fd)

    def _listen(
        self, pid: int, out: int, give: int, data: memoryview, output: Output, end: float
    ) -> tuple[int | None, int]:
        """Wait for a process, feeding it and taking its output; None when its time is over."""
        poll = select.poll()
        poll.register(out, select.POLLIN)
        poll.register(self.family.wake, select.POLLIN)
        poll.register(self.host, 0)
        if data:
            poll.register(give, select.POLLOUT)
        else:
            os.close(give)
            give = -1
        while (left := end - time.monotonic()) > 0:
            for fd, event in poll.poll(left * 1000 + 1):
                if fd == out:
                    part = os.read(out, PIECE) if event & select.POLLIN else b""
                    output.add(part)
                    if not part:
                        poll.unregister(out)
                elif fd == give:
                    try:
                        data = data[os.write(give, data[:PIECE]) :]
                    except BrokenPipeError:
                        data = data[:0]
                    except BlockingIOError:
                        continue
                    if not data:
                        poll.unregister(give)
                        os.close(give)
                        give = -1
                elif fd == self.host:
                    raise EOFError
                elif pid in (found := self.family.reap() or {}):
                    return found[pid], give
        return None, give

    def _limit(self) -> None:
        if self._limits:
            import resource

            for name, value in self._limits.items():
                number = getattr(resource, f"RLIMIT_{name}")
                hard = resource.getrlimit(number)[1]
                value = value if hard == resource.RLIM_INFINITY else min(value, hard)
                resource.setrlimit(number, (value, value))
        if self._confine:
            from milepost.sandbox.guest import confine

            confine.command(self._confine)


def remove_ipc() -> None:
    """Remove System V objects, which outlive their processes."""
    libc = ctypes.CDLL(None)
    for kind, remove in (
        ("shm", lambda n: libc.shmctl(n, 0, None)),
        ("sem", lambda n: libc.semctl(n, 0, 0)),
        ("msg", lambda n: libc.msgctl(n, 0, None)),
    ):
        try:
            with open(f"/proc/sysvipc/{kind}") as table:
                ids = [int(line.split()[1]) for line in list(table)[1:]]
        except (OSError, ValueError):
            continue
        for number in ids:
            remove(number)
