"""What attacks are played on: a sandbox, and on the host what they aim at; all of it is the stage's own."""

from __future__ import annotations

import importlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from secrets import token_hex
from typing import Any

from milepost.sandbox import bases, folders, leftovers
from milepost.sandbox.attacks.core import Control, Verdict, read_verdict, script
from milepost.sandbox.client import GuestSandbox
from milepost.sandbox.core import Limits, Result, SandboxError, Settings

LIMITS = Limits(memory=192 << 20, processes=64, disk=32 << 20, files=256)
"""Far below what bombs take, and these are small."""
GIVEN = "/mnt/given"
"""A folder that everybody may write to, were it not mounted read-only."""


class Stage:
    """Everything for attacks on one backend, with one protection left out where there is a control; a context."""

    def __init__(self, backend: str, control: Control | None = None) -> None:
        self.backend, self.control = backend, control or Control()
        self.secret = f"secret-{token_hex(8)}"
        self.folder = folders.state("attacks") / f"{leftovers.PREFIX}attacks-{leftovers.me().mark}-{token_hex(4)}"
        self._sandbox: GuestSandbox | None = None
        self._things = ExitStack()

    def __enter__(self) -> Stage:
        self.folder.mkdir()
        self.folder.chmod(0o711)
        for name, mode in (("shown", 0o755), ("open", 0o777), ("given", 0o777), ("base", 0o777)):
            (self.folder / name).mkdir()
            (self.folder / name).chmod(mode)
        for name in ("shown/file", "given/file", "base/file"):
            (self.folder / name).write_text(self.secret)
            (self.folder / name).chmod(0o644 if name == "base/file" else 0o666)
        self.base = bases.prepare(self.folder / "base")
        return self

    def __exit__(self, *error: object) -> None:
        self._things.close()
        if self._sandbox:
            self._sandbox.close()
        bases.remove(self.base)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def lifted(self) -> bool:
        """Whether the attack is to leave out a protection that the sandbox's methods have as a parameter."""
        return self.control.lifted

    @property
    def sandbox(self) -> GuestSandbox:
        """The sandbox that attacks are played in, started at its first use."""
        if self._sandbox is None:
            self._sandbox = self.start()
        return self._sandbox

    def start(self) -> GuestSandbox:
        """Start a sandbox on the stage."""
        shown = {str(self.folder / name): self.folder / name for name in self.control.shows}
        settings = Settings(
            base=self.base,
            mounts={GIVEN: self.folder / "given"} | shown,
            limits=LIMITS,
            # What cannot be enforced here is what the attack on it then shows.
            allow=frozenset({"memory", "processes", "cpus", "disk", "files", "network"}),
        )
        host = getattr(importlib.import_module(f"milepost.sandbox.{self.backend}"), f"{self.backend.capitalize()}Host")
        return GuestSandbox(host(settings, without=self.control.without))

    def renew(self) -> None:
        """Have a sandbox as new for the next attack."""
        try:
            if self._sandbox:
                self._sandbox.reset()
        except SandboxError:
            assert self._sandbox
            self._sandbox.close()
            self._sandbox = None

    def neighbour(self) -> GuestSandbox:
        """Start a second sandbox, which ends with the stage."""
        return self._things.enter_context(self.start())

    def shell(self, command: str, timeout_s: float = 20.0) -> Result:
        """Run a shell command in the sandbox."""
        return self.sandbox.run(command, timeout_s=timeout_s)

    def home(self) -> str:
        """Return the folder for temporary files, which lies outside the workspace."""
        return self.shell("echo $HOME").output.strip()

    def inside(
        self, payload: Callable[..., str], *also: int, sandbox: GuestSandbox | None = None, **given: Any
    ) -> Verdict:
        """Run a payload in a sandbox, this stage's or another, and return what it said of itself.

        Args:
            payload: See ``prelude``.
            also: Errors that mean a refusal here, besides the usual ones.
            sandbox: None: the stage's.
            given: Its arguments.

        Raises:
            AttackError: It crashed.
        """
        return read_verdict(self.play(payload, *also, sandbox=sandbox, **given))

    def play(
        self, payload: Callable[..., str], *also: int, sandbox: GuestSandbox | None = None, **given: Any
    ) -> Result:
        """Run a payload and return what came of the command."""
        argv = ["/usr/bin/python3", "-I", "-S", "-c", script(payload, given, also)]
        return (sandbox or self.sandbox).run(argv, timeout_s=30.0)

    def answers(self) -> bool:
        """Whether the sandbox still does what it is asked to."""
        try:
            return self.sandbox.run("echo $((6*7))", timeout_s=10.0).output == "42\n"
        except SandboxError:
            return False

    @contextmanager
    def listener(self, family: int, kind: int, *at: Any) -> Iterator[tuple[Any, Callable[[], str]]]:
        """Open a socket on the host; yield its address, and what says what came in at it ("": nothing)."""
        with socket.socket(family, kind) as server, ExitStack() as folder:
            if family == socket.AF_UNIX and isinstance(at[0], str) and not at[0].startswith("\0"):
                # The path itself may be longer than an address: an ordinary user's state folder lies deep.
                fd = os.open(os.path.dirname(at[0]), os.O_PATH)
                folder.callback(os.close, fd)
                server.bind(f"/proc/self/fd/{fd}/{os.path.basename(at[0])}")
                os.chmod(at[0], 0o777)
            else:
                server.bind(*at)
            if kind == socket.SOCK_STREAM:
                server.listen(8)
            # What was sent over a loopback is there; a control waits for it all the same.
            patience_s = 20.0 if self.control.parts else 0.2
            server.settimeout(patience_s)

            def heard() -> str:
                try:
                    if kind != socket.SOCK_STREAM:
                        return server.recv(4096).decode("latin-1")
                    with server.accept()[0] as connection:
                        connection.settimeout(patience_s)
                        return connection.recv(4096).decode("latin-1") or "a connection"
                except TimeoutError:
                    return ""

            yield server.getsockname(), heard

    @contextmanager
    def process(self) -> Iterator[str]:
        """Run a process on the host; yield a text that is among its arguments."""
        marker = f"milepost-{token_hex(8)}"
        with subprocess.Popen([sys.executable, "-S", "-c", "input()", marker], stdin=subprocess.PIPE) as process:
            try:
                yield marker
            finally:
                process.communicate(b"\n")

    def base_now(self) -> str:
        """Return what the shared base holds, as a digest."""
        total = sha256()
        for path in sorted(self.base.rglob("*")):
            total.update(repr((str(path), path.stat().st_mode)).encode())
            total.update(path.read_bytes() if path.is_file() else b"")
        return total.hexdigest()
