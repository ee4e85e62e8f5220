"""The groups that a method is asked about: made up, with every key that a method may need, and played on the ladder."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np

from milepost.credit.audit.subject import copied
from milepost.credit.made import episode
from milepost.envs.core import Episode, Stop, Tokens
from milepost.envs.hooks import TurnHooks
from milepost.envs.ladder import LadderEnv
from milepost.envs.make import make

Group = list[Episode]


def attempt(
    n: int,
    outcome: float,
    states: Sequence[int],
    *,
    task: str = "tea",
    scored: Sequence[float] | None = None,
    stop: Stop = Stop.TERMINATED,
) -> Episode:
    """Return attempt number ``n`` at a task; it passes the states (0..4, 4 is the goal) one after another.

    ``scored`` is what each turn scored; None: a quarter for each state that it came nearer.
    """
    n_turns = len(states) - 1
    rises = [after - before for before, after in itertools.pairwise(states)]
    gains = [max(0.0, rise / 4) for rise in rises] if scored is None else scored
    made = episode(
        outcome,
        n_turns=n_turns,
        id=f"{task}/{n}",
        group=task,
        stop=stop,
        at_reset={"task_id": task, "answer": f"green {task}", "aliases": [f"{task} that is green"]}
        | {"subgoals": ["find the pot", "boil the water"], "privileged": f"the pot of the {task} is in the box"},
        potential=[float(state - 4) for state in states],
        state_key=[f"{task}:{state}" for state in states],
        caption=[f"you are at {state} of {task}" for state in states],
        valid=[rise != 0 for rise in rises],
        texts=[f"green {task}" if state == 3 else f"go {rise}" for state, rise in zip(states, rises, strict=False)],
        score=list(gains),
        step=[0.1 * (rise > 0) - 0.05 * (rise < 0) for rise in rises] if scored is None else list(scored),
    )
    for t, turn in enumerate(made.turns):
        turn.observation = f"you see {states[t]} of {task}"
        turn.info["reward_components"] = Components(turn.info["reward_components"])
        turn.action.tokens = tokens(Random(f"{task} {n} {t}"))
    made.last = f"you see {states[-1]} of {task}"
    made.task, made.attempt = task, n
    made.instructions = "Get to 4."
    made.turns[-1].info["success"] = outcome >= 1
    return made


class Components(dict[str, float]):
    """Parts of a turn's signal; one that only the method's own environment has is worth what ``step`` is, or 0."""

    def __missing__(self, name: str) -> float:
        return self.get("step", 0.0)


def tokens(rng: Random) -> Tokens:
    """Return one to four sampled tokens."""
    n = rng.randint(1, 4)
    logprobs, entropies = (np.array([sign * rng.uniform(0.1, 2) for _ in range(n)], np.float32) for sign in (-1, 1))
    ids = np.array([rng.randrange(32) for _ in range(n)], np.int32)
    return Tokens(0, np.zeros(2, np.int32), ids, logprobs, entropies)


def ragged(task: str = "tea") -> Group:
    """Return four attempts of unequal length; one stands still (earns 0), one goes in a circle, two won."""
    limit = Stop.MAX_TURNS
    return [
        attempt(0, 1.0, [0, 1, 1, 3, 4], task=task),
        attempt(1, 0.0, [0, 1], task=task),
        attempt(2, 0.5, [0, 2, 0, 2, 3, 3], task=task, stop=limit),
        attempt(3, 1.0, [0, 3, 4], task=task),
    ]


def backwards(task: str = "tea") -> Group:
    """Return attempts that pass the same states as ``ragged`` and earn otherwise."""
    return [
        attempt(0, 0.0, [4, 3, 1, 1, 0], task=task),
        attempt(1, 1.0, [1, 0, 2], task=task),
        attempt(2, 0.25, [3, 3, 2], task=task),
    ]


def failed(task: str = "rye") -> Group:
    """Return attempts that all failed, some nearer than others."""
    return [attempt(n, 0.0, states, task=task) for n, states in enumerate(([0, 1, 2], [0, 0, 1], [0, 3, 3, 2], [0, 0]))]


def equal(task: str = "oat") -> Group:
    """Return three attempts that are the same."""
    return [attempt(n, 1.0, [0, 2, 4], task=task) for n in range(3)]


def alone(task: str = "fig") -> Group:
    """Return one attempt of one turn."""
    return [attempt(0, 0.0, [0, 0], task=task)]


def ladder(*plays: Sequence[str], task: str = "oak 5") -> Group:
    """Return attempts at a ladder by these moves; the rest of a play is rested."""
    env = TurnHooks(make("milepost/Ladder-v0"))
    found = []
    for n, moves in enumerate(plays):
        fields: dict[str, Any] = {"id": f"{task}/{n}", "group": task, "attempt": n}
        env.reset(seed=0, options={"task": task, "episode": fields})
        for move in [*moves, *["rest"] * 8]:
            if env.episode.stop is None:
                env.step(move)
        found.append(filled(env.episode))
    env.close()
    return found


def wandering(n: int = 4, task: str = "oak 5") -> Group:
    """Return attempts at a ladder by random moves, some of them unreadable."""
    rng = Random(task)
    return ladder(
        *([rng.choice(("climb", "climb", "dust", "rest", "?")) for _ in range(8)] for _ in range(n)), task=task
    )


def filled(played: Episode) -> Episode:
    """Give an episode of the ladder what its environment does not say: an answer, subgoals, captions, tokens."""
    played.info |= {"answer": "on top", "aliases": ["the top"], "subgoals": ["climb", "do not dust"]}
    played.info |= {"privileged": LadderEnv.instructions, "caption": str(played.turns[0].observation)}
    for t, turn in enumerate(played.turns):
        shown = played.turns[t + 1].observation if t + 1 < len(played.turns) else played.last
        turn.info["caption"] = str(shown)
        turn.info["reward_components"] = Components(turn.info["reward_components"])
        turn.action.tokens = tokens(Random(f"{played.id} {t}"))
    return played


_MARKS = itertools.count()


def mark() -> str:
    """Return a mark that no name had so far."""
    return f"~{next(_MARKS)}~"


def anew(group: Group, names: str) -> Group:
    """Return a copy of a group whose task and states are marked, as names that were perhaps never seen.

    The episodes get ids of their own each time. What stand-ins say does not depend on marks.
    """
    copy, ids = copied(group), mark()
    for played in copy:
        played.id += ids
        played.task, played.group = f"{played.task}{names}", f"{played.group}{names}"
        for info in (played.info, *(turn.info for turn in played.turns)):
            info |= {key: f"{info[key]}{names}" for key in ("task_id", "state_key") if key in info}
    return copy


def all_groups() -> dict[str, Group]:
    """Return the groups by what they are."""
    return {
        "ragged": ragged(),
        "failed": failed(),
        "equal": equal(),
        "alone": alone(),
        "ladder": wandering(),
        "backwards": backwards("nut"),
    }
