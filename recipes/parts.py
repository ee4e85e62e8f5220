"""What a recipe gives to credit methods that need more than episodes: a model to train, a scorer, a way back."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from milepost.agents.driver import play
from milepost.agents.local.policy import LocalPolicy
from milepost.credit import methods
from milepost.credit.core import Credit
from milepost.envs.core import Episode, Task

SETTINGS: dict[str, dict[str, Any]] = {"progress": {"scale": "initial"}}
"""Options of methods as our recipes set them: progress counts in shares of the way to the goal."""


class Branches:
    """Plays on from recorded states with the present policy: the ``Replay`` of credit methods."""

    def __init__(self, policy: LocalPolicy, seed: int = 0, slots: int = 16) -> None:
        self._policy, self._seed, self._slots = policy, seed, slots

    def branches(self, starts: Sequence[tuple[Episode, int]], n: int) -> list[list[Episode]]:
        """Return ``[S][n]`` episodes from the state before turn t of each ``(episode, t)`` to their ends."""
        tasks = [
            Task(e.env_id, e.env_kwargs, start=(e, t), group=f"{e.id}/{i}", attempt=attempt)
            for i, (e, t) in enumerate(starts)
            for attempt in range(n)
        ]
        before, self._policy.keep_states = self._policy.keep_states, False
        try:
            played = play(tasks, self._policy, slots=self._slots, seed=self._seed)
        finally:
            self._policy.keep_states = before
        rows = [played[i * n : (i + 1) * n] for i in range(len(starts))]
        return [[episode for episode in row if episode.outcome is not None] for row in rows]


def credits_of(names: Sequence[str], policy: LocalPolicy, *, seed: int, lr: float) -> list[Credit]:
    """Return credit methods by name, each with the parts that it needs, made of the policy.

    Raises:
        ValueError: An unknown method, or one that needs what this recipe does not have.
    """
    made: list[Credit] = []
    for name in names:
        cls = methods.find(name)
        options = dict(SETTINGS.get(name, {}))
        for need in sorted(cls.needs & {*PARTS, *ELSEWHERE}):
            if need in ELSEWHERE:
                raise ValueError(f"credit {name!r} needs {ELSEWHERE[need]}; this recipe has none")
            options[need] = PARTS[need](policy, seed, lr)
        if "rewards" in inspect.signature(cls).parameters:  # a critic expects what the methods before it say
            options["rewards"] = list(made)
        made.append(methods.resolve(name, **options))
    return made


def _token_model(policy: LocalPolicy, seed: int, lr: float) -> Any:
    from milepost.agents.local.token_model import AdapterModel

    return AdapterModel.beside(policy, seed=seed, lr=lr)


def _scorer(policy: LocalPolicy, seed: int, lr: float) -> Any:
    from milepost.agents.local.scorer import LocalScorer

    return LocalScorer(policy)


def _replay(policy: LocalPolicy, seed: int, lr: float) -> Any:
    return Branches(policy, seed)


ELSEWHERE = {"annotator": "an annotator, a language model to ask", "privileged": "what only training may see"}
PARTS: dict[str, Callable[[LocalPolicy, int, float], Any]] = {
    "token_model": _token_model,
    "scorer": _scorer,
    "replay": _replay,
}
"""What a method may need -> how it is made of the policy, a seed and a learning rate."""
