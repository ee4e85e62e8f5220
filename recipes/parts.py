"""What a recipe gives to credit methods that need more than episodes: a model to train, a scorer, a way back."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from milepost.agents.driver import play
from milepost.credit import methods
from milepost.credit.core import Credit, saved
from milepost.envs.core import Episode, Task
from milepost.recipes.console import read_option

if TYPE_CHECKING:
    from milepost.agents.local.policy import LocalPolicy

Options = Mapping[str, Mapping[str, Any]]
"""Options of credit methods, by name."""
SETTINGS: dict[str, dict[str, Any]] = {"progress": {"scale": "initial"}}
"""Options of methods as our recipes set them: progress counts in shares of the way to the goal."""
PARTS = ("token_model", "scorer", "replay")
"""What a recipe makes of the policy."""
ELSEWHERE = {"annotator": "an annotator, a language model to ask", "privileged": "what only training may see"} | {
    "belief": "what is believed of the task's slots"
}
"""What a method may need and these recipes do not have."""


class Branches:
    """Plays on from recorded states with the present policy: the ``Replay`` of credit methods."""

    def __init__(self, policy: LocalPolicy, credits: Sequence[Credit] = (), seed: int = 0, slots: int = 16) -> None:
        self._policy, self._credits, self._seed, self._slots = policy, credits, seed, slots

    def branches(self, starts: Sequence[tuple[Episode, int]], n: int) -> list[list[Episode]]:
        """Return ``[S][n]`` episodes from the state before turn t of each ``(episode, t)`` to their ends."""
        tasks = [
            Task(e.env_id, e.env_kwargs, start=(e, t), group=f"{e.id}/{i}", attempt=attempt)
            for i, (e, t) in enumerate(starts)
            for attempt in range(n)
        ]
        before, self._policy.keep_states = self._policy.keep_states, False
        try:
            played = play(tasks, self._policy, self._credits, slots=self._slots, seed=self._seed)
        finally:
            self._policy.keep_states = before
        rows = [played[i * n : (i + 1) * n] for i in range(len(starts))]
        return [[episode for episode in row if episode.outcome is not None] for row in rows]


def credit_options(texts: Sequence[str], names: Sequence[str], own: Options = MappingProxyType({})) -> Options:
    """Return the options that ``--credit-option METHOD.OPTION=VALUE`` says of methods, on top of a recipe's own.

    Raises:
        ValueError: A text is of another form, or of a method that is not asked for.
    """
    found = {name: dict(options) for name, options in own.items()}
    for text in texts:
        path, equals, _ = text.partition("=")
        name, _, option = path.rpartition(".")
        if name not in names or not (equals and option):
            there_are = f"; of {', '.join(names)}" if names else "; --credit has none"
            raise ValueError(f"--credit-option {text}: expected METHOD.OPTION=VALUE of a method in --credit{there_are}")
        found.setdefault(name, {})[option] = read_option(text)[1]
    return found


def check_credits(names: Sequence[str], options: Options = MappingProxyType({})) -> None:
    """Raise, before anything is played, what ``credits_of`` would.

    Raises:
        ValueError: An unknown method, one that needs what these recipes do not have, an option that cannot be, or a
            critic that could not say what the methods beside it pay.
    """
    for name in names:
        cls = methods.find(name)
        for need in sorted(cls.needs & set(ELSEWHERE)):
            raise ValueError(f"credit {name!r} needs {ELSEWHERE[need]}; this recipe has none")
        given = {**SETTINGS.get(name, {}), **options.get(name, {})}
        methods.check_options(name, **given, **{part: None for part in PARTS if part in cls.needs})
        if options.get(name) and not cls.needs & set(PARTS):
            _try(name, given)
        if cls.channel == "value" and "replay" in cls.needs:
            others = [n for n in names if n != "outcome" and methods.find(n).channel != "value"]
            if late := [n for n in others if not methods.find(n).live]:
                raise ValueError(
                    f"credit {name!r} plays on from recorded states, where methods are asked during play alone; "
                    f"{late[0]!r} judges after it"
                )


def credits_of(
    names: Sequence[str],
    policy: LocalPolicy,
    *,
    seed: int,
    lr: float,
    gamma: float,
    options: Options = MappingProxyType({}),
) -> list[Credit]:
    """Return credit methods in the order of their names, each with the parts that it needs, made of the policy.

    ``options`` are a recipe's own. A model begins as the policy is now. A critic expects what all other methods pay,
    discounted as the recipe does.
    """
    check_credits(names, options)
    made: dict[str, Credit] = {}
    for name in sorted(names, key=lambda n: methods.find(n).channel == "value"):
        cls = methods.find(name)
        takes = inspect.signature(cls).parameters
        earned = [credit for credit in made.values() if credit.channel != "value"]
        live = [credit for credit in earned if credit.live]
        given = {**SETTINGS.get(name, {}), **options.get(name, {})}
        if "token_model" in cls.needs:
            given["token_model"] = _token_model(policy, seed, lr)
        if "scorer" in cls.needs:
            given["scorer"] = _scorer(policy, frozen=getattr(cls, "frozen", False))
        if "replay" in cls.needs:
            given |= {"replay": Branches(policy, live, seed), "labels": live}
        if "rewards" in takes:
            given["rewards"] = earned
        if cls.channel == "value" and cls.level != "token" and "gamma" in takes:
            given["gamma"] = gamma
        made[name] = methods.resolve(name, **given)
    return [made[name] for name in names]


def states_of(credits: Sequence[Credit], rank: int) -> list[dict[str, Any] | None]:
    """Return what a checkpoint keeps of this rank's methods; a token model is the first rank's everywhere."""
    return [None if rank and "token_model" in credit.needs else saved(credit) for credit in credits]


def read_states(folder: Path, rank: int) -> list[dict[str, Any]]:
    """Return the states of this rank's methods; the first rank's where there are none of its own.

    Raises:
        OSError, EOFError, RuntimeError, UnpicklingError: They cannot be read.
    """
    import torch

    first = torch.load(folder / credits_file(0), weights_only=True)
    own = folder / credits_file(rank)  # absent where more processes go on than began
    mine = torch.load(own, weights_only=True) if own.exists() else first
    return [state or its for state, its in zip(mine, first, strict=True)]


def credits_file(rank: int) -> str:
    """Return where a checkpoint keeps what a rank's credit methods have learned from its own episodes."""
    return f"credits-r{rank}.pt" if rank else "credits.pt"


def _try(name: str, options: Mapping[str, Any]) -> None:
    """Refuse values with which a method cannot be made."""
    try:
        methods.resolve(name, **options)
    except TypeError as error:
        raise ValueError(f"credit {name!r} cannot be made: {error}") from error


def _token_model(policy: LocalPolicy, seed: int, lr: float) -> Any:
    from milepost.agents.local.token_model import AdapterModel

    return AdapterModel.beside(policy, seed=seed, lr=lr)


def _scorer(policy: LocalPolicy, frozen: bool) -> Any:
    from milepost.agents.local.scorer import LocalScorer

    return LocalScorer(policy, reference=frozen)
