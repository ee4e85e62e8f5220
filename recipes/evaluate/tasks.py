"""From the entries of a panel to the driver's tasks: which they are, and what they need before they can be played."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import replace
from importlib import metadata
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import load_env_creator

from milepost.agents.core import episode_id
from milepost.envs import textworld_games
from milepost.envs.core import Task
from milepost.envs.make import make
from milepost.envs.names import did_you_mean
from milepost.recipes.evaluate.panel import Entry, Panel
from milepost.recipes.games import SEEDS, TEXTWORLD


def resolved(panel: Panel, most: int | None = None) -> Panel:
    """Return the panel with every entry's tasks or seeds spelled out, of each entry no more than the first ``most``.

    Raises:
        ValueError: No such environment, option, split or task; or the environment has no list, and nothing says how
            many episodes are meant.
    """
    return replace(panel, entries=tuple(_resolved(entry, most) for entry in panel.entries))


def tasks_of(panel: Panel) -> list[Task]:
    """Return a resolved panel's tasks, in its order, the attempts at one task beside each other."""
    return [
        Task(
            entry.env,
            entry.options if entry.max_turns is None else {**entry.options, "max_episode_steps": entry.max_turns},
            task=what if isinstance(what, str) else None,
            seed=what if isinstance(what, int) else None,
            split=entry.split,
            group=f"{entry.name}/{what}",
            attempt=attempt,
            timeout_s=entry.timeout_s,
        )
        for entry in panel.entries
        for what in entry.tasks or entry.seeds
        for attempt in range(entry.attempts)
    ]


def id_of(task: Task, seed: int) -> str:
    """Return the id that the task's episode has in a run."""
    return episode_id(seed, task.group, task.attempt)


def entry_of(tasks: Sequence[Task], panel: Panel, seed: int) -> dict[str, str]:
    """Return the name of the panel's entry by episode id; ``tasks`` are ``tasks_of(panel)``."""
    names = [e.name for e in panel.entries for _ in range(len(e.tasks or e.seeds) * e.attempts)]
    return {id_of(task, seed): name for task, name in zip(tasks, names, strict=True)}


def prepare(tasks: Sequence[Task]) -> None:
    """Have the games of TextWorld compiled in parallel, where the cache lacks them; other tasks need nothing."""
    games: dict[str, list[str]] = {}
    levels: dict[str, Any] = {}
    for task in tasks:
        if task.env_id.rpartition(":")[2] == TEXTWORLD and task.task is not None:
            key = repr(sorted(task.env_kwargs.items()))
            if key not in levels:
                with closing(make(task.env_id, **task.env_kwargs)) as env:
                    levels[key] = env.get_wrapper_attr("level")
            games.setdefault(key, []).append(task.task)
    for key, names in games.items():
        textworld_games.compile_games(levels[key], names)


def versions_of(panel: Panel) -> dict[str, str]:
    """Return the versions of the packages that decide about the tasks: ours, Gymnasium, the environments' own."""
    names = {"milepost", "gymnasium"} | set(panel.versions)
    for entry in panel.entries:
        spec = gym.spec(entry.env.rpartition(":")[2])
        module = str(spec.entry_point).partition(":")[0]
        names.add("textworld" if spec.id == TEXTWORLD else module.partition(".")[0])
    versions: dict[str, str] = {}
    for name in sorted(names):
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def unpinned(panel: Panel, versions: dict[str, str]) -> list[str]:
    """Return a warning for each package whose version is not the one that the panel pins."""
    return [
        f"the panel {panel.name} pins {name} {version}; here it is {versions.get(name, 'not installed')}"
        for name, version in panel.versions.items()
        if versions.get(name) != version
    ]


def _resolved(entry: Entry, most: int | None) -> Entry:
    with closing(make(entry.env, **entry.options)) as env:
        try:
            known = getattr(env.unwrapped, "tasks", lambda split: None)(entry.split)
        except LookupError as error:
            raise ValueError(f"{entry.name}: {entry.env}: tasks({entry.split!r}): {error!r}") from None
    n = entry.episodes
    if entry.seeds:
        return replace(entry, seeds=entry.seeds[:n][:most], options=_drawing(entry), episodes=None)
    if known is None:
        return _seeded(entry, most)
    if not known:
        raise ValueError(f"{entry.name}: the {entry.split} split of {entry.env} has no tasks")
    for name in entry.tasks:
        if name not in known:
            there = f"{did_you_mean(name, known)}; the {entry.split} split has {len(known)}, such as {known[0]!r}"
            raise ValueError(f"{entry.name}: no task {name!r} in {entry.env}{there}")
    if n is not None and n > len(entry.tasks or known):
        raise ValueError(f"{entry.name}: expected at most its {len(entry.tasks or known)} tasks, got {n} episodes")
    return replace(entry, tasks=(entry.tasks or tuple(known))[:n][:most], episodes=None)


def _seeded(entry: Entry, most: int | None) -> Entry:
    if entry.tasks:
        raise ValueError(f"{entry.name}: {entry.env} has no list of tasks; expected seeds or a number of episodes")
    numbers = [n for n in (entry.episodes, most) if n is not None]
    if not numbers:
        raise ValueError(
            f"{entry.name}: {entry.env} has no list of tasks: give episodes (--episodes 20) or seeds (--seeds 0-9)"
        )
    if entry.split not in SEEDS:
        raise ValueError(f"{entry.name}: split: expected one of {', '.join(SEEDS)}, got {entry.split!r}")
    start = SEEDS[entry.split]
    return replace(entry, seeds=tuple(range(start, start + min(numbers))), options=_drawing(entry), episodes=None)


def _drawing(entry: Entry) -> dict[str, Any]:
    """Return the options with which seeds draw from the entry's split, where the environment can be told."""
    point = gym.spec(entry.env.rpartition(":")[2]).entry_point
    creator = load_env_creator(point) if isinstance(point, str) else point
    takes = inspect.signature(creator).parameters if creator is not None else {}
    return {"split": entry.split, **entry.options} if "split" in takes else dict(entry.options)
