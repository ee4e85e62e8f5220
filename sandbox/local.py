"""No isolation at all: the guest as a plain process, for one's own code. Its isolation says so."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

from milepost.sandbox import bases, leftovers, runtime
from milepost.sandbox.core import Limits, Settings
from milepost.sandbox.hosts import Link, PipeLink, end_guest, said_of
from milepost.sandbox.limits import checked

PATH = "/usr/local/bin:/usr/bin:/bin"


@cache
def capabilities() -> dict[str, Any]:
    """Return what is enforced: nothing."""
    return {"available": True, "why": None, "isolation": "none", "limits": dict.fromkeys(asdict(Limits()))}


class LocalHost:
    """Starts the guest in a temporary folder, as the user who runs this.

    No limit is enforced: the default ones may always go unenforced, others where ``Settings.allow`` names them.

    Raises:
        ValueError: Another limit is asked for, or an image.
    """

    backend = "local"

    def __init__(self, settings: Settings) -> None:
        if settings.image is not None:
            raise ValueError(f"image: only docker has images, got {settings.image!r} for local")
        asked = asdict(settings.limits)
        usual = {name for name, value in asdict(Limits()).items() if asked[name] == value}
        how = checked(self.backend, replace(settings, allow=settings.allow | usual), capabilities()["limits"])
        for path in settings.mounts.values():
            if not Path(path).exists():
                raise ValueError(f"mount: expected a file or folder, got nothing at {path}")
        self.settings = settings
        self._base = str(bases.prepare(settings.base)) if settings.base else None
        self.isolation: dict[str, Any] = {"backend": "local", "isolation": "none", "limits": how}
        self._folder = leftovers.folder("local")
        self.workspace = str(self._folder / "workspace")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Link:
        """Start a guest with an untouched workspace."""
        for name in ("workspace", "tmp"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        tmp = str(self._folder / "tmp")
        env = {"PATH": PATH, "HOME": tmp, "TMPDIR": tmp, "LANG": "C.UTF-8"}
        config = {
            "workspace": self.workspace,
            "base": self._base,
            "env": env | dict(self.settings.env),
            "rlimits": {},
            "overlay": False,
            "clean": [tmp],
            "parent": os.getpid(),
            "fence": None,
        }
        argv = runtime.command(runtime.guest_folder(), json.dumps(config))
        self._process = runtime.start(lambda: subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        return PipeLink.of(self._process)

    def stop(self) -> None:
        """Kill it with all that it started and remove what it left; a second call does nothing."""
        process, self._process = self._process, None
        if process:
            end_guest(process)
        if self._folder.exists():
            bases.remove(self._folder)

    def why_gone(self) -> str:
        """Say why the guest is gone, as far as can be told."""
        return said_of(self._process)

    def place(self, mount: str) -> str:
        """Return where commands find a mount."""
        return str(Path(self.settings.mounts[mount]).absolute())
