"""Policies that keep what they were asked, and what tests of the driver look at."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from milepost.agents.core import Answer, Request
from milepost.envs.core import Action, Episode

CHOICES = ["more", "more", "more", "wait", "stop"]


def choose(request: Request) -> str:
    """Answer from the request alone."""
    return CHOICES[request.seed % len(CHOICES)]


class Recorder:
    """Answers by a function and keeps what it was asked."""

    version = 0

    def __init__(self, answer: Callable[[Request], Answer | str] = choose, seconds: float = 0.0) -> None:
        self.answer = answer
        self.seconds = seconds
        self.batches: list[list[Request]] = []
        self.forgotten: list[str] = []

    def act(self, requests: Sequence[Request]) -> list[Answer]:
        self.batches.append(list(requests))
        time.sleep(self.seconds)
        answers = [self.answer(request) for request in requests]
        return [Action(answer) if isinstance(answer, str) else answer for answer in answers]

    def forget(self, episode_ids: Sequence[str]) -> None:
        self.forgotten += episode_ids


class Held(Recorder):
    """Is inside its first act for a group until it is released."""

    def __init__(self, group: str = "g0") -> None:
        super().__init__()
        self.group = group
        self.asked = threading.Event()
        self.released = threading.Event()

    def act(self, requests: Sequence[Request]) -> list[Answer]:
        if any(request.group == self.group for request in requests):
            self.asked.set()
            self.released.wait(100)
        return super().act(requests)


class AsyncRecorder(Recorder):
    """The same, async; counts how many acts are under way at once."""

    running = 0
    most = 0

    async def act(self, requests: Sequence[Request]) -> list[Answer]:  # type: ignore[override]
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(self.seconds)
        self.running -= 1
        return super().act(requests)


def played(episodes: Sequence[Episode]) -> list[Any]:
    """Return what must be the same in two runs."""
    return [
        (e.id, e.seed, e.info, e.stop, e.last, [(t.observation, t.action, t.info.get("outcome")) for t in e.turns])
        for e in episodes
    ]


def threads_of_milepost() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("milepost")]


def press_ctrl_c() -> None:
    main = threading.main_thread().ident
    assert main
    signal.pthread_kill(main, signal.SIGINT)


def press_ctrl_c_when(waiting: Callable[[], bool]) -> None:
    def watch() -> None:
        while not waiting():
            time.sleep(0.02)
        time.sleep(0.1)  # the consumer waits again
        press_ctrl_c()

    threading.Thread(target=watch, daemon=True).start()
