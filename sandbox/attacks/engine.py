"""A Docker engine of one's own: everything of it below one folder, the machine's network left alone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from milepost.sandbox import leftovers, process, runtime
from milepost.sandbox.core import SandboxError

OPTIONS = (
    *("--storage-driver", "overlay2", "--exec-opt", "native.cgroupdriver=cgroupfs"),
    *("--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"),
    *("--bridge=none", "--userland-proxy=false"),
)
PATIENCE_S = 60.0
"""How long it may take to answer, or to end."""


class Engine:
    """Starts and stops ``dockerd``; what it knows stays in its folder in between."""

    def __init__(self, folder: Path, *options: str) -> None:
        """Set one up.

        Args:
            folder: Its own; a short path, as sockets allow 107 bytes.
            options: More of ``dockerd``'s.
        """
        self.folder, self._options = folder, options
        self.host = f"unix://{folder / 'docker.sock'}"
        """For ``DOCKER_HOST``."""
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            SandboxError: It does not.
        """
        program = shutil.which("dockerd", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
        if program is None or os.geteuid():
            raise SandboxError("a Docker engine of its own: needs root and dockerd (apt install docker.io)")
        self.folder.mkdir(parents=True, exist_ok=True)
        places = [f"--{name}={self.folder / at}" for name, at in (("data-root", "data"), ("exec-root", "exec"))]
        argv = [program, "--host", self.host, *places, f"--pidfile={self.folder / 'pid'}", *OPTIONS, *self._options]
        log = self.folder / "log"
        with log.open("wb") as said:
            argv = [sys.executable, "-S", process.__file__, str(os.getpid()), *argv]  # it ends with this process
            self._process = runtime.start(
                lambda: subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
            )
        end = time.monotonic() + PATIENCE_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                self.stop()
                lines = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
                raise SandboxError(f"a Docker engine of its own did not start: {lines[-1][-300:]}")
            time.sleep(0.05)

    def stop(self, how: int = signal.SIGTERM) -> None:
        """Stop it and wait for its end; a second call does nothing."""
        daemon, self._process = self._process, None
        if daemon is None:
            return
        daemon.send_signal(how)
        try:
            daemon.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
        # One that was killed takes its containerd with it; the next one would take what is left of that for its own.
        said = self.folder / "exec" / "containerd" / "containerd.pid"
        with suppress(OSError, ValueError):
            while leftovers.started(int(said.read_text())):
                time.sleep(0.02)
            said.unlink()

    def _answers(self) -> bool:
        import docker

        with suppress(Exception):
            client = docker.DockerClient(base_url=self.host, timeout=5)
            try:
                return bool(client.ping())
            finally:
                client.close()
        return False
