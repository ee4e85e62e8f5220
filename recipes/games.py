"""Which games a run plays, in what order, and what their environment offers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from milepost.agents.core import stable_seed
from milepost.credit.methods import find
from milepost.envs import textworld_games
from milepost.envs.core import INFO_KEYS, Task
from milepost.envs.make import make
from milepost.recipes.console import read_option

if TYPE_CHECKING:
    from milepost.recipes.textworld_guide import Args

TEXTWORLD = "milepost/TextWorld-v0"
SEEDS = {"train": 1_000, "valid": 1_000_000, "test": 2_000_000}
"""Where a split's seeds begin in an environment that has no list of tasks."""
NEEDS = {"random": "info['actions']", "oracle": "oracle()"}
"""What the environment must have for these policies to play."""


class Games:
    """The games of each split, as tasks of the driver."""

    def __init__(self, args: Args, kwargs: dict[str, Any]) -> None:
        self._args = args
        self._kwargs = kwargs | dict(read_option(text) for text in args.option)
        n_games = {"train": args.n_train, "valid": args.n_probe, "test": args.n_test}
        self.of = {split: self._first(split, n) for split, n in n_games.items()}
        """Names of tasks, or seeds, by split."""

    def compile(self) -> None:
        """Have the games of TextWorld compiled, where the cache lacks them; other games need nothing."""
        if self._args.env == TEXTWORLD:
            names = [str(game) for games in self.of.values() for game in games]
            level = make(TEXTWORLD, **self._kwargs).get_wrapper_attr("level")
            textworld_games.compile_games(level, names)

    def missing(self, credits: Sequence[str] = ()) -> dict[str, str]:
        """Look at a game; return what it does not offer by the policy that would need it.

        Raises:
            ValueError: The game cannot be begun, its reset lacks what a credit method needs, or there is nothing to
                clone and cloning is asked for.
        """
        args, (task,) = self._args, self.tasks(self.of["train"][:1], "look")
        env = make(args.env, **self._kwargs)
        try:
            _, info = env.reset(seed=task.seed, options={"task": task.task} if task.task else None)
            given = set(info)
            found = {"random": bool(info.get("actions")), "oracle": env.has_wrapper_attr("oracle")}
        except Exception as error:
            raise ValueError(f"{args.env}: reset raised {type(error).__name__}: {error}") from error
        finally:
            env.close()
        for name in credits:
            for need in sorted(find(name).needs - given):
                if need in INFO_KEYS and "reset" in INFO_KEYS[need].at:
                    raise ValueError(f"credit {name!r} needs info[{need!r}] from reset; {args.env} gave none")
        if not found["oracle"] and (args.warmup_updates or args.after == "cloning"):
            raise ValueError(f"{args.env} has no oracle(), which cloning learns from: give --warmup-updates 0")
        return {policy: need for policy, need in NEEDS.items() if not found[policy]}

    def batch(self, purpose: str, update: int, n_games: int, attempts: int) -> list[Task]:
        """Return the tasks of an update: games in an order drawn anew each epoch, several attempts at each."""
        games = self.of["train"]
        places = range(update * n_games, (update + 1) * n_games)
        drawn = [shuffled(games, self._args.seed, purpose, at // len(games))[at % len(games)] for at in places]
        again = [drawn[:i].count(game) for i, game in enumerate(drawn)]  # a batch may span two epochs
        return [
            task
            for game, n in zip(drawn, again, strict=True)
            for task in self.tasks([game], f"{purpose}/{update}{f'/again{n}' if n else ''}", attempts=attempts)
        ]

    def tasks(self, games: Sequence[str | int], purpose: str, split: str = "train", attempts: int = 1) -> list[Task]:
        """Return a group of attempts for each game; in training TextWorld's patience is limited."""
        hurried = split == "train" and self._args.env == TEXTWORLD
        kwargs = {"patience": self._args.patience} | self._kwargs if hurried else self._kwargs
        return [
            Task(
                self._args.env,
                kwargs,
                task=game if isinstance(game, str) else None,
                seed=game if isinstance(game, int) else None,
                split=split,
                group=f"{purpose}/{game}",
                attempt=attempt,
            )
            for game in games
            for attempt in range(attempts)
        ]

    def _first(self, split: str, n: int) -> list[str | int]:
        """Return the first ``n`` tasks of a split, or seeds of its own where the environment has no list."""
        env = make(self._args.env, **self._kwargs)
        tasks = getattr(env.unwrapped, "tasks", lambda split: None)(split)
        env.close()
        if tasks is None:
            return [SEEDS[split] + i for i in range(n)]
        if len(tasks) < n:
            raise ValueError(f"{self._args.env} has {len(tasks)} {split} tasks; expected at least {n}")
        return list(tasks[:n])


def env_kwargs(args: Args) -> dict[str, Any]:
    """Return the recipe's own options of the environment: TextWorld's."""
    return {"level": args.level, "max_episode_steps": args.max_turns} if args.env == TEXTWORLD else {}


def shuffled(games: Sequence[Any], *key: object) -> list[Any]:
    """Return the games in an order that depends on ``key`` alone."""
    order = list(games)
    random.Random(stable_seed(*key)).shuffle(order)
    return order
