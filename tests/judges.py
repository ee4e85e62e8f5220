"""Annotators that follow a rule, for tests of what is done with their answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from threading import Event

from milepost.envs.core import Message
from milepost.sandbox.core import EndpointError


class Judge:
    """Answers each chat by a rule over the texts that it quotes, and remembers what it was asked."""

    def __init__(self, rule: Callable[..., str]) -> None:
        self.rule = rule
        self.asked: list[list[str]] = []
        self.batches: list[int] = []

    def annotate(self, prompts: Sequence[Sequence[Message]]) -> list[str]:
        texts = [re.findall("<<<\n(.*?)\n>>>", chat[-1]["content"], re.DOTALL) for chat in prompts]
        self.asked += texts
        self.batches.append(len(texts))
        return [self.rule(*text) for text in texts]


class Broken:
    """An endpoint that is down, for the first ``n`` batches."""

    def __init__(self, judge: Judge, n: int = 10**9) -> None:
        self.judge = judge
        self.n = n

    def annotate(self, prompts: Sequence[Sequence[Message]]) -> list[str]:
        self.n -= 1
        if self.n >= 0:
            raise EndpointError("no answer")
        return self.judge.annotate(prompts)


class Slow:
    """An annotator that answers when it is let go."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.go = Event()

    def annotate(self, prompts: Sequence[Sequence[Message]]) -> list[str]:
        assert self.go.wait(20)
        return self.judge.annotate(prompts)


def likes(*words: str) -> Judge:
    """A judge that says FOO to a caption with one of the words."""
    return Judge(lambda caption: "So, FOO" if any(word in caption for word in words) else "So, BAR")


def larger() -> Judge:
    """A judge that prefers the caption with the larger number."""

    def rule(first: str, second: str) -> str:
        a, b = (int(re.findall(r"\d+", text)[0]) for text in (first, second))
        return f'"best_description": {1 if a > b else 2 if b > a else None}'

    return Judge(rule)
