"""What of a long history an agent is shown, and the view that says what it was not shown.

The system message, the first turn and the newest observation always stay, for in the first the task is told. Where
turns are missing stands a line that says how many. What is shown is ``view_messages`` of the view, so that
``episode.view(t)`` gives the same messages again: calls and their results stay together.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from milepost.agents.core import ContextFull
from milepost.envs.core import Message
from milepost.envs.messages import view_messages

View = dict[str, Any]
Tools = Sequence[dict[str, Any]]
CHARACTERS_PER_TOKEN = 4
IMAGE_TOKENS = 1000
"""What an image counts in the estimate; servers differ by a factor of ten."""


class History:
    """A request's messages, by turns."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self.head = list(messages[:1]) if messages and messages[0]["role"] == "system" else []
        """The system message, where there is one."""
        self.turns: list[tuple[list[Message], Message]] = []
        """The observation and the action of every turn so far."""
        self.newest: list[Message] = []
        for message in messages[len(self.head) :]:
            if message["role"] == "assistant":
                self.turns.append((self.newest, message))
                self.newest = []
            else:
                self.newest.append(message)

    def view(self, first: int) -> View | None:
        """Return the view of turn 0 and of all turns from ``first`` on; None where that is everything."""
        n_left_out = first - 1
        if n_left_out < 1:
            return None
        told = "1 earlier turn is" if n_left_out == 1 else f"{n_left_out} earlier turns are"
        return {"turns": [[0, 1], [first, len(self.turns)]], "summary": f"[{told} not shown]"}

    def shown(self, view: View | None) -> list[Message]:
        """Return the messages of a view."""
        return self.head + view_messages(self.turns, self.newest, view)


class Context(Protocol):
    """A rule for what of a history is shown."""

    def first(self, history: History, tools: Tools) -> int:
        """Return the first of the newest turns that are shown; up to 1, nothing is left out.

        Raises:
            ContextFull: Even without any of them it is too long.
        """
        ...


@dataclass(frozen=True)
class LastTurns:
    """Show the last ``k`` turns, and the first."""

    k: int

    def __post_init__(self) -> None:
        if self.k < 0:
            raise ValueError(f"LastTurns: expected 0 or a number of turns, got {self.k}")

    def first(self, history: History, tools: Tools) -> int:
        """Return the first of the last ``k`` turns."""
        return len(history.turns) - self.k


def estimate(messages: Sequence[Message]) -> int:
    """Return about how many tokens messages are: 4 characters each, 4 tokens a message, 1,000 an image."""
    return sum(map(_tokens, messages))


@dataclass(frozen=True)
class TokenBudget:
    """Leave out the oldest turns after the first until what is shown has at most ``n`` tokens."""

    n: int
    count: Callable[[Sequence[Message]], int] = estimate
    """The tokens of messages: an estimate, or what a tokenizer says. Tool schemas are always estimated."""

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"TokenBudget: expected a number of tokens, got {self.n}")

    def first(self, history: History, tools: Tools) -> int:
        """Return the first turn from which on everything fits.

        Raises:
            ContextFull: The first turn and the newest observation alone do not fit.
        """
        budget = self.n - len(json.dumps(list(tools))) // CHARACTERS_PER_TOKEN * bool(tools)

        def fits(first: int) -> bool:
            return self.count(history.shown(history.view(first))) <= budget

        n = len(history.turns)
        if fits(0):
            return 0
        first = bisect_left(range(n + 1), True, lo=2, key=fits) if n >= 2 else n + 1
        if first > n:
            raise ContextFull(f"the task and the newest observation alone are more than {self.n} tokens")
        return first


def _tokens(message: Message) -> int:
    content = message.get("content") or ""
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    texts: list[str] = [part["text"] for part in parts if part["type"] == "text"]
    texts += [message.get("reasoning_content") or ""]
    texts += [text for call in message.get("tool_calls", ()) for text in call["function"].values()]
    n_images: int = sum(part["type"] != "text" for part in parts)
    return 4 + -(-sum(map(len, texts)) // CHARACTERS_PER_TOKEN) + n_images * IMAGE_TOKENS
