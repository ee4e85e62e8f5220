"""Text games by level and seed: generated and compiled once, kept in the user's cache folder.

A game is a function of its level and seed. It is compiled under a temporary name and moved into place last, so that
several processes may fill one cache and a half-written game is never played.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import multiprocessing
import os
import random
import re
import signal
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from threading import RLock
from typing import Any, NamedTuple

from gymnasium.error import DependencyNotInstalled

FIRST_SEED = {"train": 50_001, "valid": 100_001, "test": 200_001}
"""Where the seeds of a split begin; training as in the Practitioner's Guide (50001-55000)."""
N_GAMES = {"train": 5_000, "valid": 500, "test": 1_000}


@dataclass(frozen=True)
class Level:
    """How big a game is, as the Practitioner's Guide names it: ``w3-o6-q4`` is 3 rooms, 6 objects, plans of 4."""

    rooms: int
    objects: int
    shortest: int
    longest: int
    """The quest's length is drawn from ``shortest..longest`` by the game's seed."""

    @classmethod
    def parse(cls, name: str) -> Level:
        """Read ``w3-o6-q4`` or ``w3-o6-q2..4``.

        Raises:
            ValueError: The name is none of these.
        """
        match = re.fullmatch(r"w(\d+)-o(\d+)-q(\d+)(?:\.\.(\d+))?", name)
        if match is None:
            raise ValueError(f"TextWorld level: expected a name like w2-o3-q4 or w3-o6-q2..4, got {name!r}")
        rooms, objects, shortest, longest = (int(x) if x else 0 for x in match.groups())
        level = cls(rooms, objects, shortest, longest or shortest)
        if not (rooms >= 1 and objects >= 1 and 1 <= shortest <= level.longest):
            raise ValueError(
                f"TextWorld level {name!r}: rooms, objects and lengths begin at 1, the shorter length first"
            )
        return level

    def __str__(self) -> str:
        span = f"{self.shortest}" if self.shortest == self.longest else f"{self.shortest}..{self.longest}"
        return f"w{self.rooms}-o{self.objects}-q{span}"


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
    """A compiled game as a function of the commands played: games are deterministic, what was seen is remembered."""

    def __init__(self, file: Path) -> None:
        """Start the interpreter."""
        import textworld

        wanted = ("admissible_commands", "policy_commands", "objective", "description", "feedback", "facts")
        request = textworld.EnvInfos(**dict.fromkeys((*wanted, "won", "lost", "score", "max_score"), True))
        with _LOCK:
            self._interpreter: Any = textworld.start(str(file), request)
        self._at: tuple[str, ...] | None = None
        self._seen: dict[tuple[str, ...], Snapshot] = {}

    def after(self, commands: tuple[str, ...]) -> Snapshot:
        """Return the state after these commands, all of them admissible."""
        if commands not in self._seen:
            with _LOCK:
                self._go(commands)
        return self._seen[commands]

    def _go(self, commands: tuple[str, ...]) -> None:
        if self._at is None or commands[: len(self._at)] != self._at:
            state = self._interpreter.reset()
            self._at = ()
            self._seen[()] = _snapshot(state, f"{state.objective.strip()}\n{state.description}")
        for command in commands[len(self._at) :]:
            state, _, _ = self._interpreter.step(command)
            self._at = (*self._at, command)
            self._seen[self._at] = _snapshot(state, state.feedback)


@lru_cache(maxsize=128)
def game(file: Path) -> Game:
    """Return a running game; the last 128 stay running and are shared by all environments of the process."""
    return Game(file)


_LOCK = RLock()
"""TextWorld's parsers share state: one thread of a process at a time."""


def tasks(split: str) -> list[str]:
    """Return the seeds of a split as task ids; no seed is in two splits."""
    if split not in FIRST_SEED:
        raise ValueError(f"TextWorld split: expected one of {', '.join(FIRST_SEED)}, got {split!r}")
    return [str(FIRST_SEED[split] + i) for i in range(N_GAMES[split])]


def cache_folder() -> Path:
    """Return where compiled games are kept: ``milepost/textworld`` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "milepost" / "textworld"


def game_file(level: Level, task: str, folder: Path | None = None) -> Path:
    """Return the compiled game, made now if the cache has none.

    Raises:
        DependencyNotInstalled: textworld is missing.
        ValueError: The task id is not a number.
    """
    if not task.isdecimal():
        raise ValueError(f"TextWorld task: expected a seed such as {FIRST_SEED['train']!s}, got {task!r}")
    target = (folder or cache_folder()) / str(level) / f"{task}.z8"
    if not (target.exists() and target.with_suffix(".json").exists()):
        _compile(level, int(task), target)
    return target


def compile_games(level: Level, names: Sequence[str], workers: int = 2, title: str | None = "games") -> None:
    """Compile what the cache lacks of these tasks, in parallel, with a progress bar where someone watches."""
    folder = cache_folder() / str(level)
    missing = [n for n in names if not ((folder / f"{n}.z8").exists() and (folder / f"{n}.json").exists())]
    if not missing:
        return
    from rich.progress import Progress

    context = multiprocessing.get_context("spawn")
    with (
        Progress(disable=title is None or not sys.stderr.isatty()) as bar,
        ProcessPoolExecutor(
            min(workers, len(missing)), context, initializer=_die_with_parent, initargs=(os.getpid(),)
        ) as pool,
    ):
        row = bar.add_task(title or "", total=len(missing))
        for done in as_completed([pool.submit(game_file, level, name) for name in missing]):
            done.result()
            bar.advance(row)


def _compile(level: Level, seed: int, target: Path) -> None:
    try:
        from textworld import GameOptions
        from textworld.generator import compile_game, make_game
    except ImportError as error:
        raise DependencyNotInstalled("TextWorld needs textworld: pip install 'milepost[textworld]'") from error
    target.parent.mkdir(parents=True, exist_ok=True)
    with _LOCK, tempfile.TemporaryDirectory(prefix=f".{seed}-", dir=target.parent) as scratch:
        options: Any = GameOptions()
        options._kb = _knowledge()
        options.seeds = seed
        options.nb_rooms, options.nb_objects, options.quest_breadth = level.rooms, level.objects, 1
        options.quest_length = random.Random(seed).randint(level.shortest, level.longest)
        options.path = str(Path(scratch) / "game.z8")
        compile_game(make_game(options), options)
        os.replace(Path(scratch) / "game.json", target.with_suffix(".json"))
        os.replace(Path(scratch) / "game.z8", target)


@cache
def _knowledge() -> Any:
    """Parse TextWorld's logic once a process: a third of the time of a game otherwise."""
    from textworld.generator.data import KnowledgeBase

    return KnowledgeBase.default()


def _die_with_parent(parent: int) -> None:
    """Let the kernel end this worker when its parent ends, however that happens (Linux)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


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
