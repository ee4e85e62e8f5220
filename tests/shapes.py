"""Small made-up episodes of every shape that the record has to hold."""

from __future__ import annotations

import numpy as np

from milepost.envs.core import Action, Call, Episode, Stop, Tokens, Turn


def tokens(keep: int, context: list[int], ids: list[int], version: int = 0) -> Tokens:
    """Return tokens whose log-probabilities are all -1 nat."""
    as_ids = [np.array(row, np.int32) for row in (context, ids)]
    return Tokens(keep, as_ids[0], as_ids[1], np.full(len(ids), -1.0, np.float32), version=version)


def long(n_turns: int = 5000) -> Episode:
    """Many turns, each with two new context tokens and one sampled: the row grows by 3 a turn."""
    turns = [Turn(f"o{t}", Action(f"a{t}", tokens=tokens(3 * t, [1, 2], [t % 7]))) for t in range(n_turns)]
    turns[-1].info["outcome"] = 1.0
    return Episode(id="long", group="g", instructions="Go on.", turns=turns, last="done", stop=Stop.TERMINATED)


def pictures() -> Episode:
    """Two screenshots, the first with a text."""
    red, blue = (np.full((2, 3, 3), rgb, np.uint8) for rgb in ((255, 0, 0), (0, 0, 255)))
    turns = [Turn({"text": "the page", "images": [red]}, Action("click 1")), Turn({"images": [blue]}, Action("done"))]
    turns[-1].info.update(outcome=0.25, success=True)
    return Episode(id="pictures", group="g", turns=turns, last="bye", stop=Stop.TERMINATED)


def calls() -> Episode:
    """Two tool calls in one turn, one of broken JSON, and their results."""
    made = (Call("c1", "search", '{"q": "x"}'), Call("c2", "open", '{"page": '))
    move = '[{"name": "search"}, {"name": "open"}]'
    results = [{"id": "c1", "text": "found"}, {"id": "c2", "text": "not JSON"}]
    turns = [
        Turn("Find x.", Action("I look.", move, made, reasoning="where?", finish="calls"), info={"valid": False}),
        Turn({"results": results}, Action("It is there."), info={"outcome": 1.0}),
    ]
    tools = [{"type": "function", "function": {"name": name}} for name in ("search", "open")]
    return Episode(id="calls", group="g", tools=tools, turns=turns, last="ok", stop=Stop.TERMINATED)


def self_play() -> Episode:
    """White and black in turns; white wins."""
    turns = [
        Turn("w sees 0", Action("e4"), info={"agent": "black"}, agent="white"),
        Turn("b sees 1", Action("e5"), info={"agent": "white"}, agent="black"),
        Turn("w sees 2", Action("Qh5"), info={"agent": "black"}, agent="white"),
        Turn("b sees 3", Action("resign"), info={"outcome": {"white": 1.0, "black": 0.0}}, agent="black"),
    ]
    texts = {"white": "You are white.", "black": "You are black."}
    return Episode(
        id="play",
        group="g",
        instructions=texts,
        info={"agent": "white"},
        turns=turns,
        last="over",
        stop=Stop.TERMINATED,
    )


def dropped() -> Episode:
    """From turn 3 on the agent sees a summary and the newest turn alone: its row forks there."""
    turns = [Turn(f"o{t}", Action(f"a{t}", tokens=tokens(2 * t, [10 + t], [t]))) for t in range(3)]
    view = {"turns": [[2, 3]], "summary": "so far: a0, a1"}
    turns.append(Turn("o3", Action("a3", tokens=tokens(1, [50, 12, 2, 13], [3])), view=view, info={"outcome": 0.0}))
    return Episode(id="dropped", group="g", instructions="Play.", turns=turns, last="end", stop=Stop.TERMINATED)


def versions() -> Episode:
    """Weights changed twice during the episode."""
    turns = [
        Turn(f"o{t}", Action(f"a{t}", tokens=tokens(2 * t, [t], [t], version=v))) for t, v in enumerate([4, 4, 5, 6])
    ]
    return Episode(id="versions", group="g", turns=turns, last="end", stop=Stop.CANCELLED)


def fork() -> Episode:
    """A branch of ``dropped`` from before its turn 2."""
    source = dropped()
    turns = [*source.turns[:2], Turn("o2", Action("other", tokens=tokens(4, [12], [9])), info={"outcome": 1.0})]
    return Episode(
        id="fork", group="g", turns=turns, last="won", stop=Stop.TERMINATED, parent={"episode": source.id, "turn": 2}
    )


def every() -> list[Episode]:
    """Return one episode of each shape, the long one of 50 turns."""
    return [long(50), pictures(), calls(), self_play(), dropped(), versions(), fork()]
