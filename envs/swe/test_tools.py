"""pytest and what tested packages' tests import beside it: a folder of its own, with none of the packages in it.

Mounted read-only at ``testing.TOOLS`` in a sandbox, it is the same for every task, out of the agent's reach, and
independent of what this machine's own Python has.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

from milepost.envs.swe.sources import cache_folder, place, sweep
from milepost.envs.swe.testing import PYTHON
from milepost.sandbox.core import MachineError

PINS = (
    "pytest==9.2.0",
    "iniconfig==2.3.1",
    "packaging==26.3",
    "pluggy==1.7.0",
    "pygments==2.21.0",
    "freezegun==1.5.5",
    "python-dateutil==4.0.0",
)
"""Complete: nothing else is installed. Pure Python, so that one folder serves every interpreter."""


def tools(folder: Path | None = None) -> Path:
    """Return the folder, installed now by pip if the cache has none; only wheels, of which nothing is executed.

    Raises:
        MachineError: pip could not install it; it says why.
    """
    home = (folder or cache_folder()) / "tools"
    target = home / hashlib.sha256("\n".join(PINS).encode()).hexdigest()[:16]
    if target.is_dir():
        return target
    home.mkdir(parents=True, exist_ok=True)
    sweep(home)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=home) as scratch:
        tree = Path(scratch) / "tools"
        how = ["--target", str(tree), "--no-deps", "--only-binary", ":all:", "--no-compile"]
        _run([sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *how, *PINS])
        # Byte code for the sandbox's interpreter that needs no times of files, which copies of this folder may lose.
        for python in {PYTHON, sys.executable}:
            if Path(python).exists():
                _run([python, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", str(tree)])
        place(tree, target)
    return target


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
        why = next((line for line in said if line.startswith("ERROR")), said[-1])
        raise MachineError(f"test tools: {' '.join(command[1:4])} failed: {why}")
