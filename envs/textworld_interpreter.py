"""A running text game as a function of the commands played.

Games are deterministic, so what was seen is remembered, and an interpreter may be stopped at any time: the next
question starts it again and plays the commands once more.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections import OrderedDict
from pathlib import Path
from threading import RLock
from typing import Any, NamedTuple

LOCK = RLock()
"""TextWorld's parsers share state: one thread of a process at a time."""
N_RUNNING = 128
"""Interpreters of a process, of 1.8 MB each: twice as many as the driver's slots, so that none stops while it plays."""
N_SEEN = 1_000
"""States that a game remembers, of 2 kB each."""


class Snapshot(NamedTuple):
    """A state of a game: what it says and what holds."""

    text: str
    commands: tuple[str, ...]
    """Admissible now."""
    plan: tuple[str, ...]
    """The planner's commands from here to the goal."""
    key: str
    """Hash of the facts that hold."""
    score: float
    max_score: float
    won: bool
    lost: bool


class Game:
    """A compiled game: the state after a list of commands, whoever asks and in whatever order."""

    def __init__(self, file: Path) -> None:
        """Read nothing yet; the interpreter starts with the first question."""
        self.file = file
        self._interpreter: Any = None
        self._at: tuple[str, ...] | None = None
        self._seen: dict[tuple[str, ...], Snapshot] = {}

    def after(self, commands: tuple[str, ...]) -> Snapshot:
        """Return the state after these commands, all of them admissible."""
        seen = self._seen.get(commands)
        if seen is not None:
            return seen
        with LOCK:
            return self._go(commands)

    def stop(self) -> None:
        """Stop the interpreter and forget what was seen."""
        with LOCK:
            if self._interpreter is not None:
                self._interpreter.close()
            self._interpreter, self._at, self._seen = None, None, {}

    def _go(self, commands: tuple[str, ...]) -> Snapshot:
        if len(self._seen) >= N_SEEN:
            self._seen = {}
        at, self._at = self._at, None  # nobody knows where it is, should TextWorld raise on the way
        if at is None or len(at) >= len(commands) or commands[: len(at)] != at:
            state = self._begin()
            at = ()
            self._seen[at] = _snapshot(state, f"{state.objective.strip()}\n{state.description}")
        for command in commands[len(at) :]:
            state, _, _ = self._interpreter.step(command)
            at = (*at, command)
            self._seen[at] = _snapshot(state, state.feedback)
        self._at = at
        return self._seen[at]

    def _begin(self) -> Any:
        if self._interpreter is None:
            import textworld

            wanted = ("admissible_commands", "policy_commands", "objective", "description", "feedback", "facts")
            request = textworld.EnvInfos(**dict.fromkeys((*wanted, "won", "lost", "score", "max_score"), True))
            # Jericho does not know generated games by name, which TextWorld does not need.
            warnings.filterwarnings("ignore", r"Game '.*' is not fully supported", UserWarning)
            self._interpreter = textworld.start(str(self.file), request)
        return self._interpreter.reset()


_RUNNING: OrderedDict[Path, Game] = OrderedDict()


def game(file: Path) -> Game:
    """Return a game, shared by all environments of the process; the one asked for longest ago stops for a new one."""
    with LOCK:
        found = _RUNNING.pop(file, None) or Game(file)
        _RUNNING[file] = found
        if len(_RUNNING) > N_RUNNING:
            _RUNNING.popitem(last=False)[1].stop()
        return found


def _snapshot(state: Any, text: str) -> Snapshot:
    facts = "\n".join(sorted(map(str, state.facts)))
    return Snapshot(
        text=_tidy(text),
        commands=tuple(state.admissible_commands),
        plan=tuple(state.policy_commands),
        key=hashlib.blake2b(facts.encode(), digest_size=12).hexdigest(),
        score=float(state.score),
        max_score=float(state.max_score),
        won=bool(state.won),
        lost=bool(state.lost),
    )


def _tidy(text: str) -> str:
    """Return a game's text without the prompt and status line, the score's announcement, and blank lines."""
    text = re.sub(r"\n>\s.*\Z", "", text, flags=re.DOTALL)
    text = re.sub(r"Your score has just gone up.*", "", text, flags=re.DOTALL)
    text = re.sub(r"-= (.+?) =-", r"\1:", text)
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())
