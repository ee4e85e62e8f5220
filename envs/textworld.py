"""TextWorld: text games of rooms, doors, containers and keys, by level and seed."""

from __future__ import annotations

import hashlib
import re
from difflib import SequenceMatcher
from typing import Any, Literal

import gymnasium as gym
from gymnasium.error import DependencyNotInstalled

from milepost.envs.core import Utf8
from milepost.envs.textworld_games import Level, game_file, tasks

Answer = Literal["plain", "closest", "all"]


class TextWorldEnv(gym.Env[str, str]):
    """Reach a goal that is told in words, by typing commands.

    **Task.** The first observation states the objective and describes the room. ``reset(options={"task": seed})``
    plays that game; ``reset(seed=...)`` draws one of the split.

    **Action.** One command per turn, written freely: ``go east``, ``take red key from chest``. The first line counts,
    case and a leading ``>`` do not. A command that is not admissible is not executed, costs the turn and is answered.

    **Observation.** Text: what the game says, without banner, score and status line.

    **Rewards.** The game's score gained by the turn (1 on the winning turn). ``reward_components``: ``score`` (the
    same), ``progress`` (by how many commands the planner's remaining plan got shorter, from the state as it is; may be
    negative), ``validity`` (0, or -1 where the command was not admissible).

    **Outcome.** ``outcome="win"``: 1 when won, else 0; ``"score"``: the share of the full score, 0..1. The same at the
    turn limit.

    **Ends** when the game is won or lost, or at the turn limit.

    Args:
        level: ``w{rooms}-o{objects}-q{quest length}`` in the Guide's names; the length may be a range, ``q2..4``.
        split: Where ``reset(seed=...)`` draws from.
        on_invalid: What a command that is not admissible is answered with: nothing more (``plain``), the three
            admissible ones closest to what was written (``closest``), or ``all`` of them.
        show_commands: List the admissible commands in every observation.
        outcome: What ``info["outcome"]`` is.

    Source: Cote et al. 2018, arXiv 1806.11532; levels: arXiv 2510.01132.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012
    instructions = "You play a text game. Answer with one command, such as: go east / open box / take key from box."
    N_CLOSEST = 3

    def __init__(
        self,
        level: str = "w2-o3-q4",
        split: str = "train",
        on_invalid: Answer = "closest",
        show_commands: bool = False,
        outcome: Literal["win", "score"] = "win",
    ) -> None:
        try:
            import textworld
        except ImportError as error:
            raise DependencyNotInstalled("TextWorld needs textworld: pip install 'milepost[textworld]'") from error
        if on_invalid not in ("plain", "closest", "all"):
            raise ValueError(f"TextWorld on_invalid: expected plain, closest or all, got {on_invalid!r}")
        if outcome not in ("win", "score"):
            raise ValueError(f"TextWorld outcome: expected win or score, got {outcome!r}")
        self.level, self.split = Level.parse(level), split
        self.tasks(split)
        self.on_invalid, self.show_commands, self.outcome = on_invalid, show_commands, outcome
        self.action_space = Utf8()
        self.observation_space = Utf8()
        self._start: Any = textworld.start
        self._request: Any = textworld.EnvInfos(
            admissible_commands=True, policy_commands=True, objective=True, description=True, feedback=True,
            facts=True, won=True, lost=True, score=True, max_score=True,
        )  # fmt: skip
        self._game: Any = None
        self._task = ""
        self._state: Any = None

    def tasks(self, split: str) -> list[str]:
        """Return the ids of a split's games."""
        return tasks(split)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start a game from its beginning."""
        super().reset(seed=seed)
        task = (options or {}).get("task")
        if task is None:
            names = self.tasks(self.split)
            task = names[int(self.np_random.integers(len(names)))]
        if task != self._task:
            self.close()
            self._game = self._start(str(game_file(self.level, str(task))), self._request)
            self._task = str(task)
        self._state = self._game.reset()
        text = f"{self._state.objective.strip()}\n{_tidy(self._state.description)}"
        return self._shown(text), {"task_id": self._task} | self._info()

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Play one command."""
        command = parse_command(action)
        before = self._state
        valid = command in before.admissible_commands
        if valid:
            self._state, _, _ = self._game.step(command)
            text = _tidy(self._state.feedback)
        else:
            text = self._refusal(command)
        now = self._state
        gain = float(now.score - before.score)
        info = self._info() | {
            "valid": valid,
            "reward_components": {
                "score": gain,
                "progress": float(len(before.policy_commands) - len(now.policy_commands)),
                "validity": 0.0 if valid else -1.0,
            },
        }
        done = bool(now.won or now.lost)
        if done:
            info |= {"outcome": self.score(), "success": bool(now.won)}
        return self._shown(text), gain, done, False, info

    def score(self) -> float:
        """Return what the present state is worth."""
        if self.outcome == "win":
            return float(bool(self._state.won))
        return float(self._state.score) / max(1, self._state.max_score)

    def oracle(self) -> list[str]:
        """Return the planner's commands from the present state."""
        return list(self._state.policy_commands)

    def close(self) -> None:
        """End the interpreter."""
        if self._game is not None:
            self._game.close()
            self._game, self._task = None, ""

    def _info(self) -> dict[str, Any]:
        facts = "\n".join(sorted(map(str, self._state.facts)))
        return {
            "state_key": hashlib.blake2b(facts.encode(), digest_size=12).hexdigest(),
            "potential": -float(len(self._state.policy_commands)),
            "actions": list(self._state.admissible_commands),
        }

    def _shown(self, text: str) -> str:
        if not self.show_commands:
            return text
        return f"{text}\nYou can: {', '.join(_useful(self._state.admissible_commands))}."

    def _refusal(self, command: str) -> str:
        text = "You can't do that."
        known = _useful(self._state.admissible_commands)
        if self.on_invalid == "plain" or self.show_commands or not known:
            return text
        if self.on_invalid == "closest":
            known = sorted(known, key=lambda known: -SequenceMatcher(None, known, command).ratio())[: self.N_CLOSEST]
        return f"{text} You can: {', '.join(known)}."


def parse_command(text: str) -> str:
    """Return the command in what an agent wrote: its first line that says anything, in lower case, without ``>``."""
    lines = (line.strip().lstrip("> ").lower() for line in text.splitlines())
    return " ".join(next((line for line in lines if line), "").rstrip(".").split())


def _useful(commands: list[str]) -> list[str]:
    """Return the commands that may change the state."""
    return [c for c in commands if c not in ("look", "inventory") and not c.startswith("examine ")]


def _tidy(text: str) -> str:
    """Return a game's text without the prompt and status line, the score's announcement, and blank lines."""
    text = re.sub(r"\n>\s.*\Z", "", text, flags=re.DOTALL)
    text = re.sub(r"Your score has just gone up.*", "", text, flags=re.DOTALL)
    text = re.sub(r"-= (.+?) =-", r"\1:", text)
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())


gym.register("milepost/TextWorld-v0", entry_point=f"{__name__}:TextWorldEnv", max_episode_steps=12)
