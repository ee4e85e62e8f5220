"""What annotators are asked, and how their answers are read. A reader never raises: an answer is the model's text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from milepost.envs.core import Message

GOALS: dict[str, str] = {
    "score": "The player wants the highest score: defeat monsters, pick up gold and valuable items, and find the stairs"
    " that lead down.",
    "combat": "The player wants to win fights: defeat monsters, survive, and get better weapons and armour.",
    "gold": "The player wants to collect as much gold as there is.",
    "stairs": "The player wants to get down: find the stairs and descend as deep as possible.",
    "none": "",
}
"""Goals by variant; ``none`` leaves the goal to what the model knows. Any other text is a goal of your own."""

JUDGE = "You are an impartial judge. You decide from short messages whether a player makes progress in a game."
FORMAT = "Answer in this form: first your analysis, then, on a line of its own,"
EXAMPLES = """\
Message: You kill the jackal!
Analysis: A defeated enemy gives experience and makes the way safer. FOO
Message: You see here 12 gold pieces.
Analysis: Gold within reach was found. FOO
Message: You stop. There is a wall in the way.
Analysis: The move had no effect. BAR
Message: The jackal bites!
Analysis: The player lost health and gained nothing. BAR"""


_DECODER = json.JSONDecoder()


def goal_text(goal: str) -> str:
    """Return the goal of a variant of ``GOALS``, or the text itself."""
    return GOALS.get(goal, goal)


def classification(caption: str, goal: str = "score") -> list[Message]:
    """Return the chat that asks whether a caption tells of progress: FOO says yes, BAR no."""
    return _chat(
        JUDGE,
        goal_text(goal),
        "Here is a message that the player has just read:\n" + _quoted(caption),
        "Recall what you know of the game. Analyse what the message says about the player's progress. Then give one"
        " tag: FOO if it tells of progress, BAR if it does not. The tags have no meaning of their own.",
        "Examples:\n" + EXAMPLES,
        f"{FORMAT} FOO or BAR.",
    )


def ranking(first: str, second: str, goal: str = "score") -> list[Message]:
    """Return the chat that asks which of two captions tells of more progress."""
    return _chat(
        JUDGE,
        goal_text(goal),
        f"Here are two messages.\nMessage 1:\n{_quoted(first)}\nMessage 2:\n{_quoted(second)}",
        "Recall what you know of the game. Analyse message 1, then message 2, and compare how much progress each tells"
        " of. If neither is better, say None.",
        f"{FORMAT}\n" + '{"best_description": 1}, {"best_description": 2} or {"best_description": None}',
    )


def read_classification(answer: str) -> tuple[float, bool]:
    """Return the label, 1 for FOO anywhere, else 0, and whether neither tag was there."""
    positive, negative = "FOO" in answer, "BAR" in answer
    return float(positive), not (positive or negative)


def read_ranking(answer: str) -> tuple[tuple[float, float], bool]:
    """Return the soft label of the two captions, a tie for None, and whether nothing could be read (a tie too)."""
    found = re.findall(r"best_description\W{0,16}(1|2|none)\b", answer, re.IGNORECASE)
    label = {"1": (1.0, 0.0), "2": (0.0, 1.0)}.get(found[-1].lower() if found else "", (0.5, 0.5))
    return label, not found


def transition(
    subgoals: Sequence[str],
    before: str,
    action: str,
    after: str,
    *,
    environment: str = "",
    legend: str = "",
    task: str = "",
) -> list[Message]:
    """Return the chat that asks which sub-goals one transition achieved; empty parts are left out."""
    return _chat(
        "You watch an agent and decide, for each of its sub-goals, whether its last action achieved it.",
        _titled("Environment", environment),
        _titled("Symbols", legend),
        _titled("Task", task),
        _titled("Sub-goals", "\n".join(f"- {name}" for name in subgoals)),
        _titled("Before the action", _quoted(before)),
        _titled("Action", _quoted(action)),
        _titled("After the action", _quoted(after)),
        "A sub-goal is achieved if it did not hold before the action and holds after it. Answer with a JSON object that"
        f" has true or false for each sub-goal, and nothing else:\n{_form(tuple(subgoals))}",
    )


def identify(first: str, *, environment: str = "", legend: str = "", task: str = "") -> list[Message]:
    """Return the chat that asks for the sub-goals of a task, given what is seen at its start."""
    return _chat(
        "You split the task of an agent into elementary sub-goals that can be seen to be achieved.",
        _titled("Environment", environment),
        _titled("Symbols", legend),
        _titled("Task", task),
        _titled("What the agent sees first", _quoted(first)),
        'Answer with a JSON list of short names, in order, and nothing else, as in ["open the box", "take the coin"].',
    )


def read_transition(answer: str, subgoals: Sequence[str]) -> tuple[dict[str, bool], bool]:
    """Return for each sub-goal whether it was achieved, and ``parse_failed``: whether one could not be read (False).

    Read are the last JSON object that names a sub-goal, and yes, true, 1, no, false, 0 alone where there is only one
    sub-goal, whatever the case.
    """
    names = [_plain(name) for name in subgoals]
    found: Mapping[str, Any] = {}
    for start in _starts(answer, "{"):
        value = _json(answer, start)
        if isinstance(value, dict) and (known := {_plain(k): v for k, v in value.items()}).keys() & set(names):
            found = known
            break
    if not found and len(names) == 1:
        found = {names[0]: answer}
    read = [_yes(found.get(name)) for name in names]
    return {name: bool(value) for name, value in zip(subgoals, read, strict=True)}, None in read


def read_subgoals(answer: str) -> list[str]:
    """Return the names in the answer's last JSON list of texts, each once; none if there is no such list."""
    for start in _starts(answer, "["):
        value = _json(answer, start)
        if isinstance(value, list) and value and all(isinstance(name, str) and name.strip() for name in value):
            return list(dict.fromkeys(name.strip() for name in value))
    return []


def _yes(value: Any) -> bool | None:
    word = _plain(value) if isinstance(value, str | int) else ""
    return True if word in ("yes", "true", "1") else False if word in ("no", "false", "0") else None


def _plain(value: object) -> str:
    return str(value).strip(" \t\r\n.!\"'`*").lower() if not isinstance(value, int) or abs(value) < 10 else ""


def _starts(text: str, bracket: str) -> Iterator[int]:
    """Yield where JSON may begin: the last 16 places, the last one first, so that hostile text costs little."""
    at = len(text)
    for _ in range(16):
        if (at := text.rfind(bracket, 0, at)) < 0:
            return
        yield at


def _json(text: str, start: int) -> Any:
    try:
        return _DECODER.raw_decode(text, start)[0]
    except (ValueError, RecursionError):
        return None


@lru_cache(1024)
def _form(subgoals: tuple[str, ...]) -> str:
    return json.dumps(dict.fromkeys(subgoals, False), ensure_ascii=False)


def _chat(system: str, *parts: str) -> list[Message]:
    return [
        {"role": "system", "content": system},
        {"role": "user", "content": "\n\n".join(part for part in parts if part)},
    ]


def _titled(title: str, text: str) -> str:
    return f"{title}:\n{text}" if text.strip() else ""


def _quoted(text: str) -> str:
    return f"<<<\n{text}\n>>>"
