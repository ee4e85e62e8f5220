"""A queue before an annotator: what is newest is asked first, in batches, and nobody waits for the answers."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from threading import Thread
from typing import Any
from weakref import WeakSet

from milepost.credit.core import Annotator
from milepost.envs.core import ContractError, Message
from milepost.sandbox.core import MachineError

Item = tuple[str, ...]
"""What one question is about: a caption, or two to compare."""
Prompt = Callable[[Item], list[Message]]
"""The chat that asks about an item."""
EXIT_S = 30.0
"""So long Python's end waits for an annotator in the background."""


class Queue:
    """Items that wait for an annotator: last in, first out, each once; beyond ``capacity`` the oldest are forgotten.

    An item waits until it was answered, so an annotator that fails, or a run that is stopped, loses no question.

    Args:
        batch: How many questions go to the annotator together.
        capacity: How many may wait; more is no error.
        every: One observation in so many is kept by ``due``.
        background: Ask in a thread; ``work`` then returns what has come since its last call and never waits. Which
            update gets an answer depends on the clock, so such a run does not repeat bit for bit. Python's end waits
            for a batch under way, ``EXIT_S`` at most.

    Source: the annotation worker of Zheng et al. 2024, arXiv 2410.23022.
    """

    def __init__(self, *, batch: int = 100, capacity: int = 10_000, every: int = 1, background: bool = False) -> None:
        for name, value in (("batch", batch), ("capacity", capacity), ("every", every)):
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        self.batch, self.capacity, self.every, self.background = batch, capacity, every, background
        self.waiting: dict[Item, None] = {}
        """Oldest first."""
        self.n_observed = 0
        self.n_forgotten = 0
        self.n_failed = 0
        """Batches that the annotator did not answer."""
        self._asked: _Asked | None = None

    def due(self) -> bool:
        """Count an observation; return whether it is one that should be annotated: the first of every ``every``."""
        self.n_observed += 1
        return (self.n_observed - 1) % self.every == 0

    def offer(self, item: Item) -> None:
        """Put an item last, unless it waits already."""
        self.waiting.setdefault(item)
        if len(self.waiting) > self.capacity:
            del self.waiting[next(iter(self.waiting))]
            self.n_forgotten += 1

    def work(self, annotator: Annotator, prompt: Prompt) -> list[tuple[Item, str]]:
        """Have the newest batch annotated; return ``[(item, answer)]``, which no longer wait.

        In the background: return what was answered since the last call, none while the annotator is still busy.
        """
        asked, self._asked = self._asked, None
        if self.background and asked is not None and asked.is_alive():
            self._asked = asked
            return []
        answers = self._taken(asked) if asked is not None else []
        if newest := list(self.waiting)[: -self.batch - 1 : -1]:
            new = _Asked(annotator, prompt, newest)
            if not self.background:
                new.run()
                return answers + self._taken(new)
            self._asked = new
            _BACKGROUND.add(new)
            new.start()
        return answers

    def join(self, timeout_s: float | None = None) -> None:
        """Wait for the annotator that answers in the background; ``work`` then returns what it said."""
        if self._asked is not None:
            self._asked.join(timeout_s)

    def state_dict(self) -> dict[str, Any]:
        """Return what waits, the questions under way among it, and the counts."""
        counts = {"observed": self.n_observed, "forgotten": self.n_forgotten, "failed": self.n_failed}
        return {"waiting": [list(item) for item in self.waiting], **counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state_dict`` returned; what is under way in the background is asked again."""
        self.waiting = dict.fromkeys(tuple(item) for item in state["waiting"])
        self.n_observed, self.n_forgotten, self.n_failed = (state[k] for k in ("observed", "forgotten", "failed"))
        self._asked = None

    def _taken(self, asked: _Asked) -> list[tuple[Item, str]]:
        if isinstance(asked.error, MachineError):
            self.n_failed += 1
        elif asked.error is not None:
            raise asked.error
        for item, _ in asked.answers:
            self.waiting.pop(item, None)
        return asked.answers


class _Asked(Thread):
    """One batch of questions and what became of it; ``run`` it here or ``start`` it beside."""

    def __init__(self, annotator: Annotator, prompt: Prompt, items: list[Item]) -> None:
        super().__init__(daemon=True, name="annotator")
        self.annotator, self.prompt, self.items = annotator, prompt, items
        self.answers: list[tuple[Item, str]] = []
        self.error: Exception | None = None

    def run(self) -> None:
        """Ask, and leave the answers or the error."""
        try:
            answers = self.annotator.annotate([self.prompt(item) for item in self.items])
            if len(answers) != len(self.items):
                told = f"expected {len(self.items)} answers, one a prompt, got {len(answers)}"
                raise ContractError(f"the annotator: {told}")
            self.answers = list(zip(self.items, answers, strict=True))
        except Exception as error:
            self.error = error


_BACKGROUND: WeakSet[_Asked] = WeakSet()


@atexit.register
def _wait_for_all() -> None:
    """Let a model come back: a thread that is inside one when Python ends would abort it."""
    for asked in list(_BACKGROUND):
        if asked.is_alive():
            asked.join(EXIT_S)
