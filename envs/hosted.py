"""An environment that is played by calls from outside, such as those of an MCP client."""

from __future__ import annotations

import json
import traceback
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from gymnasium.error import Error

from milepost.envs.core import Action, Call, Episode, Observation, Stop
from milepost.envs.hooks import Env, TurnHooks
from milepost.envs.runs import Run, read_episodes
from milepost.envs.tool_schema import Tool, ToolError, did_you_mean
from milepost.sandbox.core import MachineError


@dataclass
class Reply:
    """What a call gave."""

    texts: list[str]
    images: list[Any] = field(default_factory=list)
    mistake: bool = False
    """Whether the call was not executed."""
    done: bool = False
    """Whether no episode is under way."""
    end: dict[str, Any] = field(default_factory=dict)
    """Where this call ended the episode: ``reward`` (of the whole episode), ``outcome`` and ``success``."""


class Hosted:
    """One environment and the episode that is played in it; use it from one thread.

    The player calls the environment's tools by their names, or ``act(text)`` where it has none, and ``reset``. It sees
    observations and, when the episode is over, how it ended; it sees no ``info`` and no reward of a turn.

    Args:
        env: The environment.
        seed: Of an episode for which ``reset`` gets neither seed nor task; None: 0, then 1 and so on.
        task: Likewise; None: what the seed gives.

    Raises:
        ValueError: The environment knows no such task, or has a tool named ``reset``.
    """

    def __init__(self, env: Env, seed: int | None = None, task: str | None = None) -> None:
        self._env = TurnHooks(env)
        self._seed, self._task = seed, task
        self._run: Run | None = None
        self._attempts: Counter[str] = Counter()
        self._reset, self._act = Tool(self.reset), Tool(self.act)
        self._n_calls = 0
        self._begin(seed, task, "trial")  # a task that does not exist is told before anybody connects
        self._env.end(Stop.CANCELLED)
        self._env_id = self._env.episode.env_id
        own = list(self._env.episode.tools)
        self._named = bool(own)
        self.tools = [self._reset.schema, *(own or [self._act.schema])]
        """OpenAI tool schemas of all that can be called."""
        names = {schema["function"]["name"]: None for schema in self.tools}
        if len(names) < len(self.tools):
            raise ValueError(f"{self._env_id} has a tool named 'reset', or two of one name: give each its own")
        self._names = names

    @property
    def about(self) -> str:
        """What the player is told before anything else."""
        calls = "the other tools" if self._named else "act"
        return f"Call reset to begin an episode of {self._env_id}, then {calls} until a result says that it is over."

    def record_in(self, run: Run) -> None:
        """Append each episode that ends to a run, under an id that is not there yet; ``close`` closes the run, too."""
        self._run = run
        for episode in read_episodes(run.path, credit=False, images=False):
            self._attempts[episode.group] = max(self._attempts[episode.group], episode.attempt + 1)

    def call(self, name: str, arguments: dict[str, Any]) -> Reply:
        """Run one call; what goes wrong is told in the reply, and what the environment raises ends the episode."""
        try:
            if name == "reset":
                return self.reset(**self._reset.read(arguments))
            if name not in self._names:
                there_are = ", ".join(self._names)
                raise ToolError(f"No tool {name[:64]!r}{did_you_mean(name, self._names)}; there are: {there_are}.")
            if self._env.episode.stop is not None:
                raise ToolError("No episode is under way: call reset to begin one.")
            if not self._named:
                return self.act(**self._act.read(arguments))
            self._n_calls += 1
            call = Call(f"call-{self._n_calls}", name, json.dumps(arguments))
            return self._step(Action("", calls=(call,)))
        except ToolError as error:
            return Reply([str(error)], mistake=True, done=self._env.episode.stop is not None)

    def reset(self, seed: int | None = None, task: str | None = None) -> Reply:
        """Begin an episode; one that is under way is given up. Returns what to do and what is seen first.

        Args:
            seed: A number that decides what is random in the episode, and which task it is unless one is named.
            task: The id of the task to play.
        """
        self.close_episode()
        if seed is None and task is None:
            seed, task = self._seed, self._task
        if seed is None:
            seed = self._attempts.total() if task is None else self._attempts[f"mcp/{task}"]
        group = f"mcp/{task if task is not None else seed}"
        try:
            self._begin(seed, task, group)
        except (ValueError, Error, MachineError) as error:
            self._env.episode = Episode(stop=Stop.CANCELLED)
            raise ToolError(f"The episode did not begin: {error}") from None
        episode = self._env.episode
        self._attempts[group] += 1
        instructions = episode.instructions
        if isinstance(instructions, dict):
            instructions = "\n".join(f"{agent}: {text}" for agent, text in instructions.items())
        assert episode.last is not None
        texts, images = _seen(episode.last)
        return Reply([text for text in (instructions, *texts) if text], images)

    def act(self, text: str) -> Reply:
        """Take one turn of the episode.

        Args:
            text: What to say or do, in words, as the instructions of reset ask for it.
        """
        return self._step(Action(text))

    def close_episode(self) -> None:
        """Give up the episode that is under way."""
        if self._env.episode.stop is None:
            self._env.end(Stop.CANCELLED)
            self._record()

    def close(self) -> None:
        """Give up what is under way and close the environment."""
        self.close_episode()
        self._env.close()
        if self._run is not None:
            self._run.withdraw()

    def _record(self) -> None:
        if self._run is not None and self._env.episode.turns:
            self._run.add(self._env.episode)

    def _begin(self, seed: int | None, task: str | None, group: str) -> None:
        attempt = self._attempts[group]
        fields = {"id": f"{group}:{attempt}", "group": group, "attempt": attempt, "runtime": {"agent": "mcp"}}
        self._env.reset(seed=seed, options={"episode": fields} | ({} if task is None else {"task": task}))

    def _step(self, action: Action) -> Reply:
        episode = self._env.episode
        try:
            observation, _, _, _, info = self._env.step(action)
        except Exception as error:
            self._env.end(Stop.FAILED, traceback.format_exc())
            self._record()
            whose = "machine under the environment" if isinstance(error, MachineError) else "environment"
            text = f"The {whose} broke, and the episode with it; it is not scored. Call reset to begin another."
            return Reply([text], mistake=True, done=True)
        texts, images = _seen(observation)
        reply = Reply(texts, images, mistake=info.get("valid") is False, done=episode.stop is not None)
        if reply.done:
            self._record()
            outcome = episode.turns[-1].info.get("outcome")
            reply.end = {"reward": sum(turn.reward for turn in episode.turns), "outcome": outcome}
            reply.end["success"] = episode.success if not isinstance(outcome, dict) else info.get("success")
            said = f"outcome {outcome}" if outcome is not None else "it was not scored"
            how = "solved" if reply.end["success"] else "not solved"
            reply.texts.append(f"The episode is over: {how}, {said}. Call reset to begin another.")
        return reply


def _seen(observation: Observation) -> tuple[list[str], list[Any]]:
    """Return the texts and the images of an observation."""
    if isinstance(observation, str):
        return [observation], []
    results = observation.get("results", ())
    texts = [str(result.get("text", "")) for result in results]
    images = [result["image"] for result in results if result.get("image") is not None]
    return [*texts, *([observation["text"]] if "text" in observation else [])], [
        *images,
        *observation.get("images", ()),
    ]
