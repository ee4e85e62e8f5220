"""What a policy is asked and what it answers."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from milepost.envs.core import Action, Message, Observation
from milepost.sandbox.core import MachineError


class ContextFull(Exception):
    """The agent's context has no room for this request; the episode ends as ``Stop.MAX_TOKENS``."""


Answer = Action | ContextFull | MachineError
"""What a policy returns for a request. An exception, returned and not raised, ends that episode alone."""


@dataclass(frozen=True, slots=True)
class Request:
    """One agent's turn to act."""

    episode: str
    """The episode's id."""
    group: str
    messages: Sequence[Message]
    """What the agent sees: the growing list itself, shared and not rebuilt. Read it, never change it."""
    n_seen: int = 0
    """So many of ``messages`` are unchanged since this agent's last request of this episode."""
    agent: str = "agent"
    tools: Sequence[dict[str, Any]] = ()
    seed: int = 0
    """A function of (run seed, episode id, turn): the only source of a sample's randomness."""
    observation: Observation = ""
    """The newest observation alone."""
    env: Any = field(default=None, compare=False)
    """The hooked environment, for oracles and baselines; None unless the policy says ``reference = True``."""


class Policy(Protocol):
    """Whatever answers requests; ``act`` may be async, else it is called in one thread that is not the consumer's.

    A policy with the attribute ``reference = True`` acts from ``request.env``: it is asked for one request at a time,
    in the environment's own thread, for several environments at once. The ``aclose`` of an async policy that has one
    is awaited when a play ends, in the play's event loop: connections belong to it.
    """

    @property
    def version(self) -> int:
        """Counts the train steps behind its weights."""
        ...

    def act(self, requests: Sequence[Request]) -> Sequence[Answer] | Awaitable[Sequence[Answer]]:
        """Return one answer per request, in their order."""
        ...

    def forget(self, episode_ids: Sequence[str]) -> None:
        """Drop what is kept (caches) for episodes that are over."""
        ...


def stable_seed(*parts: object) -> int:
    """Return a 63-bit number that depends on ``parts`` alone, the same in every process and version."""
    digest = hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def episode_id(run_seed: int, group: str, attempt: int) -> str:
    """Return the id of an attempt: it never comes twice in a run."""
    return f"{run_seed}:{group}:{attempt}"
