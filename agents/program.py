"""One run of an outside program that reads lines and writes lines."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import IO

from milepost.sandbox import process

LINE_BYTES = 16_000_000
"""No line is read beyond this."""
HELD_S = 1.0
"""So long after a program's end its standard output may stay open."""
_TAIL_BYTES = 4096


class Program:
    """A program with a thread that starts it, reads it and sees it end; it ends with this process, however that ends.

    ``on_line(program, line)`` is called for every line of its standard output, and kills it by raising an exception.
    ``on_end(program, why, error)`` is called once. What it writes to standard error is passed on.
    """

    def __init__(
        self,
        argv: Sequence[str],
        on_line: Callable[[Program, bytes], None],
        on_end: Callable[[Program, str, Exception | None], None],
    ) -> None:
        """Start it.

        Raises:
            OSError: It cannot be started.
        """
        self.n_answers = 0
        self.heard_s = 0.0
        """When it last answered, by the monotonic clock."""
        self.wants_forget = False
        self.closing = False
        self.over = False
        """Whether it was killed or has ended, and answers nothing more; ``on_end`` is called a little later."""
        self._on_line, self._on_end = on_line, on_end
        self._lines: SimpleQueue[bytes | None] = SimpleQueue()
        self._why: str | None = None
        self._error: Exception | None = None
        self._tail = b""
        self._process: subprocess.Popen[bytes] | None = None
        self._refused: OSError | None = None
        self._telling = threading.Lock()
        self._told = threading.Event()
        started = threading.Event()
        # The kernel ends a child with the thread that started it, so that is one that stays.
        self._thread = threading.Thread(target=self._live, args=(argv, started), name="agent-program", daemon=True)
        self._thread.start()
        started.wait()
        if self._refused is not None:
            raise self._refused

    @property
    def last_words(self) -> str:
        """The last line that it wrote to standard error."""
        lines = self._tail.decode(errors="replace").strip().splitlines()
        return lines[-1].strip()[-300:] if lines else ""

    def send(self, line: bytes) -> None:
        """Have a line written to its standard input, without waiting."""
        self._lines.put(line)

    def kill(self, why: str) -> None:
        """End it now, with all that it started."""
        self._why, self.over = self._why or why, True
        assert self._process is not None
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def hang_up(self) -> None:
        """End its input, which tells it to end."""
        self.closing = True
        self._lines.put(None)

    def close(self, grace_s: float) -> None:
        """Hang up and wait for its end; kill it where that takes longer than ``grace_s``."""
        self.hang_up()
        if not self._told.wait(max(0.0, grace_s)):
            self.kill("was closed")
            self._told.wait(5.0)

    def _live(self, argv: Sequence[str], started: threading.Event) -> None:
        pipe = subprocess.PIPE
        shim = [sys.executable, "-I", "-S", process.__file__, str(os.getpid())]
        try:
            self._process = child = subprocess.Popen(
                [*shim, *argv], stdin=pipe, stdout=pipe, stderr=pipe, process_group=0
            )
        except OSError as error:
            self._refused = error
            return
        finally:
            started.set()
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        threading.Thread(target=self._write, args=(child.stdin,), name="agent-program-in", daemon=True).start()
        ears = threading.Thread(target=self._hear, args=(child.stderr,), name="agent-program-err", daemon=True)
        ears.start()
        threading.Thread(target=self._outlive, args=(child,), name="agent-program-end", daemon=True).start()
        with child.stdout:
            try:
                while (line := child.stdout.readline(LINE_BYTES + 1)) and not self._told.is_set():
                    self._on_line(self, line)
            except Exception as error:
                self._error = error
                self.kill("was killed")
        self.over = True
        try:
            child.wait(2.0)
        except subprocess.TimeoutExpired:
            self.kill("closed its standard output")
        ears.join(1.0)  # longer where something that it started still holds the pipe
        self._tell(child.wait())

    def _outlive(self, child: subprocess.Popen[bytes]) -> None:
        """End what a program that ended left behind, where that holds its standard output open."""
        with suppress(ChildProcessError):
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie, whose group is still its own
            self.over = True
            if not self._told.wait(HELD_S):
                self.kill("")
                if not self._told.wait(HELD_S):  # what holds it is of another group
                    self._tell(child.wait())

    def _tell(self, code: int) -> None:
        """Tell its end, once."""
        self._lines.put(None)
        ended = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        with self._telling:
            if not self._told.is_set():
                self._on_end(self, self._why or ended, self._error)
                self._told.set()

    def _write(self, stdin: IO[bytes]) -> None:
        with suppress(OSError), stdin:
            for line in iter(self._lines.get, None):
                stdin.write(line)
                stdin.flush()

    def _hear(self, stderr: IO[bytes]) -> None:
        with stderr:
            while chunk := os.read(stderr.fileno(), 65536):
                self._tail = (self._tail + chunk)[-_TAIL_BYTES:]
                with suppress(OSError, ValueError):
                    sys.stderr.write(chunk.decode(errors="replace"))
                    sys.stderr.flush()
