"""Policies without a model: fixed moves, uniform choice, and the environment's own solution."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from milepost.agents.core import Request
from milepost.envs.core import Action, ContractError


class ScriptedPolicy:
    """Answers from a list or a function: deterministic, for tests, demonstrations and replays.

    A list is one move per turn of an episode, its last one repeated; a function takes the request and returns a move.
    """

    version = 0

    def __init__(self, moves: Sequence[str | Action] | Callable[[Request], str | Action]) -> None:
        self._move: Callable[[Request], str | Action]
        if isinstance(moves, Sequence):
            if not moves or isinstance(moves, str):
                raise ValueError(f"moves: expected a list of one or more, or a function, got {moves!r}")
            self._moves: Sequence[str | Action] = moves
            self._move = self._listed
        else:
            self._move = moves

    def act(self, requests: Sequence[Request]) -> list[Action]:
        """Return the script's move for each request."""
        moves = map(self._move, requests)
        return [Action(move) if isinstance(move, str) else replace(move) for move in moves]

    def forget(self, episode_ids: Sequence[str]) -> None:
        """Nothing is kept."""

    def _listed(self, request: Request) -> str | Action:
        turn = sum(1 for message in request.messages if message["role"] == "assistant")
        return self._moves[min(turn, len(self._moves) - 1)]


class RandomPolicy:
    """Chooses uniformly among the admissible actions of the present state: what luck alone gets."""

    version = 0
    reference = True
    """It looks into the environment, which a real agent may not."""

    def act(self, requests: Sequence[Request]) -> list[Action]:
        """Return one of ``info["actions"]`` for each request, by the request's seed.

        Raises:
            ContractError: The environment does not say which actions are admissible.
        """
        return [Action(_choice(request)) for request in requests]

    def forget(self, episode_ids: Sequence[str]) -> None:
        """Nothing is kept."""


class OraclePolicy:
    """Plays the environment's own solution, from whatever state it is in.

    For demonstrations that also show how to recover, a share ``noise`` of its moves is a random admissible one, and a
    share ``haste`` a later move of the plan made too early, which is often refused.
    """

    version = 0
    reference = True
    """It looks into the environment, which a real agent may not."""

    def __init__(self, noise: float = 0.0, haste: float = 0.0) -> None:
        if not (noise >= 0.0 and haste >= 0.0 and noise + haste <= 1.0):
            raise ValueError(f"noise, haste: expected shares of 0..1 in all, got {noise} and {haste}")
        self.noise, self.haste = noise, haste

    def act(self, requests: Sequence[Request]) -> list[Action]:
        """Return the first move of ``oracle()`` for each request.

        Raises:
            ContractError: The environment has no oracle, or the oracle has no move.
        """
        return [Action(self._move(request)) for request in requests]

    def forget(self, episode_ids: Sequence[str]) -> None:
        """Nothing is kept."""

    def _move(self, request: Request) -> str:
        draw = random.Random(f"{request.seed} noise")
        luck = draw.random()
        if luck < self.noise:
            return _choice(request)
        try:
            oracle = request.env.get_wrapper_attr("oracle")
        except AttributeError:
            raise ContractError(f"{_env_id(request)} has no oracle()") from None
        moves = oracle()
        if not moves:
            raise ContractError(f"{_env_id(request)}: oracle() has no move for the present state of {request.episode}")
        hasty = len(moves) > 1 and luck < self.noise + self.haste
        return str(draw.choice(moves[1:]) if hasty else moves[0])


def _choice(request: Request) -> str:
    episode = request.env.get_wrapper_attr("episode")
    actions: list[Any] | None = episode.info_before(len(episode.turns)).get("actions")
    if not actions:
        raise ContractError(f"{_env_id(request)}: a random move needs info['actions'] to choose from, got {actions!r}")
    return str(random.Random(request.seed).choice(actions))


def _env_id(request: Request) -> str:
    return str(request.env.get_wrapper_attr("episode").env_id)
