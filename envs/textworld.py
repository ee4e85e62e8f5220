"""TextWorld: text games of rooms, doors, containers and keys, by level and seed."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
from gymnasium.error import DependencyNotInstalled

from milepost.envs.core import Utf8
from milepost.envs.textworld_games import Level, game_file, tasks
from milepost.envs.textworld_interpreter import Snapshot, game

Answer = Literal["plain", "closest", "all"]


class TextWorldEnv(gym.Env[str, str]):
    """Reach a goal that is told in words, by typing commands.

    **Task.** The first observation states the objective and describes the room. ``reset(options={"task": seed})``
    plays that game; ``reset(seed=...)`` draws one of the split.

    **Action.** One command per turn, written freely: ``go east``, ``take red key from chest``. The first line counts,
    case and a leading ``>`` do not. A command that is not admissible is not executed, costs the turn and is answered.

    **Observation.** Text: what the game says, without banner, score and status line.

    **Actions and hints.** ``info["actions"]`` is every admissible command. What an observation lists, as a hint or by
    ``show_commands``, leaves out ``look``, ``inventory`` and ``examine ...``: they are executed, but change nothing.

    **Rewards.** The game's score gained by the turn (1 on the winning turn). ``reward_components``: ``score`` (the
    same), ``progress`` (by how many commands the planner's remaining plan got shorter, from the state as it is; may be
    negative), ``validity`` (0, or -1 where the command was not admissible).

    **Outcome.** ``outcome="win"``: 1 when won, else 0; ``"score"``: the share of the full score, 0..1. The same at the
    turn limit.

    **Ends** when the game is won or lost, or at the turn limit.

    Args:
        level: ``w{rooms}-o{objects}-q{quest length}`` in the Guide's names; the length may be a range, ``q2..4``.
        rooms, objects, quest_length: Each counts instead of the level's own; the length is a number or ``"2..4"``.
        split: Where ``reset(seed=...)`` draws from.
        on_invalid: What a command that is not admissible is answered with: nothing more (``plain``), the three
            admissible ones closest to what was written (``closest``), or ``all`` of them. Nothing more with
            ``show_commands``, whose list follows anyway.
        patience: End the game, not won, after so many refused commands; 0 plays on. Training saves time with it.
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
        patience: int = 0,
        show_commands: bool = False,
        outcome: Literal["win", "score"] = "win",
        rooms: int | None = None,
        objects: int | None = None,
        quest_length: int | str | None = None,
    ) -> None:
        if find_spec("textworld") is None:
            raise DependencyNotInstalled("TextWorld needs textworld: pip install 'milepost[textworld]'")
        if on_invalid not in ("plain", "closest", "all"):
            raise ValueError(f"TextWorld on_invalid: expected plain, closest or all, got {on_invalid!r}")
        if outcome not in ("win", "score"):
            raise ValueError(f"TextWorld outcome: expected win or score, got {outcome!r}")
        self.level, self.split = Level.parse(level, rooms, objects, quest_length), split
        self.tasks(split)
        if patience < 0:
            raise ValueError(f"TextWorld patience: expected 0 or a number of refused commands, got {patience}")
        self.on_invalid, self.show_commands, self.outcome = on_invalid, show_commands, outcome
        self.patience, self._n_refused = patience, 0
        self.action_space = Utf8()
        self.observation_space = Utf8()
        self._file: Path | None = None
        self._played: tuple[str, ...] = ()

    @property
    def _now(self) -> Snapshot:
        if self._file is None:
            raise gym.error.ResetNeeded("TextWorld: call reset before step, score or oracle")
        return game(self._file).after(self._played)

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
        self._file, self._played, self._n_refused = game_file(self.level, str(task)), (), 0
        return self._shown(self._now.text), {"task_id": str(task)} | self._info()

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Play one command."""
        command = parse_command(action)
        before = self._now
        known = next((c for c in before.commands if c.lower() == command), None)
        if known is not None:
            self._played = (*self._played, known)
        else:
            self._n_refused += 1
        now = self._now
        gain = now.score - before.score
        info = self._info() | {
            "valid": known is not None,
            "reward_components": {
                "score": gain,
                "progress": float(len(before.plan) - len(now.plan)),
                "validity": 0.0 if known is not None else -1.0,
            },
        }
        done = now.won or now.lost or 0 < self.patience <= self._n_refused
        if done:
            info |= {"outcome": self.score(), "success": now.won}
        return self._shown(self._refusal(command) if known is None else now.text), gain, done, False, info

    def score(self) -> float:
        """Return what the present state is worth."""
        now = self._now
        return float(now.won) if self.outcome == "win" else now.score / max(1.0, now.max_score)

    def oracle(self) -> list[str]:
        """Return the planner's commands from the present state."""
        return list(self._now.plan)

    def _info(self) -> dict[str, Any]:
        now = self._now
        return {"state_key": now.key, "potential": float(-len(now.plan)), "actions": list(now.commands)}

    def _shown(self, text: str) -> str:
        if not self.show_commands:
            return text
        return f"{text}\nYou can: {', '.join(_useful(self._now.commands))}."

    def _refusal(self, command: str) -> str:
        text = "You can't do that."
        known = _useful(self._now.commands)
        if self.on_invalid == "plain" or self.show_commands or not known:
            return text
        if self.on_invalid == "closest":
            known = sorted(known, key=lambda known: -SequenceMatcher(None, known, command).ratio())[: self.N_CLOSEST]
        return f"{text} You can: {', '.join(known)}."


def parse_command(text: str) -> str:
    """Return the command in what an agent wrote: its first line that says anything, in lower case, without ``>``."""
    lines = (line.strip().lstrip("> ").lower() for line in text.splitlines())
    return " ".join(next((line for line in lines if line), "").rstrip(".").split())


def _useful(commands: Iterable[str]) -> list[str]:
    """Return the commands that may change the state."""
    return [c for c in commands if c not in ("look", "inventory") and not c.startswith("examine ")]


gym.register("milepost/TextWorld-v0", entry_point=f"{__name__}:TextWorldEnv", max_episode_steps=12)
