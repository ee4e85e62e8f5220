"""Processes that do not outlive the one that started them, and the files that a process may open.

Run as a script, ``process.py PARENT COMMAND...`` becomes the command and ends with its parent.
"""

import ctypes
import os
import resource
import signal
import sys
from contextlib import suppress


def die_with_parent(parent: int) -> None:
    """Let the kernel end this process when the one that started it ends, however that happens (Linux).

    Args:
        parent: Process id of the one that started it; if that is gone already, this process ends now.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


def room_for(n_connections: int) -> None:
    """Make sure that this process may open so many more connections, raising its file limit where that is allowed.

    Raises:
        ValueError: The hard limit is too low.
    """
    needed = n_connections + len(os.listdir("/dev/fd")) + 64
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or needed <= soft:
        return
    enough = hard == resource.RLIM_INFINITY or needed <= hard
    with suppress(ValueError, OSError):
        if enough:
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed if hard == resource.RLIM_INFINITY else hard, hard))
            return
    raise ValueError(
        f"{n_connections} connections need a file limit of {needed}; the hard limit here is {hard} (ulimit -Hn): "
        "raise it, or play fewer episodes at once"
    )


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
