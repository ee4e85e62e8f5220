"""Small honest stand-ins for what a method needs of a model: deterministic, and no stranger than a real one."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from milepost.envs.core import Action, Episode, FloatArray, Message, Stop, Turn
from milepost.sandbox.core import MachineError

PARTS = ("scorer", "token_model", "annotator", "replay", "privileged", "belief")
"""What a recipe gives to a method's constructor, under these keywords: what it needs, or cannot be made without."""


def share(*text: object) -> float:
    """Return a number of 0..1 that the text decides, whatever mark of ``audit.groups.anew`` stands in it."""
    return int.from_bytes(hashlib.sha256(re.sub(r"~\d+~", "", repr(text)).encode()).digest()[:4], "big") / 2**32


class HashScorer:
    """A scorer whose log-probabilities (-0.1 to -2 nats, one a word) are decided by view, target and their form."""

    def __init__(self, *seed: int) -> None:
        self.seed = seed

    def logprobs(self, views: Sequence[Sequence[Message]], targets: Sequence[str], **form: Any) -> list[FloatArray]:
        """Return ``[N][L]`` log-probabilities in nats."""
        return [
            np.array(
                [-0.1 - 1.9 * share(list(view), target, form, i, *self.seed) for i in range(_words(target))], np.float32
            )
            for view, target in zip(views, targets, strict=True)
        ]


class LastScorer(HashScorer):
    """A scorer that looks at the last message of a view alone."""

    def logprobs(self, views: Sequence[Sequence[Message]], targets: Sequence[str], **form: Any) -> list[FloatArray]:
        """Return ``[N][L]`` log-probabilities in nats."""
        return super().logprobs([view[-1:] for view in views], targets, **form)


class LevelScorer:
    """A scorer that is sure of everything: 0 nats, but ``level`` in every other view, counted by its messages."""

    def __init__(self, level: float) -> None:
        self.level = level

    def logprobs(self, views: Sequence[Sequence[Message]], targets: Sequence[str], **form: Any) -> list[FloatArray]:
        """Return ``[N][L]`` log-probabilities in nats."""
        return [
            np.full(_words(target), self.level if len(view) // 2 % 2 else 0.0, np.float32)
            for view, target in zip(views, targets, strict=True)
        ]


def _words(target: str) -> int:
    return max(1, len(target.split()))


class HashAnnotator:
    """An annotator that always answers, decided by the prompt, in every form that ours are asked for.

    FOO or BAR, a best description, and the prompt's last JSON object with each value true or false.
    """

    def __init__(self, *seed: int) -> None:
        self.seed = seed

    def annotate(self, prompts: Sequence[Sequence[Message]]) -> list[str]:
        """Return ``[N]`` answers."""
        return [self._answer(str(list(prompt)), str(prompt[-1]["content"])) for prompt in prompts]

    def _answer(self, prompt: str, asked: str) -> str:
        said = "FOO" if share(prompt, *self.seed) < 0.5 else "BAR"
        form = re.findall(r"\{[^{}]*\}", asked)
        try:
            parts = json.loads(form[-1]) if form else {}
        except json.JSONDecodeError:
            parts = {}
        filled = json.dumps({name: share(prompt, name, *self.seed) < 0.4 for name in parts})
        return f"{said} best_description: {1 + (share(prompt, 'best', *self.seed) < 0.5)} {filled}"


class HashReplay:
    """A replay whose branches play one turn more and win or lose as state and number decide."""

    def __init__(self, *seed: int) -> None:
        self.seed = seed

    def branches(self, starts: Sequence[tuple[Episode, int]], n: int) -> list[list[Episode]]:
        """Return ``[S][n]`` episodes from the state before turn t to their ends."""
        return [[self._branch(episode, t, i) for i in range(n)] for episode, t in starts]

    def _branch(self, episode: Episode, t: int, i: int) -> Episode:
        seen = [turn.action.text for turn in episode.turns[:t]]
        won = float(share(episode.task, seen, i, *self.seed) < 0.5)
        shown = episode.turns[t].observation if t < len(episode.turns) else "the end"
        end = Turn(shown, Action("on"), info=dict(episode.turns[-1].info) | {"outcome": won, "success": won >= 1.0})
        turns = [*(replace(turn, info=dict(turn.info), credit={}) for turn in episode.turns[:t]), end]
        parent = {"episode": episode.id, "turn": t}
        return replace(
            episode, id=f"{episode.id}/{t}.{i}", turns=turns, stop=Stop.TERMINATED, parent=parent, last="the end"
        )


def hash_belief(episode: Episode, t: int, *seed: int) -> dict[str, list[float]]:
    """Return what is believed before turn t: the probabilities of two values, decided by what was done so far."""
    p = share(episode.task, [turn.action.text for turn in episode.turns[:t]], *seed)
    return {"where": [p, 1 - p]}


def hidden_ids(episode: Episode, *seed: int) -> list[int]:
    """Return the token ids of what the agent was not shown: three, decided by the task."""
    return [int(32 * share(episode.task, i, *seed)) for i in range(3)]


class Broken:
    """A part whose machine is down: whatever is asked of it raises a ``MachineError``, and counts."""

    size, vocab = 8, 32

    def __init__(self) -> None:
        self.n_raised = 0

    def __call__(self, *args: Any) -> Any:
        """Fail, where the part is a function."""
        return self.call(*args)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name == "adopt":
            return lambda head: head

        def fail(*args: Any, **kwargs: Any) -> Any:
            self.n_raised += 1
            raise MachineError(f"{name}: the machine is down, by check")

        return fail


def standin(part: str, *seed: int) -> Any:
    """Return the stand-in for one of ``PARTS``; with a seed, one that answers otherwise."""
    if part == "token_model":
        from milepost.credit.audit.tiny_tokens import TinyTokens

        return TinyTokens(*seed)
    functions: dict[str, Callable[..., Any]] = {"belief": hash_belief, "privileged": hidden_ids}
    classes = {"scorer": HashScorer, "annotator": HashAnnotator, "replay": HashReplay}
    if part in classes:
        return classes[part](*seed)
    function: Callable[..., Any] = functions[part]
    return (lambda *given: function(*given, *seed)) if seed else function
