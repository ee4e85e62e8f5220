"""The credit protocol: a method is asked what turns earned, and one checked writer puts the answers down.

A method overrides the moment that it needs. ``on_turn`` during play; ``on_group`` after play, with all attempts at one
task at hand; ``fit`` after the update, to train a model of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from milepost.envs.core import ContractError, Episode, FloatArray, Groups, Message, Value

Rewards = Sequence[Sequence[Value]]
"""``[G][T]``: for each episode of a group, for each turn, a number, a number per sampled token ``[A]``, or None."""
Advantages = list[list[list[Any]]]
"""``[N][G][T]``: for each group of a batch the advantages of its turns."""
Estimator = Callable[[Sequence[Sequence[Episode]]], Advantages]
"""All groups of a batch to advantages: a pure function."""
Channel = Literal["reward", "joint", "separate", "gate", "loss"]
"""Where the signal enters (docs/credit.md): added to the reward, normalised with the outcome, normalised on its own,
deciding whether another counts, or an auxiliary loss."""


class Credit:
    """What turns earned, by one method.

    Subclasses set ``name`` and override at least one of ``on_turn`` and ``on_group``. An instance is used for a whole
    run: what it learns goes through ``state_dict``.
    """

    name: ClassVar[str] = ""
    """The method's acronym in lower case; the label under which its numbers are written."""
    needs: ClassVar[frozenset[str]] = frozenset()
    """What must be there: keys of ``info`` (``potential``, ``answer``, ``state_key``, ...) or ``outcome``, ``scorer``,
    ``token_model``, ``annotator``, ``replay``."""
    channel: ClassVar[Channel] = "reward"
    includes_outcome: ClassVar[bool] = False
    """Whether the numbers already contain the outcome, so that it must not be added again."""

    live: bool = False
    """Whether the method overrides ``on_turn`` and so is asked during play. Set by the class statement."""

    label: str = ""
    """The label in use: ``name``, or ``name#2`` for a second run of the method."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.label = cls.name
        cls.live = cls.on_turn is not Credit.on_turn

    def on_reset(self, episode: Episode) -> None:
        """Hear that an episode began."""

    def on_turn(self, episode: Episode) -> float | None:
        """Return what the newest turn, ``episode.turns[-1]``, earned; the last one sees ``episode.stop``."""
        return None

    def on_group(self, group: Sequence[Episode]) -> Rewards:
        """Return ``[G][T]`` what every turn of every attempt at one task earned."""
        raise NotImplementedError

    def fit(self, groups: Sequence[Sequence[Episode]]) -> dict[str, float]:
        """Train the method's own model on a batch; return metrics."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return what must be saved so that a resumed run goes on as if never stopped."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state_dict`` returned."""


class Scorer(Protocol):
    """A model that scores given text."""

    def logprobs(self, views: Sequence[Sequence[Message]], targets: Sequence[str]) -> list[FloatArray]:
        """Return ``[N][L]`` log-probabilities in nats of each target's tokens as the answer to its view."""
        ...


class TokenModel(Protocol):
    """A trainable model over the tokens of episodes; tensors carry gradient."""

    def token_logprobs(self, episodes: Sequence[Episode]) -> Any:
        """Return ``[E][T][A]`` log-probabilities in nats of the sampled tokens."""
        ...

    def turn_states(self, episodes: Sequence[Episode]) -> Any:
        """Return ``[E][T, D]`` the hidden state at each turn's last token."""
        ...

    def step(self, loss: Any) -> dict[str, float]:
        """Take a train step on ``loss``."""
        ...

    def save(self, path: str) -> None:
        """Write the model to a folder."""
        ...

    def load(self, path: str) -> None:
        """Read the model from a folder."""
        ...


def overrides(credit: Credit, moment: str) -> bool:
    """Return whether a method overrides ``on_turn``, ``on_group``, ``on_reset`` or ``fit``."""
    return getattr(type(credit), moment) is not getattr(Credit, moment)


def assign(credits: Sequence[Credit], groups: Groups | Sequence[Sequence[Episode]]) -> dict[str, float]:
    """Ask every method about every group, write the answers to ``turn.credit``, return metrics.

    A number that is not finite is written as 0 and counted (``credit/<label>/not_finite``); None stays None. Live
    credit (``on_turn``) is already there and only measured. What ``groups_of`` left out is reported as
    ``skipped/<reason>``.

    Raises:
        ContractError: A method returned another number of rows or of turns than it was given.
    """
    metrics: dict[str, float] = {f"skipped/{k}": float(v) for k, v in getattr(groups, "skipped", {}).items()}
    for credit in credits:
        n_bad = 0
        if overrides(credit, "on_group"):
            for group in groups:
                n_bad += _write(credit.label, group, credit.on_group(group))
        values = [
            np.sum(v) for g in groups for e in g for t in e.turns if (v := t.credit.get(credit.label)) is not None
        ]
        metrics[f"credit/{credit.label}/mean"] = float(np.mean(values)) if values else 0.0
        metrics[f"credit/{credit.label}/judged"] = float(len(values))
        metrics[f"credit/{credit.label}/not_finite"] = float(n_bad)
    return metrics


def _write(label: str, group: Sequence[Episode], rows: Rewards) -> int:
    """Write one group's credit; return how many numbers were not finite."""
    if len(rows) != len(group):
        raise ContractError(
            f"{label}: group {group[0].group!r}: expected {len(group)} rows, one an episode, got {len(rows)}"
        )
    n_bad = 0
    for episode, row in zip(group, rows, strict=True):
        if len(row) != len(episode.turns):
            raise ContractError(
                f"{label}: episode {episode.id!r}: expected {len(episode.turns)} values, one a turn, got {len(row)}"
            )
    for episode, row in zip(group, rows, strict=True):
        for turn, value in zip(episode.turns, row, strict=True):
            if value is not None:
                bad = ~np.isfinite(value)
                n_bad += int(np.sum(bad))
                value = (
                    np.where(bad, np.float32(0), value)
                    if isinstance(value, np.ndarray)
                    else (0.0 if bad else float(value))
                )
            turn.put(label, value)
    return n_bad
