"""Scaffolds: what is added to the system message, which tools are offered natively, and what of an answer is the move.

A scaffold keeps ``Action.text`` whole; it reads the move from it. Native calls are always the move, whatever the
scaffold: an agent that makes them means them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from milepost.envs.core import Action
from milepost.envs.make import did_you_mean
from milepost.envs.tools import describe

Tools = Sequence[dict[str, Any]]
EXAMPLE = 'name(text="some words", number=2)'


class Scaffold(Protocol):
    """A form in which an agent is asked and its answers are read."""

    name: ClassVar[str]
    native: ClassVar[bool]
    """Whether the tools are offered as such; else they are described as text."""

    def instructions(self, tools: Tools) -> str:
        """Return what is added to the system message."""
        ...

    def move(self, action: Action) -> str | None:
        """Return what ``env.step`` receives of an answer."""
        ...


class Act:
    """The whole answer is the move; tools are described as text, and a call is written as text."""

    name: ClassVar[str] = "act"
    native: ClassVar[bool] = False

    def instructions(self, tools: Tools) -> str:
        """Describe the tools, where there are any."""
        if not tools:
            return ""
        return f"To use a tool, answer with its call alone, such as {EXAMPLE}. These are the tools:\n{describe(tools)}"

    def move(self, action: Action) -> str | None:
        """Return the whole answer."""
        return action.move


class ToolCalls:
    """Tools are offered and called natively; an answer without a call is a move as it stands."""

    name: ClassVar[str] = "tools"
    native: ClassVar[bool] = True

    def instructions(self, tools: Tools) -> str:
        """Add nothing: the endpoint tells the tools."""
        return ""

    def move(self, action: Action) -> str | None:
        """Return the calls, or the text where there are none."""
        return action.move


_ACTION = re.compile(r"^[ \t>*#_]*Action(?: \d+)?[*_]*:[*_]*", re.IGNORECASE | re.MULTILINE)
_INLINE_ACTION = re.compile(r"\bAction(?: \d+)?[*_]*:[*_]*")
_OBSERVATION = re.compile(r"^[ \t>*#_]*Observation(?: \d+)?[*_]*:", re.IGNORECASE | re.MULTILINE)


class ReAct:
    """A thought, then an action: the move is what follows the last ``Action:``.

    Without one it is the whole answer, and the environment says what it makes of that. An answer that goes on with an
    observation of its own making ends there, as the paper's stop sequence ends it.

    Source: Yao et al. 2023, arXiv 2210.03629. Differs: no examples in the prompt.
    """

    name: ClassVar[str] = "react"
    native: ClassVar[bool] = False

    def instructions(self, tools: Tools) -> str:
        """Ask for a thought and an action; describe the tools, where there are any."""
        form = "Answer in this form:\nThought: what you know, and what to do next\nAction: what you do now, one action"
        if not tools:
            return form
        return f"{form}\n\nA tool's call is an action, such as {EXAMPLE}. These are the tools:\n{describe(tools)}"

    def move(self, action: Action) -> str | None:
        """Return what follows the last ``Action:``, or the whole answer."""
        if action.calls:
            return action.move
        text = action.text
        label = _ACTION if _ACTION.search(text) else _INLINE_ACTION
        if (first := label.search(text)) is None:
            return action.move
        if made_up := _OBSERVATION.search(text, first.end()):
            text = text[: made_up.start()]
        *_, last = label.finditer(text)
        return text[last.end() :].strip()


SCAFFOLDS: dict[str, type[Scaffold]] = {kind.name: kind for kind in (Act, ReAct, ToolCalls)}


def scaffold(name: str) -> Scaffold:
    """Return the scaffold of a name.

    Raises:
        ValueError: There is none.
    """
    if name not in SCAFFOLDS:
        raise ValueError(f"no scaffold {name!r}{did_you_mean(name, SCAFFOLDS)}; there are: {', '.join(SCAFFOLDS)}")
    return SCAFFOLDS[name]()
