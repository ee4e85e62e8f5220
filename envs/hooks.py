"""The wrapper that records every turn and lets credit methods see it while it is new."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from time import perf_counter
from typing import Any, Protocol

import gymnasium as gym
from gymnasium.error import ResetNeeded

from milepost.envs.core import Action, ContractError, Episode, Mixed, Observation, Stop, Turn
from milepost.envs.messages import tied

Env = gym.Env[Any, Any]
_MIXED = Mixed()


class Hook(Protocol):
    """What listens to play; every credit method is one."""

    @property
    def label(self) -> str:
        """The key in ``turn.credit``."""
        ...

    @property
    def live(self) -> bool:
        """Whether ``on_turn`` is to be asked."""
        ...

    def on_reset(self, episode: Episode) -> None:
        """Hear that an episode began."""
        ...

    def on_turn(self, episode: Episode) -> float | None:
        """Return what ``episode.turns[-1]`` earned; None: not judged."""
        ...


class TurnHooks(gym.Wrapper[Observation, Any, Any, Any]):
    """Record an environment's turns; add live credit to its reward.

    ``episode`` is the record in progress, or the finished one; the step that ends it returns it as ``info["record"]``.
    """

    def __init__(self, env: Env, credits: Sequence[Hook] = ()) -> None:
        super().__init__(env)
        self.credits = tuple(credits)
        self._live = tuple(hook for hook in self.credits if hook.live)
        labels = [hook.label for hook in self.credits]
        if len(set(labels)) != len(labels):
            raise ValueError(f"TurnHooks: expected a label of its own for each hook, got {labels}")
        self.episode = Episode(stop=Stop.CANCELLED)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode; ``options["episode"]`` (fields of ``Episode``) is for the record and not passed down.

        Raises:
            ContractError: The observation is neither a text nor a dict of texts, images and results.
        """
        rest = dict(options or {})
        fields = rest.pop("episode", {})
        observation, info = self.env.reset(seed=seed, options=rest or None)
        spec = self.env.unwrapped.spec
        known: dict[str, Any] = {
            "env_id": spec.id if spec else type(self.env.unwrapped).__name__,
            "env_kwargs": dict(spec.kwargs) if spec else {},
            "seed": seed,
            "instructions": self._ask("instructions", ""),
            "tools": list(self._ask("tools", ())),
        }
        self.episode = episode = Episode(**(known | fields))
        episode.info = _recorded(info)
        episode.runtime = {**episode.runtime, **self._ask("runtime", {})}
        if episode.task is None:
            episode.task = rest.get("task", info.get("task_id"))
        episode.last = observation
        if type(observation) is not str and not _MIXED.contains(observation):
            raise self._broken("reset", _observation_text(observation))
        for hook in self.credits:
            hook.on_reset(episode)
        return observation, info

    def step(self, action: str | Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Take a turn; return the environment's reward plus what live credit gave.

        Raises:
            ContractError: The observation, the reward or a hook's number is not what it must be.
            gymnasium.error.ResetNeeded: The episode is over.
        """
        episode = self.episode
        if episode.stop is not None:
            raise ResetNeeded(f"episode {episode.id!r} of {episode.env_id} is over: call reset before step")
        act = Action(action) if isinstance(action, str) else action
        start = perf_counter()
        observation, reward, terminated, truncated, info = self.env.step(act.move)
        seconds = perf_counter() - start
        if type(observation) is not str and not _MIXED.contains(observation):
            raise self._broken("step", _observation_text(observation))
        if act.calls or type(observation) is dict:
            observation = tied(observation, act.calls)
        try:
            total = own = float(reward)
        except (TypeError, ValueError):
            raise self._broken("step", f"expected a number as reward, got {reward!r}") from None
        if not isfinite(own):
            raise self._broken("step", f"expected a finite reward, got {own}")
        turns = episode.turns
        before = turns[-1].info if turns else episode.info
        agent = before.get("agent") or (turns[-1].agent if turns else "agent")
        kept = _recorded(info)
        stop = Stop.TERMINATED if terminated else Stop.MAX_TURNS if truncated else None
        if stop is Stop.MAX_TURNS and "outcome" not in kept and (score := self._score()) is not None:
            kept["outcome"] = info["outcome"] = score
        assert episode.last is not None
        turn = Turn(episode.last, act, own, kept, seconds, agent, act.view)
        turns.append(turn)
        episode.last = observation
        episode.stop = stop
        for hook in self._live:
            value = hook.on_turn(episode)
            if value is not None:
                value = float(value)
                if not isfinite(value):
                    raise ContractError(
                        f"credit {hook.label!r} at turn {len(turns) - 1}: expected a number, got {value}"
                    )
                total += value
            turn.put(hook.label, value)
        if stop is not None:
            info["record"] = episode
        return observation, total, terminated, truncated, info

    def end(self, stop: Stop, failure: str | None = None) -> Episode:
        """End the episode from outside; unless it failed or was cancelled, its present state is scored once.

        Raises:
            ContractError: The episode is over already.
        """
        episode = self.episode
        if episode.stop is not None:
            raise ContractError(f"episode {episode.id!r} of {episode.env_id} has ended already: {episode.stop}")
        if stop.counts and episode.turns and "outcome" not in episode.turns[-1].info:
            score = self._score()
            if score is not None:
                episode.turns[-1].info["outcome"] = score
        episode.stop, episode.failure = stop, failure
        return episode

    def _score(self) -> Any:
        return self._ask("score", _unscored)()

    def _ask(self, name: str, default: Any) -> Any:
        try:
            return self.env.get_wrapper_attr(name)
        except AttributeError:
            return default

    def _broken(self, call: str, text: str) -> ContractError:
        where = "reset" if call == "reset" else f"step, turn {len(self.episode.turns)}"
        return ContractError(f"{self.episode.env_id}: {where}: {text}")


def _recorded(info: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in info.items() if key[:1] != "_"}


def _unscored() -> None:
    return None


def _observation_text(observation: Any) -> str:
    got = f"a dict with {sorted(map(str, observation))}" if isinstance(observation, dict) else repr(observation)[:80]
    return f"expected a text, or a dict of text, images and results, as observation, got {got}"
