"""The wheel of a clean checkout, and empty environments to install it into."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
ALONE = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
PIP = [sys.executable, "-m", "pip"]


def run(*command: str | Path, cwd: Path) -> str:
    """Return what a command that succeeds prints."""
    ran = subprocess.run([str(c) for c in command], cwd=cwd, env=ALONE, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def installed(folder: Path, extras: str = "") -> Path:
    """Return the python of an empty environment into which the wheel was installed, with ``extras`` such as [eval]."""
    names = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines()
    for name in (n for n in names if not n.startswith(".typing/") and (ROOT / n).is_file()):
        (folder / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "src" / name)
    run(*PIP, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, folder / "src", cwd=folder)
    (wheel,) = folder.glob("*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    python = folder / "venv/bin/python"
    what = f"{wheel}{extras}"
    run(*PIP, "--python", python, "install", "-q", "-c", ROOT / ".ci/constraints.txt", what, cwd=folder)
    return python
