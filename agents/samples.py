"""Rows to train on: an episode's turns merged by their token differences, one row a trajectory, forks apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milepost.envs.core import ContractError, Episode, FloatArray, IntArray, Turn, Value

BoolArray = NDArray[np.bool_]


@dataclass(slots=True, eq=False)
class Sample:
    """One row of tokens with what each earned; the five lists have one length ``[L]``.

    Example: two turns, prompts ``[5, 6]`` and ``[7]``, answers ``[1]`` and ``[2, 3]``, advantages 0.5 and never judged:
    ``ids [5 6 1 7 2 3]``, ``sampled [0 0 1 0 1 1]``, ``turn [-1 -1 0 -1 1 1]``, ``advantages [0 0 0.5 0 nan nan]``.
    """

    ids: IntArray
    sampled: BoolArray
    """Where the policy wrote the token, for the first time: what a fork repeats of an earlier row is context."""
    logprobs: FloatArray
    """The sampler's log-probabilities in nats; 0 where nothing was sampled, nan where nobody knows (demonstrations)."""
    advantages: FloatArray
    """0 where nothing was sampled, nan where the turn was never judged: that earns no loss and enters no mean."""
    turn: IntArray
    """Index into ``episode.turns``; -1 where nothing was sampled."""
    episode: str
    group: str
    versions: list[int]
    """The policy's version, one a turn of this row."""
    images: list[Any] = field(default_factory=list)
    """What the row shows, ``uint8 [H, W, 3]`` in order."""
    agent: str = "agent"
    ref_logprobs: FloatArray | None = None
    values: FloatArray | None = None

    @property
    def judged(self) -> BoolArray:
        """``[L]`` the tokens that carry loss: sampled, in a turn that has an advantage."""
        return self.sampled & ~np.isnan(self.advantages)

    @property
    def key(self) -> tuple[str, str]:
        """Whose trajectory this is: the rows of one agent in one episode belong together."""
        return self.episode, self.agent

    def __len__(self) -> int:
        return len(self.ids)


def to_samples(episode: Episode) -> list[Sample]:
    """Return the rows of an episode, one chain of rows per agent; none for one that failed or was cancelled.

    A turn that keeps its agent's whole previous row grows it; one that keeps less (dropped thinking, a window, a
    summary) starts another row, in which what was kept is context. Each sampled token is thus trained on once.

    Raises:
        ContractError: A turn has no tokens, its lists disagree, or its advantage is not finite.
    """
    if (stop := (episode.whole or episode).stop) is not None and not stop.counts:
        return []
    by_agent: dict[str, list[tuple[int, Turn]]] = {}
    for t, turn in enumerate(episode.turns):
        by_agent.setdefault(turn.agent, []).append((t, turn))
    return [sample for agent, turns in by_agent.items() for sample in _chain(episode, agent, turns)]


def n_forks(samples: Iterable[Sample]) -> int:
    """Return how many rows begin where an earlier row of the same trajectory was left."""
    samples = list(samples)
    return len(samples) - len({s.key for s in samples})


def _chain(episode: Episode, agent: str, turns: Sequence[tuple[int, Turn]]) -> Iterator[Sample]:
    row: list[int] = []
    parts: list[tuple[int, int, Turn]] = []  # where a turn's sampled ids begin in the row, its index, the turn
    for t, turn in turns:
        where = f"episode {episode.id}, turn {t}"
        if (tokens := turn.action.tokens) is None:
            raise ContractError(f"{where} has no tokens: only what a LocalPolicy played or encoded can be trained on")
        if not 0 <= tokens.keep <= len(row):
            raise ContractError(f"{where} keeps {tokens.keep} tokens of a row of {len(row)}")
        if tokens.keep < len(row):
            if parts:
                yield _sample(episode, agent, row, parts)
            row, parts = row[: tokens.keep], []
        row.extend(tokens.context.tolist())
        parts.append((len(row), t, turn))
        row.extend(tokens.ids.tolist())
    if parts:
        yield _sample(episode, agent, row, parts)


def _sample(episode: Episode, agent: str, row: list[int], parts: Sequence[tuple[int, int, Turn]]) -> Sample:
    n = len(row)
    sample = Sample(
        ids=np.array(row, np.int32),
        sampled=np.zeros(n, np.bool_),
        logprobs=np.zeros(n, np.float32),
        advantages=np.zeros(n, np.float32),
        turn=np.full(n, -1, np.int32),
        episode=episode.id,
        group=episode.group,
        versions=[],
        images=_images(episode, parts[-1][1]),
        agent=agent,
    )
    for start, t, turn in parts:
        tokens = turn.action.tokens
        assert tokens is not None
        where = f"episode {episode.id}, turn {t}"
        if len(tokens.logprobs) != len(tokens.ids):
            raise ContractError(f"{where}: expected {len(tokens.ids)} log-probabilities, got {len(tokens.logprobs)}")
        span = slice(start, start + len(tokens.ids))
        sample.sampled[span] = True
        sample.logprobs[span] = tokens.logprobs
        sample.advantages[span] = _advantage(turn.advantage, len(tokens.ids), where)
        sample.turn[span] = t
        sample.versions.append(tokens.version)
    return sample


def _advantage(value: Value, n: int, where: str) -> float | FloatArray:
    if value is None:
        return float("nan")
    if np.ndim(value) and np.shape(value) != (n,):
        raise ContractError(f"{where}: expected an advantage for each of {n} sampled tokens, got {np.shape(value)}")
    if not np.all(np.isfinite(value)):
        raise ContractError(f"{where}: the advantage is not finite: {value}")
    return value


def _images(episode: Episode, t: int) -> list[Any]:
    if all(isinstance(turn.observation, str) for turn in episode.turns[: t + 1]):
        return []
    contents = (message["content"] for message in episode.view(t))
    return [part["image"] for c in contents if isinstance(c, list) for part in c if part["type"] == "image"]


def kl_credit(
    episodes: Sequence[Episode], reference: Callable[[Sequence[Sample]], Sequence[FloatArray]], label: str = "kl"
) -> None:
    """Write ``log p_ref - log p`` of every sampled token as token credit ``label``, in nats: KL as k1 in the reward.

    Summed over a trajectory its mean is minus the KL divergence from the reference, and REINFORCE with it as reward
    has exactly that gradient. Weigh it with the KL coefficient where credits become advantages.

    Args:
        episodes: Played episodes with the sampler's log-probabilities.
        reference: Samples -> the reference's log-probabilities, ``[L]`` each (``Trainer.reference``).
        label: The label of the credit.
    """
    pairs = [(episode, sample) for episode in episodes for sample in to_samples(episode)]
    for (episode, sample), ref in zip(pairs, reference([sample for _, sample in pairs]), strict=True):
        for t in np.unique(sample.turn[sample.sampled]).tolist():
            at = sample.turn == t
            episode.turns[t].put(label, (ref[at] - sample.logprobs[at]).astype(np.float32))
