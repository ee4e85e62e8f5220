"""What commands started: reaping it while they run, and killing all that is left of them."""

from __future__ import annotations

import ctypes
import os
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Collection
else:
    import _signal as signal  # the module signal imports enum: milliseconds of every start

SIGKILL = signal.SIGKILL
_libc = ctypes.CDLL(None)
PATIENCE_S = 10.0


def protect() -> None:
    """Keep commands, which have the same user, from reading and tracing this process."""
    _libc.prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE


def adopt() -> None:
    """Become the parent of orphans below this process."""
    _libc.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def expose() -> None:
    """Undo the protection of a copy that is about to become a command."""
    _libc.prctl(4, 1, 0, 0, 0)


def offer() -> None:
    """Have the kernel kill this process, and what it starts, before others when memory is short."""
    try:
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(fd, b"1000")
        os.close(fd)
    except OSError:
        pass


class Family:
    """The children of this process, orphans that it adopted among them."""

    def __init__(self) -> None:
        self.wake, waker = os.pipe()
        os.set_blocking(self.wake, False)
        os.set_blocking(waker, False)
        self.watched: dict[int, int | None] = {}
        """Processes whose ends are remembered, with their statuses; None while they live."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)

    def reap(self) -> dict[int, int] | None:
        """Return statuses by process id of those that ended since the last time; None: there are no children at all."""
        try:
            while len(os.read(self.wake, 4096)) == 4096:
                pass
        except BlockingIOError:
            pass
        found: dict[int, int] = {}
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return found or None
            if not pid:
                return found
            found[pid] = status
            if pid in self.watched:
                self.watched[pid] = status

    def sweep(self, keep: Collection[int] = ()) -> None:
        """Kill and reap everything that descends from this process, but for some children and what is below them.

        Raises:
            OSError: Something could not be killed.
        """
        if self.reap() is None:
            return
        if os.getpid() == 1 and not keep:
            kill(-1, signal.SIGKILL)
            while True:
                try:
                    os.waitpid(-1, 0)
                except ChildProcessError:
                    return
        self.kill({os.getpid()}, keep)

    def kill(self, roots: Collection[int], keep: Collection[int] = ()) -> None:
        """Kill what descends from processes, without these themselves and without what is kept.

        Everything is stopped before anything is killed: what forks faster than it is killed would get away.
        """
        end = time.monotonic() + PATIENCE_S
        while below(roots, keep):
            stopped: set[int] = set()
            while new := below(roots, keep) - stopped:
                for pid in new:
                    kill(pid, signal.SIGSTOP)
                stopped |= new
            for pid in stopped:
                kill(pid, signal.SIGKILL)
            poll = select.poll()
            poll.register(self.wake, select.POLLIN)
            poll.poll(5)
            self.reap()
            if time.monotonic() > end:
                raise OSError(f"processes that cannot be killed: {sorted(stopped)[:5]}")


def below(roots: Collection[int], keep: Collection[int] = ()) -> set[int]:
    """Return the living processes that descend from some, but for kept ones and what descends from these."""
    children: dict[int, list[int]] = {}
    dead = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            fd = os.open(f"/proc/{name}/stat", os.O_RDONLY)
        except OSError:
            continue
        try:
            state, parent = os.read(fd, 4096).rpartition(b")")[2].split()[:2]
        except (OSError, ValueError):
            continue
        finally:
            os.close(fd)
        children.setdefault(int(parent), []).append(int(name))
        if state in b"ZX":
            dead.add(int(name))
    found: set[int] = set()
    ring = set(roots)
    while ring := {pid for parent in ring for pid in children.get(parent, ())} - set(keep) - found:
        found |= ring
    return found - dead


def kill(pid: int, number: int) -> None:
    """Send a signal; to nobody where the process is gone."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def guard(parent: int, hidden: bool = True) -> None:
    """Return in a child whose end, however it comes, ends everything that it started: for where there is no PID 1.

    This process stays behind as the warden; it ends as the child did, and when it is told to or its parent is gone.

    Args:
        parent: Its process id.
        hidden: Whether commands can neither read nor trace the two.
    """
    if hidden:
        protect()
    adopt()
    _libc.prctl(1, signal.SIGTERM, 0, 0, 0)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)
    warden = os.getpid()
    child = os.fork()
    if child == 0:
        _libc.prctl(1, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != warden:
            os._exit(1)
        return
    for fd in (0, 1):
        os.close(fd)
    signal.signal(signal.SIGTERM, lambda *_: kill(child, signal.SIGKILL))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the host, which ends its guests
    status = None
    while status is None:
        pid, ended = os.waitpid(-1, 0)
        status = ended if pid == child else None
    Family().sweep()
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        os.kill(os.getpid(), -code)
    os._exit(code)
