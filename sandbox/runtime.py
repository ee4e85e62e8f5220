"""What guests need on the host: their code where every user may read it, an interpreter, and a thread to start them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from typing import TypeVar

from milepost.sandbox import folders
from milepost.sandbox.core import SandboxError

T = TypeVar("T")
SOURCE = Path(__file__).parent / "guest"
MAIN = "from milepost.sandbox.guest import {module}\n{module}.main()\n"
BOOT = "import sys; sys.path.insert(0, sys.argv.pop(1)); exec(open(sys.path[0] + '/__main__.py').read())"
"""Runs the folder that is the next argument. Left to itself, Python imports much to find that it is one."""
PLACE = "/opt/milepost"
"""Where a sandbox with a file system of its own has the guest."""

_starters: dict[int, ThreadPoolExecutor] = {}
"""By process id: a fork takes no threads along."""


def start(make: Callable[[], T]) -> T:
    """Call something in the one thread that starts guests: the kernel ends what was to die with its parent when the
    thread that started it ends."""
    pid = os.getpid()
    if pid not in _starters:
        _starters.setdefault(pid, ThreadPoolExecutor(1, "sandbox-starter"))  # of two threads' the first one stays
    return _starters[pid].submit(make).result()


@cache
def interpreter() -> str:
    """Return the Python that runs guests: the system's, else the one that runs this."""
    system = "/usr/bin/python3"
    if os.access(system, os.X_OK):
        said = subprocess.run(
            [system, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True
        )
        if said.returncode == 0 and tuple(map(int, said.stdout.split())) >= (3, 9):
            return os.path.realpath(system)
    return str(Path(sys.base_prefix, "bin", f"python{sys.version_info[0]}.{sys.version_info[1]}"))


@cache
def guest_folder(module: str = "exec_server") -> Path:
    """Return a folder that ``python -I -S FOLDER CONFIG`` runs: a module of the guest, and what it imports.

    Raises:
        SandboxError: It cannot be made.
    """
    sources = {path.name: path.read_bytes() for path in sorted(SOURCE.glob("*.py"))}
    sources["../../../__main__.py"] = MAIN.format(module=module).encode()
    said = sha256(repr([interpreter(), *sources.items()]).encode()).hexdigest()[:16]
    home = folders.state("guest")
    target, new = home / said, home / f".new-{token_hex(8)}"
    if target.is_dir():
        return target
    try:
        _write(new, sources)
        new.rename(target)
    except OSError as error:
        if not target.is_dir():  # else another was faster
            raise SandboxError(f"the guest cannot be written below {home}: {error.strerror}") from None
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return target


def _write(new: Path, sources: Mapping[str, bytes]) -> None:
    inside = new / "milepost" / "sandbox" / "guest"
    inside.mkdir(parents=True)
    for name, text in sources.items():
        (inside / name).write_bytes(text)
    for name in ("milepost", "milepost/sandbox"):
        (new / name / "__init__.py").touch()
    compiled = [interpreter(), "-I", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", str(new)]
    made = subprocess.run(compiled, capture_output=True, text=True)
    if made.returncode:
        said = (made.stderr or made.stdout).strip().splitlines() or ["it said nothing"]
        raise SandboxError(f"the guest cannot be compiled by {interpreter()} below {new.parent}: {said[-1]}")
    for path in [new, *new.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)


def command(folder: str | Path, config: str, python: str | None = None) -> list[str]:
    """Return how a guest is started."""
    return [python or interpreter(), "-I", "-S", "-B", "-X", "utf8", "-c", BOOT, str(folder), config]


def spawn(
    argv: list[str], fds: list[int], owner: tuple[int, int], stderr: int | None = None
) -> subprocess.Popen[bytes]:
    """Start a guest as a user and group, with pipes and some descriptors besides, and nothing of this environment."""
    uid, gid = (None, None) if owner[0] == os.geteuid() else owner
    pipe, groups = subprocess.PIPE, None if uid is None else list[int]()
    return subprocess.Popen(
        argv,
        stdin=pipe,
        stdout=pipe,
        stderr=stderr,
        pass_fds=fds,
        cwd="/",
        env={},
        user=uid,
        group=gid,
        extra_groups=groups,
    )
