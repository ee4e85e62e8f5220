"""What the agents of an episode have seen, and the request that follows from it."""

from __future__ import annotations

from typing import Any

from milepost.agents.core import Request, stable_seed
from milepost.envs.core import Episode, Message, action_message, observation_messages


class Chat:
    """What each agent of an episode sees, as one list each that only grows; equal to ``episode.view(t)``."""

    def __init__(self, episode: Episode) -> None:
        self._episode = episode
        self._messages: dict[str, list[Message]] = {}
        self._n_seen: dict[str, int] = {}
        for turn in episode.turns:  # of a branch: what was replayed
            self._of(turn.agent).extend([*observation_messages(turn.observation), action_message(turn.action)])

    def request(self, run_seed: int, env: Any) -> Request:
        """Return what the agent whose turn it is has to answer."""
        episode = self._episode
        turn, last = len(episode.turns), episode.last
        agent = episode.info_before(turn).get("agent") or (episode.turns[-1].agent if turn else "agent")
        messages = self._of(agent)
        if last is not None:
            messages += observation_messages(last)
        n_seen, self._n_seen[agent] = self._n_seen.get(agent, 0), len(messages)
        return Request(
            episode=episode.id,
            group=episode.group,
            messages=messages,
            n_seen=n_seen,
            agent=agent,
            tools=episode.tools,
            seed=stable_seed(run_seed, episode.id, turn),
            observation="" if last is None else last,
            env=env,
        )

    def acted(self) -> None:
        """Add the newest turn's action."""
        turn = self._episode.turns[-1]
        self._of(turn.agent).append(action_message(turn.action))

    def _of(self, agent: str) -> list[Message]:
        if agent not in self._messages:
            texts = self._episode.instructions
            system = texts.get(agent, "") if isinstance(texts, dict) else texts
            self._messages[agent] = [{"role": "system", "content": system}] if system else []
        return self._messages[agent]
