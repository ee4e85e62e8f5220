"""The core types that everything else reads or writes: an episode and its turns, as data from when they are played."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal, NamedTuple

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from milepost.envs.messages import Message, Observation, action_message, calls_move, observation_messages, view_messages

__all__ = ["Message", "Observation", "action_message", "observation_messages"]

IntArray = NDArray[np.int32]
FloatArray = NDArray[np.float32]
Value = float | FloatArray | None
"""What a turn earned: a number, a number per sampled token ``[A]``, or None (never judged; not the same as 0)."""


class ContractError(ValueError):
    """An environment or a method broke its contract: the caller's mistake, so the run stops with this sentence."""


class Stop(StrEnum):
    """Why an episode ended."""

    TERMINATED = "terminated"
    """The task ended by its own rules; ``info["outcome"]`` says how."""
    MAX_TURNS = "max_turns"
    """The turn limit; the outcome is the environment's ``score()``, None if it has none."""
    MAX_TOKENS = "max_tokens"
    """The agent's context is full; scored like MAX_TURNS."""
    TIMEOUT = "timeout"
    """Wall time was over between two turns; scored like MAX_TURNS."""
    FAILED = "failed"
    """The machine or the environment broke; never scored, never trained on, counted."""
    CANCELLED = "cancelled"
    """Ctrl-C or a budget; the run is incomplete."""

    @property
    def counts(self) -> bool:
        """Whether an episode that ended so is an observation of the agent at all."""
        return self not in (Stop.FAILED, Stop.CANCELLED)


class InfoKey(NamedTuple):
    """One key that environments and credit methods share through ``info``."""

    at: frozenset[str]
    """Where it may stand: ``reset``, ``step`` (every step) or ``last`` (the step that ends the episode)."""
    kinds: tuple[type, ...]
    meaning: str


_STATE, _RESET, _STEP, _LAST = (frozenset(s.split()) for s in ("reset step", "reset", "step", "last"))
INFO_KEYS: dict[str, InfoKey] = {
    "task_id": InfoKey(_RESET, (str,), "the task that is played, as in tasks(split)"),
    "answer": InfoKey(_RESET, (str,), "the true answer, for credit methods that score it; never shown to the agent"),
    "aliases": InfoKey(_RESET, (list,), "other texts that are the true answer as well"),
    "subgoals": InfoKey(_RESET, (list,), "texts of the parts of the task"),
    "state_key": InfoKey(_STATE, (str,), "identity of the state within its task"),
    "potential": InfoKey(_STATE, (int, float), "higher is better: minus the planner's remaining distance"),
    "caption": InfoKey(_STATE, (str,), "what just happened, in words"),
    "actions": InfoKey(_STATE, (list,), "the moves that are admissible now"),
    "agent": InfoKey(_STATE, (str,), "who acts next, where several do"),
    "reward_components": InfoKey(_STEP, (dict,), "the named parts of this turn's signal, in the reward's unit"),
    "valid": InfoKey(_STEP, (bool,), "whether the move was executed"),
    "n_env_steps": InfoKey(_STEP, (int,), "steps of the simulator below that this turn took"),
    "outcome": InfoKey(_LAST, (int, float, dict), "the result; absent when nothing was scored; or one per agent"),
    "result": InfoKey(_LAST, (str,), "what kind of end it was, for magnitudes by label"),
    "success": InfoKey(_LAST, (bool,), "whether the task was solved; without it, an outcome of 1 or more is"),
}


class Call(NamedTuple):
    """One tool call as the agent wrote it."""

    id: str
    name: str
    arguments: str
    """The JSON text as written, so that broken JSON survives."""


@dataclass(slots=True, eq=False)
class Tokens:
    """A turn's tokens as a difference: ``row(t) = row(t-1)[:keep] + context + ids``.

    Example: after ``row(0) = [5, 6, 7]`` the turn ``Tokens(keep=3, context=[8, 9], ids=[4])`` has the row
    ``[5, 6, 7, 8, 9, 4]``; with ``keep=1`` it starts another row, ``[5, 8, 9, 4]``: a fork.
    """

    keep: int
    """How many tokens of the same agent's previous row stay."""
    context: IntArray
    """``[C]`` what was fed but not sampled: observations, template, what is new of the prompt."""
    ids: IntArray
    """``[A]`` what was sampled, never re-tokenized."""
    logprobs: FloatArray
    """``[A]`` log-probabilities of ``ids`` when they were sampled, in nats."""
    entropies: FloatArray | None = None
    """``[A]`` in nats, where the sampler kept them."""
    version: int = 0
    """The oldest version of the policy that sampled one of ``ids``."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tokens):
            return NotImplemented
        mine, theirs = ((t.context, t.ids, t.logprobs, t.entropies) for t in (self, other))
        return (self.keep, self.version) == (other.keep, other.version) and all(map(_same, mine, theirs))


def _same(a: IntArray | FloatArray | None, b: IntArray | FloatArray | None) -> bool:
    if a is None or b is None:
        return a is b
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


class Usage(NamedTuple):
    """What an action cost."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    seconds: float = 0.0
    cost: float | None = None

    @property
    def has_tokens(self) -> bool:
        """Whether its tokens were told: without a prompt nobody acts."""
        return self.prompt + self.completion > 0


Finish = Literal["stop", "length", "calls", "filter"]


@dataclass(slots=True)
class Action:
    """What an agent did in one turn."""

    text: str
    """All that the agent wrote."""
    move: str | None = None
    """What ``env.step`` receives. None means the text, or the JSON list of the calls where there are any; a scaffold
    may read a part of it."""
    calls: tuple[Call, ...] = ()
    reasoning: str | None = None
    finish: Finish = "stop"
    tokens: Tokens | None = None
    usage: Usage | None = None
    view: dict[str, Any] | None = field(default=None, compare=False)
    """What the agent was shown when it was not the whole history; it is recorded as ``Turn.view``."""

    def __post_init__(self) -> None:
        if self.move is None:
            self.move = calls_move(self.calls) if self.calls else self.text


@dataclass(slots=True)
class Turn:
    """One observation, the action taken on it, and what followed."""

    observation: Observation
    """What was seen before the action."""
    action: Action
    reward: float = 0.0
    """The environment's own reward; never mixed with credit."""
    info: dict[str, Any] = field(default_factory=dict)
    """What its step returned: it describes the state *after* the action."""
    seconds: float = 0.0
    """Wall time of the step."""
    agent: str = "agent"
    view: dict[str, Any] | None = None
    """What was shown when it was not the whole history: ``{"turns": [[from, to), ...], "summary": text}``, counted in
    the turns of this turn's agent; see ``view_messages``."""
    credit: dict[str, Value] = field(default_factory=dict)
    advantage: Value = None

    def put(self, label: str, value: Value) -> None:
        """Write ``credit[label]``, once.

        Raises:
            ContractError: The label is taken, or a token credit's length is not the number of sampled tokens.
        """
        if label in self.credit:
            raise ContractError(f"credit {label!r} of this turn is already written; a second run needs its own label")
        if isinstance(value, np.ndarray):
            n = len(self.action.tokens.ids) if self.action.tokens else 0
            if value.shape != (n,):
                raise ContractError(f"token credit {label!r}: expected shape ({n},), got {value.shape}")
        self.credit[label] = value


@dataclass(slots=True)
class Episode:
    """One attempt of a policy at a task, from reset to its end. Example: see ``tests/shapes.py``."""

    id: str = ""
    """A function of run seed, group and attempt; none comes twice in a run."""
    env_id: str = ""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    task: str | None = None
    split: str = "train"
    seed: int | None = None
    attempt: int = 0
    group: str = ""
    """The key of every group statistic; it contains the task and the batch."""
    instructions: str | dict[str, str] = ""
    """What a system message should say; one per agent where several act."""
    tools: list[dict[str, Any]] = field(default_factory=list)
    info: dict[str, Any] = field(default_factory=dict)
    """What reset returned: it describes the state in which turn 0 was taken."""
    turns: list[Turn] = field(default_factory=list)
    last: Observation | None = None
    """What followed the last action (at first: what reset showed)."""
    stop: Stop | None = None
    failure: str | None = None
    """For FAILED: the error and its traceback."""
    parent: dict[str, Any] | None = None
    """For a branch: ``{"episode": id, "turn": t}``."""
    runtime: dict[str, Any] = field(default_factory=dict)
    """Versions, backends, isolation in force."""
    whole: Episode | None = None
    """For one agent's part of an episode (see ``part``): the episode it was taken from. Not recorded."""

    @property
    def outcome(self) -> float | None:
        """The result of the task; None when it was not scored (or is NaN), has not ended, failed or was cancelled."""
        whole = self.whole or self
        if whole.stop is None or not whole.stop.counts or not whole.turns:
            return None
        value = whole.turns[-1].info.get("outcome")
        if isinstance(value, Mapping):
            if self.whole is None:
                raise ContractError(f"episode {self.id} has one outcome per agent; ask episode.part(agent).outcome")
            value = value.get(self.turns[0].agent)
        return None if value is None or math.isnan(value) else float(value)

    @property
    def success(self) -> bool | None:
        """Whether it was solved; None when it does not count (not ended, failed, cancelled)."""
        whole = self.whole or self
        if whole.stop is None or not whole.stop.counts:
            return None
        solved = whole.turns[-1].info.get("success") if whole.turns else None
        return bool(solved) if solved is not None else (self.outcome or 0.0) >= 1.0

    @property
    def agents(self) -> list[str]:
        """Who acted, in order of appearance."""
        return list(dict.fromkeys(turn.agent for turn in self.turns))

    def part(self, agent: str) -> Episode:
        """Return one agent's share of the episode: its own turns (the same objects), its instructions and outcome."""
        texts = self.instructions
        own = texts.get(agent, "") if isinstance(texts, dict) else texts
        turns = [turn for turn in self.turns if turn.agent == agent]
        return replace(self, turns=turns, instructions=own, whole=self.whole or self)

    def info_before(self, t: int) -> dict[str, Any]:
        """Return the info of the state in which turn ``t`` was taken (t = T: of the state at the end)."""
        return self.turns[t - 1].info if t else self.info

    def view(self, t: int) -> list[Message]:
        """Return the messages that the agent of turn ``t`` had seen before it, t = 0..T; t = T ends with ``last``."""
        n = len(self.turns)
        if not 0 <= t <= n:
            raise ValueError(f"episode {self.id} has {n} turns: expected a turn of 0..{n}, got {t}")
        turn = self.turns[t] if t < n else None
        agent = turn.agent if turn else self.info_before(t).get("agent") or (self.turns[-1].agent if n else "agent")
        view = turn.view if turn else None
        texts = self.instructions
        system = texts.get(agent, "") if isinstance(texts, dict) else texts
        messages: list[Message] = [{"role": "system", "content": system}] if system else []
        own = [past for past in self.turns[:t] if past.agent == agent]
        turns = [(observation_messages(past.observation), action_message(past.action)) for past in own]
        shown = turn.observation if turn else self.last
        return messages + view_messages(turns, [] if shown is None else observation_messages(shown), view)


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be played: one attempt at one task."""

    env_id: str
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    task: str | None = None
    """An id of ``tasks(split)``; None: whatever the seed gives."""
    split: str = "train"
    seed: int | None = None
    group: str = ""
    """Must contain the task and the batch; attempts at one task in one batch share it."""
    attempt: int = 0
    start: tuple[Episode, int] | None = None
    """Branch from the state before this turn of a recorded episode."""
    timeout_s: float | None = None
    """Wall time of this episode; None: what the driver is told for all."""


class Groups(list[list[Episode]]):
    """Episodes by group, in order of appearance, with a count of what was left out and why."""

    def __init__(self, groups: Iterable[list[Episode]] = (), skipped: Mapping[str, int] | None = None) -> None:
        super().__init__(groups)
        self.skipped: Counter[str] = Counter(skipped or {})


def groups_of(episodes: Iterable[Episode]) -> Groups:
    """Group the episodes that count and were scored, by (group, agent); count the others by reason.

    ``skipped`` has the keys ``failed``, ``cancelled``, ``unscored`` and ``empty`` (no turn was taken).
    """
    groups: dict[tuple[str, str], list[Episode]] = {}
    skipped: Counter[str] = Counter()
    for episode in episodes:
        if episode.stop is None or not episode.stop.counts:
            skipped[str(episode.stop or Stop.CANCELLED)] += 1
        elif not episode.turns:
            skipped["empty"] += 1
        else:
            for agent in (agents := episode.agents):
                part = episode if len(agents) == 1 and episode.whole is None else episode.part(agent)
                if part.outcome is None:
                    skipped["unscored"] += 1
                else:
                    groups.setdefault((part.group, agent), []).append(part)
    return Groups(groups.values(), skipped)


class Utf8(gym.Space[str]):
    """Any text."""

    def contains(self, x: Any) -> bool:
        """Return whether ``x`` is a str."""
        return isinstance(x, str)

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """Return up to 12 printable characters, some of them beyond ASCII."""
        alphabet = " abcdefghijklmnopqrstuvwxyzABC0123456789.,:;!?<>{}[]()'\"\\/\n\u00e9\u00df\u4e2d\U0001f600"
        return "".join(alphabet[i] for i in self.np_random.integers(len(alphabet), size=self.np_random.integers(1, 13)))

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))

    @property
    def is_np_flattenable(self) -> bool:
        """Text has no flat form."""
        return False


class Mixed(Utf8):
    """A text, or a dict with any of the keys of ``Observation``."""

    def contains(self, x: Any) -> bool:
        """Return whether ``x`` is an ``Observation``."""
        return isinstance(x, str) or (
            isinstance(x, dict)
            and bool(x)
            and set(x) <= {"text", "images", "results"}
            and isinstance(x.get("text", ""), str)
            and all(_is_image(i) for i in x.get("images", ()))
            and all(isinstance(r, dict) and isinstance(r.get("id"), str) for r in x.get("results", ()))
        )


def _is_image(x: Any) -> bool:
    return isinstance(x, np.ndarray) and x.dtype == np.uint8 and x.ndim == 3 and x.shape[2] == 3
