"""No isolation at all: the guest as a plain process, for one's own code. Its isolation says so."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from milepost.sandbox import leftovers
from milepost.sandbox.client import Link, PipeLink
from milepost.sandbox.core import Settings

ROOT = Path(__file__).parent


class LocalHost:
    """Starts the guest in a temporary folder."""

    backend = "local"

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.isolation: dict[str, Any] = {"backend": "local", "isolation": "none"}
        self._folder = leftovers.folder("local")
        self.workspace = str(self._folder / "workspace")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Link:
        """Start a guest with an untouched workspace."""
        if self.settings.base:
            shutil.copytree(self.settings.base, self.workspace, symlinks=True)
        else:
            Path(self.workspace).mkdir(parents=True)
        env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(self._folder), "LANG": "C.UTF-8"}
        config = {"workspace": self.workspace, "env": env | dict(self.settings.env)}
        code = "from milepost.sandbox.guest.exec_server import main; main()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, json.dumps(config)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdin and self._process.stdout
        import os

        return PipeLink(os.dup(self._process.stdin.fileno()), os.dup(self._process.stdout.fileno()))

    def stop(self) -> None:
        """Kill it with all that it started and remove what it left; a second call does nothing."""
        process, self._process = self._process, None
        if process:
            process.kill()
            process.communicate()
        shutil.rmtree(self._folder, ignore_errors=True)

    def why_gone(self) -> str:
        """Say why the guest is gone, as far as can be told."""
        code = self._process.poll() if self._process else None
        return f"the guest is gone (exit code {code})"

    def place(self, mount: str) -> str:
        """Return where commands find a mount."""
        return str(self.settings.mounts[mount])
