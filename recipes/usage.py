"""What a run costs: seconds by stage, and the most memory that all its processes held together."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil


class Usage:
    """Counts from when it is made; a thread looks at the memory twice a second."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        """Wall time by stage, over all the processes that a run was resumed in."""
        self.peak_rss_bytes = 0
        """Most resident memory of this process, its descendants and, under torchrun, the other ranks."""
        self._root = _root()
        threading.Thread(target=self._watch, daemon=True).start()

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time in the context to a stage, also when it is interrupted."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.monotonic() - start

    def _watch(self) -> None:
        while True:
            self.peak_rss_bytes = max(self.peak_rss_bytes, _rss(self._root))
            time.sleep(0.5)


def give_back() -> None:
    """Hand freed memory back to the system: the C library keeps what tensors of ever new sizes left behind (Linux)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _root() -> psutil.Process:
    """Return this process, or the launcher where torchrun started it."""
    me = psutil.Process()
    parent = me.parent()
    return parent if "TORCHELASTIC_RUN_ID" in os.environ and parent is not None else me


def _rss(root: psutil.Process) -> int:
    total = 0
    for process in [root, *root.children(recursive=True)]:
        with suppress(psutil.Error):
            total += process.memory_info().rss
    return total
