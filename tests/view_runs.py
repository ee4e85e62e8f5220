"""Runs to look at: hostile texts, pictures, two agents' attempts at the same tasks."""

from pathlib import Path

import numpy as np

from milepost.envs.core import Action, Call, Episode, Stop, Tokens, Turn, Usage
from milepost.envs.runs import Run

HOSTILE = [
    "</script><script>window.pwned=1</script>",
    "<img src=x onerror=window.pwned=1> <svg onload=window.pwned=1>",
    "javascript:window.pwned=1 <a href='javascript:window.pwned=1'>x</a> <!-- --> ]]> {{script}} ${window.pwned=1}",
    "lone \ud800, nul \0, ansi \x1b[31mred\x1b[0m, ends \u2028 \u2029, rtl \u202etxt.exe\u202c, tag \U000e0041",
    "one megabyte " + "0123456789abcdef" * 65_536 + " its end",
]


def tokens(n):
    none = np.zeros(0, np.int32)
    return Tokens(0, none, np.zeros(n, np.int32), np.zeros(n, np.float32))


def hostile(path: Path) -> Path:
    """One episode in which every text and key is an attack, pictures and broken calls among them."""
    red = np.zeros((8, 8, 3), np.uint8) + np.array([200, 30, 30], np.uint8)
    turns = [Turn(text, Action(text, reasoning=text, move="x" + text[:40])) for text in HOSTILE]
    for turn in turns:
        turn.info = {"__proto__": {"polluted": 1}, HOSTILE[0]: HOSTILE[1], "valid": False, "constructor": "x"}
        turn.info["reward_components"] = {"__proto__": 0.5, HOSTILE[1]: -0.5}
        turn.credit = {"__proto__": 1.0, "constructor": None, HOSTILE[0]: -1.0}
    call = Call("c1", HOSTILE[1], '{"broken": ' + HOSTILE[0])
    turns.append(Turn({"text": HOSTILE[0], "images": [red]}, Action("", calls=(call, call)), view={"turns": [[1, 3]]}))
    turns.append(Turn({"results": [{"id": "c1", "text": HOSTILE[0], "image": red}]}, Action(""), credit={"late": 0.0}))
    with Run.open(path, "evaluate", {"</script>": HOSTILE[0]}) as run:
        run.add(
            Episode(
                id=HOSTILE[0], env_id=HOSTILE[1], task=HOSTILE[0], turns=turns, stop=Stop.FAILED, failure=HOSTILE[0],
                instructions=HOSTILE[0], info={"__proto__": 1}, runtime={"policy": HOSTILE[1]},
            )
        )  # fmt: skip
    return path


def played(number: int, *, won: bool, policy: str, n_turns: int = 3, env: str = "Door", stop: Stop = Stop.TERMINATED):
    turns = [Turn(f"You see door {t} of house {number}.", Action("open door")) for t in range(n_turns)]
    turns[-1].action = Action("leave" if won else "wait")
    for t, turn in enumerate(turns):
        turn.info["valid"] = t != 1
        turn.action.usage = Usage(prompt=100 * (t + 1), completion=10, cost=0.001)
        turn.action.tokens = tokens(2)
        turn.credit = {"gain": 0.25 * t - 0.25, "kl": np.array([0.5, -1.0], np.float32), "late": None if t else 0.0}
    if stop.counts:
        turns[-1].info["outcome"] = float(won)
    return Episode(
        id=f"{policy}:{number}",
        env_id=env,
        task=f"house-{number}",
        split="test",
        group=f"{env.lower()}/house-{number}",
        turns=turns,
        last="The street.",
        stop=stop,
        failure=None if stop.counts else "Traceback\nEndpointError: the endpoint is gone",
        runtime={"policy": policy},
    )


def doors(path: Path, won: str, policy: str, n_turns: int = 3) -> Path:
    """One episode a character of ``won``: 1 solved, 0 not, x failed; every third one in another environment."""
    with Run.open(path, "evaluate", {"agent": policy}) as run:
        for number, mark in enumerate(won):
            env = "Gate" if number % 3 == 2 else "Door"
            stop = Stop.FAILED if mark == "x" else Stop.TERMINATED
            run.add(played(number, won=mark == "1", policy=policy, n_turns=n_turns, env=env, stop=stop))
    return path
