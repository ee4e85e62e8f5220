"""What a sandbox is: settings in, results out; and errors of the machine, which are nobody's mistake in the episode.

A container that dies, a page that crashes, an endpoint that times out. An episode in which a ``MachineError`` is raised
ends as ``Stop.FAILED``: it is counted, shown, never scored and never trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from os.path import normpath
from pathlib import Path
from typing import Any, Literal, Protocol, Self

from milepost.sandbox.names import did_you_mean, refuse_unknown


class MachineError(RuntimeError):
    """Something under the environment or the agent broke; the episode says nothing about the agent."""


class SandboxError(MachineError):
    """A sandbox or container did not do what it was asked to."""


class EndpointError(MachineError):
    """A model's endpoint gave no usable answer after the last try."""


class BrowserError(MachineError):
    """A browser page crashed or stopped answering."""


class _Named:
    """Settings by keyword, whose names are looked at first: a misspelt limit would be none."""

    def __new__(cls, *_: object, **given: object) -> Self:
        refuse_unknown(cls.__name__, given, [each.name for each in fields(cls)])  # type: ignore[arg-type]
        return super().__new__(cls)


@dataclass(frozen=True)
class Limits(_Named):
    """What a sandbox may use; None is no limit. Backends say in ``capabilities`` which of them they enforce here."""

    memory: int | None = 1 << 30
    """Bytes."""
    processes: int | None = 128
    """Processes and threads at once."""
    cpus: float | None = None
    """Cores."""
    disk: int | None = 1 << 28
    """Bytes that the workspace may hold beyond its base; the temporary folder has as many of its own."""
    files: int | None = 1024
    """Open files of a process."""
    network: Literal["none", "loopback"] = "none"
    """``none``: no socket but those of the file system; ``loopback``: TCP and UDP within the sandbox."""

    def __post_init__(self) -> None:
        for name in ("memory", "processes", "cpus", "disk", "files"):
            what, kind, most = ("a number", float, 1 << 20) if name == "cpus" else ("a whole number", int, 1 << 62)
            value = getattr(self, name)
            if value is not None and not (isinstance(value, (int, kind)) and value < most):
                raise ValueError(f"limits: {name}: expected {what} below {most}, or None, got {value!r}")
        if self.network not in ("none", "loopback"):
            near = did_you_mean(str(self.network), ("none", "loopback"))
            raise ValueError(f"limits: network: expected 'none' or 'loopback', got {self.network!r}{near}")


@dataclass(frozen=True)
class Settings(_Named):
    """How a sandbox begins, whatever its backend."""

    base: Path | None = None
    """A folder with whose files the workspace begins; it is never changed. What ``bases.prepare`` returned is taken as
    it is; any other is looked through at every start, as it may have changed."""
    mounts: Mapping[str, Path] = field(default_factory=dict)
    """Read-only folders and files of the host by their place in the sandbox; ``Sandbox.place`` says where a backend
    without a file system of its own has them."""
    hidden: tuple[str, ...] = ()
    """Files and folders of the host that are empty, or closed, in a sandbox that has the host's ``/usr``."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Environment of all commands, on top of PATH, HOME and LANG; the host's is not passed on."""
    limits: Limits = Limits()
    allow: frozenset[str] = frozenset()
    """Names of limits that may go unenforced; any other that the backend cannot enforce here is refused."""
    image: str | None = None
    """Docker's image; None is an empty one with the host's ``/usr``, read-only."""
    workspace: str | None = None
    """Where the workspace is in an image, over what the image has there; None is the backend's own place."""

    def __post_init__(self) -> None:
        if not isinstance(self.limits, Limits):
            raise ValueError(f"Settings.limits: expected Limits, got {type(self.limits).__name__}")
        if isinstance(self.allow, str):
            raise ValueError(f"Settings.allow: expected a set of names, got the text {self.allow!r}")
        refuse_unknown("Settings.allow", self.allow, [each.name for each in fields(Limits)])
        places = [(str(place), str(path)) for place, path in self.mounts.items()]
        for what, texts in (
            ("base", [str(self.base or "")]),
            ("mounts", [text for pair in places for text in pair]),
            ("env", [text for pair in self.env.items() for text in pair]),
            ("hidden", list(self.hidden)),
            ("image", [self.image or ""]),
        ):
            if found := [text for text in texts if not isinstance(text, str) or "\0" in text]:
                raise ValueError(f"Settings.{what}: expected a text without NUL bytes, got {repr(found[0])[:80]}")
        if self.workspace is not None and (self.image is None or not self.workspace.startswith("/")):
            raise ValueError(f"Settings.workspace: expected an absolute path in an image, got {self.workspace!r}")
        if self.image == "":
            raise ValueError("Settings.image: expected a name or None, got ''")
        if found := [name for name in self.env if "=" in name or not name]:
            raise ValueError(f"Settings.env: expected names without '=', got {found[0]!r}")
        if found := [path for path in self.hidden if not path.startswith("/usr/") or normpath(path) != path]:
            raise ValueError(f"Settings.hidden: expected paths below /usr, got {found[0]!r}")
        if found := [place for place, _ in places if not place.startswith("/")]:
            raise ValueError(f"Settings.mounts: expected absolute paths in the sandbox, got {found[0]!r}")


@dataclass(frozen=True)
class Result:
    """What a command did."""

    exit_code: int | None
    """Negative for a signal; None when its time was over."""
    seconds: float
    head: bytes
    """Standard output and error as they came; where they were longer than asked for, their beginning."""
    tail: bytes = b""
    """Their end, where something between was left out."""
    n_omitted: int = 0
    """Bytes left out between ``head`` and ``tail``."""
    ended: bool = False
    """Whether the session ended with it, and the next command begins a new one."""

    @property
    def timed_out(self) -> bool:
        """Whether its time was over, and it was killed."""
        return self.exit_code is None

    @property
    def output(self) -> str:
        r"""The output as text; bytes that are not UTF-8 as ``\xff``, what was left out as a line that says so."""
        if not self.n_omitted:  # in one: a character may lie across the two
            return (self.head + self.tail).decode("utf-8", "backslashreplace")
        head, tail = (part.decode("utf-8", "backslashreplace") for part in (self.head, self.tail))
        return f"{head}\n[... {self.n_omitted} bytes left out ...]\n{tail}"


@dataclass(frozen=True)
class Node:
    """A file, folder or symbolic link of a tree."""

    kind: Literal["file", "folder", "link"] = "file"
    data: bytes = b""
    """A file's content; a link's target."""
    mode: int = 0o644
    """Permission bits."""


Tree = Mapping[str, Node]
"""Nodes by their path below a folder, with slashes; folders that have something in them may be left out."""


class Session(Protocol):
    """A shell that keeps its folder, variables and background processes from command to command."""

    def run(self, command: str, *, timeout_s: float = 60.0, max_output: int = 1 << 16) -> Result:
        """Run a command in it; one whose time is over ends the session, which then begins anew."""
        ...

    def close(self) -> None:
        """End it, and all that it started."""
        ...


class Sandbox(Protocol):
    """A place where commands run. Paths are below ``workspace`` unless absolute, and never lead out of it.

    Raises, in every method:
        ValueError: What was asked for cannot be: a path outside the workspace, a NUL byte, a missing file.
        SandboxError: The sandbox is gone or does not answer; it says why.
    """

    backend: str
    workspace: str
    """The workspace as commands see it."""
    isolation: Mapping[str, Any]
    """Backend, what is in force and how: plain JSON for records."""

    def run(
        self,
        command: str | Sequence[str],
        *,
        timeout_s: float = 60.0,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        max_output: int = 1 << 16,
    ) -> Result:
        """Run a shell command, or a program with arguments; nothing that it started outlives it."""
        ...

    def session(self, name: str = "main") -> Session:
        """Return the shell of that name, which is started at its first command."""
        ...

    def read(self, path: str, *, max_bytes: int = 1 << 24) -> bytes:
        """Return a file's content; a longer one is a ``ValueError``."""
        ...

    def write(self, path: str, data: bytes | str, *, mode: int = 0o644) -> None:
        """Write a file, and the folders above it."""
        ...

    def get_tree(self, path: str = ".") -> dict[str, Node]:
        """Return all files, folders and links below a folder."""
        ...

    def put_tree(self, tree: Mapping[str, Node | None], path: str = ".") -> None:
        """Write a tree below a folder, in the place of what is there; None removes, so that a ``diff`` can be put."""
        ...

    def diff(self) -> dict[str, Node | None]:
        """Return what the workspace has otherwise than its base: nodes as they are now, None for what is gone."""
        ...

    def place(self, mount: str) -> str:
        """Return where commands find one of ``Settings.mounts``."""
        ...

    def reset(self) -> None:
        """Make it as new: no process, no session, the base alone in the workspace."""
        ...

    def close(self) -> None:
        """Kill and remove it; a second call does nothing."""
        ...
