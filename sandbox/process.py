"""Processes that do not outlive the one that started them."""

import ctypes
import os
import signal
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
