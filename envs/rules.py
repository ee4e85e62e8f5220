"""The rules that every environment keeps: each yields what is wrong, as sentences."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from math import isfinite
from random import Random
from typing import Any

import gymnasium as gym

from milepost.envs.core import INFO_KEYS, ContractError, Episode, Observation, Stop
from milepost.envs.hooks import TurnHooks
from milepost.envs.make import make
from milepost.envs.replay import same
from milepost.sandbox.core import MachineError

Env = gym.Env[Any, Any]
Mover = Callable[[TurnHooks, Random], str]
SEEDS = (0, 1, 2)
MAX_TURNS = 300
"""No episode is played longer than this."""
GARBAGE = (
    "",
    " ",
    "xyzzy",
    "\x00\n\t",
    "{",
    '<tool_call>{"name": ',
    "[1, 2",
    "null",
    "-1",
    "\U0001f600" * 9,
    "a " * 4000,
)


class Subject:
    """The environment under test, with every episode that the rules played."""

    def __init__(self, env: str | Env, kwargs: dict[str, Any]) -> None:
        self._own = isinstance(env, str)
        self.env: Env = make(env, **kwargs) if isinstance(env, str) else env
        self._again = (env, kwargs) if isinstance(env, str) else None
        self.spec = self.env.spec
        if self._again is None and self.spec is not None:
            self._again = self.spec.id, dict(self.spec.kwargs)
        self._others: list[Env] = []
        self.episodes: list[Episode] = []
        self.error = ""

    def other(self) -> Env | None:
        """Return a second instance, None where it is not known how to make one."""
        if self._again is None:
            return None
        self._others.append(make(self._again[0], **self._again[1]))
        return self._others[-1]

    def attribute(self, name: str) -> Any:
        """Return an optional method or attribute, None if it is absent."""
        return self.env.get_wrapper_attr(name) if self.env.has_wrapper_attr(name) else None

    def play(self, seed: int, mover: Mover, limit: int = MAX_TURNS) -> Episode:
        """Play an episode up to its end, ``limit``, or the first exception, which is kept in ``error``."""
        hooked, rng = TurnHooks(self.env), Random(seed)
        hooked.reset(seed=seed)
        self.episodes.append(hooked.episode)
        try:
            for _ in range(limit):
                if hooked.episode.stop is not None:
                    break
                hooked.step(mover(hooked, rng))
        except Exception as error:
            turn = len(hooked.episode.turns)
            self.error = self.error or f"step raised {said(error)} at turn {turn} of the episode of seed {seed}"
        return hooked.episode

    def close(self) -> None:
        """Close what was made here."""
        for env in [*self._others, *([self.env] if self._own else [])]:
            env.close()


def _lively(env: TurnHooks, rng: Random) -> str:
    """Return a move that makes sense as far as one is known."""
    episode = env.episode
    actions = episode.info_before(len(episode.turns)).get("actions")
    if actions:
        return str(rng.choice(actions))
    plan = env.get_wrapper_attr("oracle")() if env.env.has_wrapper_attr("oracle") else ()
    return str(plan[0]) if plan else str(env.action_space.sample())


def begins(subject: Subject) -> Iterator[tuple[str, str]]:
    """An episode begins."""
    if "look" not in subject.env.action_space:
        yield ("action", f"a move is a text, but {subject.env.action_space} contains none; use Utf8")
        return
    try:
        subject.play(0, _lively, limit=0)
    except ContractError as error:
        yield ("observation", f"{error}.")
    except Exception as error:
        yield ("reset", f"reset(seed=0) raised {said(error)}.")


def _seed(subject: Subject) -> Iterator[str]:
    """The same seed gives the same task."""
    for seed in SEEDS:
        first, again = (subject.play(seed, _lively, limit=20) for _ in range(2))
        for what, a, b in (("observation", _seen(first), _seen(again)), ("info", infos(first), infos(again))):
            at = next((i for i, pair in enumerate(zip(a, b, strict=False)) if not same(*pair)), None)
            if at is not None or len(a) != len(b):
                where = "at reset" if at == 0 else f"after turn {at - 1}" if at else "in length"
                yield (
                    f"reset(seed={seed}) twice, and the same moves, gave another {what} {where}: "
                    "take randomness from self.np_random alone."
                )
                return


def _garbage(subject: Subject) -> Iterator[str]:
    """Text that cannot be read is answered."""
    hooked = TurnHooks(subject.env)
    for text in GARBAGE:
        hooked.reset(seed=0)
        try:
            hooked.step(text)
        except MachineError:
            continue
        except ContractError as error:
            yield f"{error}, on the text {text[:30]!r}."
            return
        except Exception as error:
            yield f"step raised {said(error)} on the text {text[:30]!r}: answer it with an observation that says why."
            return
        subject.episodes.append(hooked.episode)


def _turns(subject: Subject) -> Iterator[str]:
    """The turn limit is Gymnasium's."""
    limit = subject.spec.max_episode_steps if subject.spec else None
    n_turns = min((limit or 100) + 5, MAX_TURNS)
    lengths = set()
    for seed in SEEDS[:2]:
        env = subject.env.unwrapped
        env.reset(seed=seed)
        for turn in range(n_turns):
            try:
                _, _, terminated, truncated, _ = env.step("xyzzy")
            except Exception:
                return
            if truncated:
                yield (
                    f"the environment itself truncates after {turn + 1} turns: leave the limit to "
                    "max_episode_steps of gym.register, and say in score() what the state is worth."
                )
                return
            if terminated:
                lengths.add(turn + 1)
                break
        else:
            lengths.add(0)
    if limit and lengths == {limit}:
        yield (
            f"the environment terminates by itself after {limit} turns of nonsense, which is max_episode_steps: "
            "do not count turns, the limit truncates."
        )


def _outcome(subject: Subject) -> Iterator[str]:
    """The outcome stands on the last turn."""
    for episode in subject.episodes:
        for i, info in enumerate(infos(episode)):
            for key in ("outcome", "success"):
                if key in info and (i == 0 or i < len(episode.turns) or episode.stop is None):
                    when = "at reset" if i == 0 else f"at turn {i - 1}, and the episode went on"
                    yield f"info[{key!r}] is there {when}: only the step that ends the episode may have it."
                    return


def _json(subject: Subject) -> Iterator[str]:
    """Info is plain JSON."""
    for episode in subject.episodes:
        for info in infos(episode):
            for key, value in info.items():
                if odd := _not_json(value):
                    yield f"info[{key!r}] has {odd}: values are plain JSON, so that a record can be read again."
                    return


def _info(subject: Subject) -> Iterator[str]:
    """The keys of the table mean what the table says."""
    for episode in subject.episodes:
        for info in infos(episode):
            for key in INFO_KEYS.keys() & info.keys():
                kinds, value = INFO_KEYS[key].kinds, info[key]
                wrong = not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)
                if wrong and not _not_json(value):
                    names = " or ".join(kind.__name__ for kind in kinds)
                    yield f"info[{key!r}] must be {names} ({INFO_KEYS[key].meaning}), got {value!r}."
                    return


def _leak(subject: Subject) -> Iterator[str]:
    """What is for credit is not shown to the agent."""
    for episode in subject.episodes:
        texts = episode.instructions
        system = " ".join(texts.values()) if isinstance(texts, dict) else texts
        first = f"{system}\n{_text(_seen(episode)[0])}"
        for secret in (episode.info.get("answer"), *(episode.info.get("aliases") or ())):
            if isinstance(secret, str) and secret and re.search(rf"(?<!\w){re.escape(secret)}(?!\w)", first, re.I):
                yield f"the answer {secret[:60]!r} of info stands in the first observation or in the instructions."
                return
        for observation, info in zip(_seen(episode), infos(episode), strict=True):
            text = _text(observation)
            for key, value in info.items():
                dumped = f"'{key}':" in text or f'"{key}":' in text
                if dumped or (key == "state_key" and len(str(value)) >= 6 and str(value) in text):
                    yield f"info[{key!r}] stands in an observation: info is for credit and records, agents see none."
                    return


def _crash(subject: Subject) -> Iterator[str]:
    """A machine that breaks is not a score."""
    inner = subject.env.unwrapped
    for name in [n for n, v in vars(inner).items() if _is_machine(v)]:
        hooked = TurnHooks(subject.env)
        hooked.reset(seed=0)
        whole, broken = getattr(inner, name), _BrokenMachine()
        try:
            move = _lively(hooked, Random(0))
            setattr(inner, name, broken)
            _, _, terminated, truncated, info = subject.env.step(move)
        except Exception:
            continue
        finally:
            setattr(inner, name, whole)
        if broken.n_raised and (terminated or truncated) and "outcome" in info:
            yield (
                f"{name!r} raised a MachineError and the step answered with the outcome {info['outcome']}: "
                "a crash says nothing about the agent, let it pass."
            )
            return


def _shared(subject: Subject) -> Iterator[str]:
    """Two instances share no state."""
    other = subject.other()
    if other is None:
        return
    alone, again = (subject.play(0, _lively, limit=10) for _ in range(2))
    if not same(_seen(alone), _seen(again)) or not same(infos(alone), infos(again)):
        return  # not even alone: the seed's fault
    mine, theirs = TurnHooks(subject.env), TurnHooks(other)
    mine.reset(seed=0)
    theirs.reset(seed=1)
    try:
        for turn in alone.turns:
            if theirs.episode.stop is None:
                theirs.step(_lively(theirs, Random(1)))
            mine.step(turn.action)
    except Exception as error:
        if not subject.error:
            yield f"with a second instance stepped in between, step raised {said(error)}."
        return
    if not same(_seen(alone), _seen(mine.episode)) or not same(infos(alone), infos(mine.episode)):
        yield "an episode went another way while a second instance was played: two instances share state."


def _splits(subject: Subject) -> Iterator[str]:
    """Splits are disjoint."""
    if (tasks := subject.attribute("tasks")) is None:
        return
    seen: dict[str, str] = {}
    for split in ("train", "valid", "test"):
        ids = tasks(split)
        if ids is not None and not (isinstance(ids, list) and all(isinstance(i, str) for i in ids)):
            yield f"tasks({split!r}) must be a list of str, or None for unlimited, got {ids!r:.60}."
            return
        for task in ids or ():
            if seen.setdefault(task, split) != split:
                yield f"the task {task!r} is in the splits {seen[task]} and {split}: what is trained on tests nothing."
                return


def _oracle(subject: Subject) -> Iterator[str]:
    """The oracle wins."""
    if (oracle := subject.attribute("oracle")) is None:
        return
    for seed in SEEDS:
        hooked = TurnHooks(subject.env)
        hooked.reset(seed=seed)
        try:
            moves = list(oracle())
            for move in moves:
                if hooked.episode.stop is None:
                    hooked.step(move)
        except Exception as error:
            yield f"the oracle of seed {seed} raised {said(error)}."
            return
        episode = hooked.episode
        if episode.stop is None:
            episode = hooked.end(Stop.MAX_TURNS)
        subject.episodes.append(episode)
        if not episode.success:
            yield (
                f"the oracle's {len(moves)} actions for seed {seed} end with the outcome {episode.outcome} "
                f"({episode.stop}): they must solve the task."
            )
            return


RULES = {
    "seed": _seed,
    "garbage": _garbage,
    "oracle": _oracle,
    "shared": _shared,
    "crash": _crash,
    "turns": _turns,
    "splits": _splits,
    "outcome": _outcome,
    "json": _json,
    "info": _info,
    "leak": _leak,
}
"""In this order; the last four read the episodes that the others played."""


class _BrokenMachine:
    """Whatever is called on it raises a MachineError."""

    def __init__(self) -> None:
        self.n_raised = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.n_raised += 1
        raise MachineError("broken on purpose, by check")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self


def _is_machine(value: Any) -> bool:
    if isinstance(value, gym.Space) or value is None:
        return False
    return callable(value) or type(value).__module__.partition(".")[0] not in ("builtins", "numpy", "gymnasium")


def _seen(episode: Episode) -> list[Observation]:
    return [turn.observation for turn in episode.turns] + ([] if episode.last is None else [episode.last])


def infos(episode: Episode) -> list[dict[str, Any]]:
    """Return the infos of reset and of every turn."""
    return [episode.info, *(turn.info for turn in episode.turns)]


def _text(observation: Observation) -> str:
    if isinstance(observation, str):
        return observation
    results: Sequence[dict[str, Any]] = observation.get("results", ())
    return "\n".join([str(observation.get("text", "")), *(str(result.get("text", "")) for result in results)])


def _not_json(value: Any) -> str:
    """Return what in ``value`` is not plain JSON, nothing if all is."""
    if value is None or isinstance(value, (str, bool, int)):
        return ""
    if isinstance(value, float):
        return "" if isfinite(value) else f"the number {value}"
    if type(value) is list:
        return next((odd for item in value if (odd := _not_json(item))), "")
    if type(value) is dict:
        key = next((key for key in value if not isinstance(key, str)), None)
        return f"the key {key!r}" if key is not None else _not_json(list(value.values()))
    return f"a {type(value).__name__}"


def said(error: Exception) -> str:
    """Return an exception in one line."""
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
