"""A policy inside a scaffold and a context: it sees what these let it see, and its answers are read by them."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from milepost.agents.context import Context, History, View
from milepost.agents.core import Answer, ContextFull, Policy, Request
from milepost.agents.scaffolds import Scaffold
from milepost.envs.core import Action, Message


class Scaffolded:
    """Ask a policy through a scaffold and a context; ``act`` is async where the policy's is.

    The scaffold's text follows the system message; what the context left out is in ``Action.view``.
    """

    def __new__(cls, policy: Policy, *_: Any, **__: Any) -> Scaffolded:
        """Return one that is asked as the policy is."""
        return object.__new__(_Async if inspect.iscoroutinefunction(policy.act) else cls)

    def __init__(self, policy: Policy, scaffold: Scaffold | None = None, context: Context | None = None) -> None:
        self.policy, self.scaffold, self.context = policy, scaffold, context
        self.reference = bool(getattr(policy, "reference", False))

    @property
    def version(self) -> int:
        """The policy's."""
        return self.policy.version

    def forget(self, episode_ids: Sequence[str]) -> None:
        """Have the policy forget episodes that are over."""
        self.policy.forget(episode_ids)

    def act(self, requests: Sequence[Request]) -> Sequence[Answer] | Awaitable[Sequence[Answer]]:
        """Return one answer per request, in their order."""
        asked = [self._asked(request) for request in requests]
        answers = self.policy.act([one.request for one in asked if one.full is None])
        return self._read_later(asked, answers) if isinstance(answers, Awaitable) else self._read(asked, answers)

    async def _read_later(self, asked: Sequence[_Asked], answers: Awaitable[Sequence[Answer]]) -> Sequence[Answer]:
        return self._read(asked, await answers)

    def _asked(self, request: Request) -> _Asked:
        tools = request.tools if self.scaffold is None or self.scaffold.native else ()
        text = self.scaffold.instructions(request.tools) if self.scaffold else ""
        messages = with_instructions(request.messages, text) if text else request.messages
        view: View | None = None
        if self.context is not None:
            history = History(messages)
            try:
                view = history.view(self.context.first(history, tools))
            except ContextFull as full:
                return _Asked(request, None, full)
            messages = history.shown(view) if view else messages
        n_seen = request.n_seen if messages is request.messages else 0
        return _Asked(replace(request, messages=messages, n_seen=n_seen, tools=tools), view)

    def _read(self, asked: Sequence[_Asked], answers: Sequence[Answer]) -> Sequence[Answer]:
        if len(answers) != sum(one.full is None for one in asked):
            return answers  # the driver says what is wrong
        given = iter(answers)
        return [one.full or self._moved(next(given), one.view) for one in asked]

    def _moved(self, answer: Answer, view: View | None) -> Answer:
        if not isinstance(answer, Action):
            return answer
        move = self.scaffold.move(answer) if self.scaffold else answer.move
        return replace(answer, move=move, view=view or answer.view)


class _Async(Scaffolded):
    """The same around a policy whose ``act`` is async, which the driver asks for many episodes at once."""

    async def act(self, requests: Sequence[Request]) -> Sequence[Answer]:
        answers = super().act(requests)
        return await answers if isinstance(answers, Awaitable) else answers

    async def aclose(self) -> None:
        """Close what the policy keeps for the running event loop."""
        if (aclose := getattr(self.policy, "aclose", None)) is not None:
            await aclose()


class _Asked(NamedTuple):
    request: Request
    view: View | None = None
    full: ContextFull | None = None
    """There is no room for the request; the policy is not asked."""


def with_instructions(messages: Sequence[Message], text: str) -> list[Message]:
    """Return the messages with a text added to the system message, or as one where there is none."""
    if messages and messages[0]["role"] == "system":
        head = messages[0]
        return [{**head, "content": f"{head['content']}\n\n{text}"}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]
