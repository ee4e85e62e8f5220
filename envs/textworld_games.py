"""Text games by level and seed: generated and compiled once, kept in the user's cache folder.

A game is a function of its level and seed. It is compiled under a temporary name and moved into place last, so that
several processes may fill one cache and a half-written game is never played.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from gymnasium.error import DependencyNotInstalled

from milepost.envs.textworld_interpreter import LOCK
from milepost.sandbox.core import MachineError
from milepost.sandbox.process import die_with_parent

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
    def parse(
        cls, name: str, rooms: int | None = None, objects: int | None = None, quest_length: int | str | None = None
    ) -> Level:
        """Read ``w3-o6-q4`` or ``w3-o6-q2..4``; a size that is given beside it counts instead of the name's.

        Raises:
            ValueError: The name is none of these, or no game has such sizes.
        """
        match = re.fullmatch(r"w(\d+)-o(\d+)-q(\d+(?:\.\.\d+)?)", str(name))
        if match is None:
            raise ValueError(f"TextWorld level: expected a name like w2-o3-q4 or w3-o6-q2..4, got {name!r}")
        given = {"rooms": rooms, "objects": objects, "quest_length": quest_length}
        sizes = {
            size: str(named if given[size] is None else given[size])
            for size, named in zip(given, match.groups(), strict=True)
        }
        shortest, _, longest = sizes["quest_length"].partition("..")
        numbers = (sizes["rooms"], sizes["objects"], shortest, longest or shortest)
        for size, text in zip((*given, "quest_length"), numbers, strict=True):
            if not (text.isascii() and text.isdecimal() and int(text) >= 1):
                raise ValueError(f"TextWorld {size}: expected a number from 1, got {sizes[size]}")
        level = cls(*map(int, numbers))
        if level.shortest > level.longest:
            raise ValueError(f"TextWorld quest_length: expected the shorter first, got {sizes['quest_length']}")
        return level

    def __str__(self) -> str:
        span = f"{self.shortest}" if self.shortest == self.longest else f"{self.shortest}..{self.longest}"
        return f"w{self.rooms}-o{self.objects}-q{span}"


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
        ValueError: The task id is not a seed, or no game of this level fits its sizes.
    """
    if not (task.isascii() and task.isdecimal() and int(task) < 2**32):
        raise ValueError(f"TextWorld task: expected a seed such as {FIRST_SEED['train']!s}, got {task!r}")
    target = (folder or cache_folder()) / str(level) / f"{int(task)}.z8"
    if not _is_there(target):
        _compile(level, int(task), target)
    return target


def compile_games(
    level: Level, names: Sequence[str], workers: int = 2, title: str | None = "games", folder: Path | None = None
) -> None:
    """Compile what the cache lacks of these tasks, in parallel, with a progress bar where someone watches.

    The workers end with this process, however it ends. What they finished stays.

    Raises:
        MachineError: A worker died.
        DependencyNotInstalled, ValueError: See ``game_file``.
    """
    folder = folder or cache_folder()
    missing = [name for name in dict.fromkeys(names) if not _is_there(folder / str(level) / f"{name}.z8")]
    if not missing:
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    pool = ProcessPoolExecutor(
        min(workers, len(missing)),
        multiprocessing.get_context("spawn"),
        initializer=_begin_worker,
        initargs=(os.getpid(),),
    )
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    watched = title is not None and sys.stderr.isatty()
    try:
        with Progress(*columns, console=Console(stderr=True), disable=not watched) as bar:
            row = bar.add_task(title or "", total=len(missing))
            for done in as_completed([pool.submit(game_file, level, name, folder) for name in missing]):
                done.result()
                bar.advance(row)
    except BrokenProcessPool as error:
        raise MachineError(f"a process that compiles games of {level} died; the finished ones are kept") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _is_there(game: Path) -> bool:
    return game.exists() and game.with_suffix(".json").exists()


def _compile(level: Level, seed: int, target: Path) -> None:
    try:
        from textworld import GameOptions
        from textworld.generator import compile_game, make_game
        from textworld.generator.chaining import QuestGenerationError
    except ImportError as error:
        raise DependencyNotInstalled("TextWorld needs textworld: pip install 'milepost[textworld]'") from error
    target.parent.mkdir(parents=True, exist_ok=True)
    _sweep(target.parent)
    with LOCK, tempfile.TemporaryDirectory(prefix=f".{seed}-", dir=target.parent) as scratch:
        options: Any = GameOptions()
        options._kb = _knowledge()
        options.seeds = seed
        options.nb_rooms, options.nb_objects, options.quest_breadth = level.rooms, level.objects, 1
        options.quest_length = random.Random(seed).randint(level.shortest, level.longest)
        options.path = str(Path(scratch) / "game.z8")
        try:
            compile_game(make_game(options), options)
        except QuestGenerationError as error:
            raise ValueError(f"TextWorld level {level}: no quest of {options.quest_length} commands fits it") from error
        os.replace(Path(scratch) / "game.json", target.with_suffix(".json"))
        os.replace(Path(scratch) / "game.z8", target)


def _sweep(folder: Path, older_than_s: float = 600.0) -> None:
    """Remove what a killed process left; no game takes minutes to compile."""
    for scratch in folder.glob(".*-*"):
        with contextlib.suppress(OSError):
            if time.time() - scratch.stat().st_mtime > older_than_s:
                shutil.rmtree(scratch)


@cache
def _knowledge() -> Any:
    """Parse TextWorld's logic once a process: a third of the time of a game otherwise."""
    from textworld.generator.data import KnowledgeBase

    return KnowledgeBase.default()


def _begin_worker(parent: int) -> None:
    """Leave Ctrl-C to the parent, and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(parent)
