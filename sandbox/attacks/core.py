"""What an attack is: something tried in a sandbox, a judge of what came of it, and a control that shows it works."""

from __future__ import annotations

import errno
import importlib
import inspect
import json
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from milepost.sandbox import landlock, limits
from milepost.sandbox.attacks import prelude
from milepost.sandbox.core import Result

if TYPE_CHECKING:
    from milepost.sandbox.attacks.stage import Stage

REFUSALS = (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EROFS)
"""With which errors any system call may be refused; attacks name others that are refusals of theirs."""
FILES = "filesystem"
"""The protection that a sandbox sees none of the host's files but what it is given."""

LANDLOCK, SHARED_USER, UNCOUNTED = (
    "landlock",
    "landlock, as an ordinary user",
    "bubblewrap and landlock, where no control group counts memory",
)
"""Where holes are."""

HELD = "held"
HOLD = f"exec 9> {HELD}; flock 9"
"""What a shell runs to hold a lock, in its folder, as long as it or anything that it started lives."""


class AttackError(Exception):
    """The attack itself broke: there is no verdict, and none may be assumed."""


@dataclass(frozen=True)
class Verdict:
    """What came of an attack."""

    refused: bool
    detail: str


@dataclass(frozen=True)
class Control:
    """What is left out so that the same payload succeeds; everything else stays as it was.

    One protection; or several, each of which refuses the attack alone as well.
    """

    without: frozenset[str] = frozenset()
    """Of the host's ``PROTECTIONS`` and ``GUEST``."""
    shows: tuple[str, ...] = ()
    """Parts of the stage that are mounted into the sandbox, at the place that they have on the host."""
    lifted: bool = False
    """Whether the attack itself lifts it (``Stage.lifted``): a parameter of the sandbox's methods."""

    @property
    def parts(self) -> tuple[str, ...]:
        """The protections that are left out, by name."""
        return (*sorted(self.without), *([FILES] if self.shows else []))

    def but(self, part: str) -> Control:
        """Return the same with one of the protections in force."""
        return replace(self, shows=()) if part == FILES else replace(self, without=self.without - {part})


@dataclass(frozen=True)
class Hole:
    """What is known not to refuse an attack."""

    why: str
    where: str = LANDLOCK

    def there(self, backend: str) -> bool:
        """Whether a backend has it, here and for this user."""
        known = importlib.import_module(f"milepost.sandbox.{backend}").capabilities()
        counted = known.get("limits", {}).get("memory") != limits.PER_PROCESS
        return {
            LANDLOCK: backend == "landlock",
            SHARED_USER: backend == "landlock" and not landlock.own_users(),
            UNCOUNTED: not counted,
        }[self.where]


@dataclass(frozen=True)
class Attack:
    """Something that code in a sandbox may try, and must not reach."""

    name: str
    about: str
    play: Callable[[Stage], Verdict]
    control: Control | str
    """How it succeeds; or why that cannot be shown without harm."""
    docker: Control | str | None = None
    """The same on docker, where it differs."""
    landlock: Control | str | None = None
    """The same on landlock, where it differs."""
    hole: Hole | None = None

    def control_on(self, backend: str) -> Control | str:
        """Return the control on a backend, or why there is none."""
        if hole := self.hole_on(backend):
            return f"a known hole: {hole}"
        return {"docker": self.docker, "landlock": self.landlock}.get(backend) or self.control

    def hole_on(self, backend: str) -> str:
        """Return why a backend does not refuse it here; empty where it does."""
        return self.hole.why if self.hole and self.hole.there(backend) else ""


def without(*names: str, shows: str = "") -> Control:
    """Return a control that leaves out protections, and perhaps shows a part of the stage."""
    return Control(frozenset(names), (shows,) if shows else ())


def script(payload: Callable[..., str], given: Mapping[str, Any], also: tuple[int, ...] = ()) -> str:
    """Return a payload as a program that runs by itself inside a sandbox."""
    start = inspect.getsource(prelude)
    call = f"main({payload.__name__}, json.loads({json.dumps(dict(given))!r}), {[*REFUSALS, *also]})"
    return f"{start}\n\n{inspect.getsource(payload)}\n\n{call}\n"


def read_verdict(result: Result) -> Verdict:
    """Return what a payload said of itself.

    Raises:
        AttackError: It said nothing: it crashed, or its time was over.
    """
    last = (result.output.strip().splitlines() or [""])[-1]
    if result.exit_code != 0 or not last.startswith("verdict "):
        raise AttackError(f"exit code {result.exit_code}, and no verdict: {result.output.strip()[-300:]!r}")
    done, detail = json.loads(last.removeprefix("verdict "))
    return Verdict(not done, detail)


def unless_killed(result: Result) -> Verdict:
    """Return a payload's verdict; a file system in memory that is not limited is, as memory."""
    if result.exit_code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return Verdict(True, "the kernel killed all of it, for memory")
    return read_verdict(result)


def inside(payload: Callable[..., str], *also: int, **given: Any) -> Callable[[Stage], Verdict]:
    """Return how to play an attack that is all payload and is judged by what this one achieved."""

    def play(stage: Stage) -> Verdict:
        came = stage.inside(payload, *also, **given)
        return Verdict(came.refused, came.detail)

    return play
