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
Channel = Literal["reward", "joint", "separate", "gate", "loss", "value"]
"""Where the signal enters (docs/credit.md): added to the reward, normalised with the outcome, normalised on its own,
deciding whether another counts, an auxiliary loss, or what was expected of the state: a baseline, no reward."""
Level = Literal["turn", "token", "episode"]
"""What gets a number of its own."""


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
    level: ClassVar[Level] = "turn"
    paper: ClassVar[str] = ""
    """``arXiv 2508.10548``, or what else names the source."""
    trains: ClassVar[bool] = False
    """Whether ``fit`` trains a model of the method's own."""
    pair: ClassVar[str] = "turn"
    """The estimator that the method's paper pairs it with: its id in ``methods.TABLE``."""
    version: ClassVar[int] = 1
    """Of what ``state_dict`` returns; a saved state of another version is refused."""

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

    def logprobs(
        self,
        views: Sequence[Sequence[Message]],
        targets: Sequence[str],
        *,
        prefix: str = "",
        suffix: str = "",
        tools: Sequence[dict[str, Any]] = (),
    ) -> list[FloatArray]:
        """Return ``[N][L]`` log-probabilities in nats of each target's tokens as the answer to its view.

        The answer that is read is ``prefix + target + suffix``; L counts the tokens that hold a character of the
        target. ``tools`` are those that all the views are shown with. A target that does not fit into the model's
        context behind its view is a row of nan.
        """
        ...


class TokenModel(Protocol):
    """A trainable model over the tokens of episodes; its tensors carry gradient unless ``torch.no_grad`` is on."""

    size: int
    """D, the width of a hidden state."""
    vocab: int
    """V, the width of the logits."""

    def token_logprobs(self, episodes: Sequence[Episode]) -> list[list[Any]]:
        """Return ``[E][T][A]`` log-probabilities in nats of the sampled tokens."""
        ...

    def token_states(
        self, episodes: Sequence[Episode], *, logits: bool = False, before: bool = False
    ) -> list[list[Any]]:
        """Return ``[E][T][A, D]`` the hidden state at each sampled token (``[A, V]`` the logits instead).

        ``before``: the state that predicts the token and has not seen it, as a baseline must not.
        """
        ...

    def turn_states(self, episodes: Sequence[Episode], *, logits: bool = False, before: bool = False) -> list[Any]:
        """Return ``[E][T, D]`` the hidden state at each turn's last token (``[T, V]`` the logits instead).

        ``before``: the state that predicts the turn's first token and has seen nothing of the turn.
        """
        ...

    def adopt(self, head: Any) -> Any:
        """Move a ``torch.nn.Module`` to the model's device and train and save it with the model; return it."""
        ...

    def total(self, number: float) -> float:
        """Return the sum of a number over all ranks: a loss is a sum divided by such a total."""
        ...

    def step(self, loss: Any) -> dict[str, float]:
        """Take a train step on ``loss``, this rank's share of a sum over all ranks; return metrics."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return weights, heads and optimizer, so that training goes on bit for bit."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state_dict`` returned."""
        ...


class Annotator(Protocol):
    """A language model that answers prompts about what happened."""

    def annotate(self, prompts: Sequence[Sequence[Message]]) -> list[str]:
        """Return ``[N]`` the answer to each chat.

        Raises:
            MachineError: It does not answer.
        """
        ...


class Replay(Protocol):
    """Goes back to recorded states and plays on from there with the present policy."""

    def branches(self, starts: Sequence[tuple[Episode, int]], n: int) -> list[list[Episode]]:
        """Return ``[S][n]`` episodes: from the state before turn t of each ``(episode, t)``, to their ends.

        An episode that failed or was not scored is left out.
        """
        ...


def saved(credit: Credit) -> dict[str, Any]:
    """Return a method's state with its name and version, for a checkpoint."""
    return {"name": credit.name, "version": credit.version, "state": credit.state_dict()}


def restore(credit: Credit, state: dict[str, Any]) -> None:
    """Take back what ``saved`` returned.

    Raises:
        ValueError: It is of another method or another version of it.
    """
    if not isinstance(state, dict) or not {"name", "version", "state"} <= set(state):
        raise ValueError(f"{credit.name}: expected a saved state with name, version and state, got {str(state)[:60]}")
    theirs, ours = (state["name"], state["version"]), (credit.name, credit.version)
    if theirs != ours:
        told = "the saved state is of {!r}, version {}; expected {!r}, version {}".format(*theirs, *ours)
        raise ValueError(f"{credit.name}: {told}")
    credit.load_state_dict(state["state"])


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
