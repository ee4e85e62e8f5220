"""An agent behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from milepost.agents.core import Answer, ContextFull, Request
from milepost.envs.core import Usage
from milepost.envs.endpoint import ContextLength, Endpoint, Unreachable
from milepost.sandbox.core import EndpointError


class EndpointPolicy:
    """Sends each request to a model of an endpoint; the environment's tools are called natively.

    Play it with ``gather="greedy"``: then nobody waits for the slowest answer.
    """

    version = 0

    def __init__(
        self,
        endpoint: Endpoint,
        model: str,
        *,
        temperature: float | None = None,
        max_tokens: int | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        self.endpoint, self.model = endpoint, model
        self.temperature, self.max_tokens, self.extra = temperature, max_tokens, extra
        self.usage = Usage()
        """Of all answers so far; ``cost`` is the sum of those that had one."""

    async def act(self, requests: Sequence[Request]) -> list[Answer]:
        """Return one answer per request: EndpointError and ContextFull end their episode alone.

        Raises:
            Unreachable: No server is there.
            ValueError: The server refuses the key, the model or all requests.
        """
        answers = [asyncio.create_task(self._answer(request)) for request in requests]
        try:
            return await asyncio.gather(*answers)
        finally:
            for answer in answers:
                answer.cancel()

    def forget(self, episode_ids: Sequence[str]) -> None:
        """Nothing is kept."""

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        await self.endpoint.aclose()

    async def _answer(self, request: Request) -> Answer:
        try:
            action = await self.endpoint.chat(
                self.model,
                request.messages,
                tools=request.tools,
                seed=request.seed,
                temperature=self.temperature,
                max_tokens=self.max_tokens,
                extra=self.extra,
            )
        except ContextLength as error:
            return ContextFull(str(error))
        except Unreachable:
            raise
        except EndpointError as error:
            return error
        if action.usage is not None:
            self.usage = _sum(self.usage, action.usage)
        return action


def _sum(a: Usage, b: Usage) -> Usage:
    cost = b.cost if a.cost is None else a.cost if b.cost is None else a.cost + b.cost
    return Usage(a.prompt + b.prompt, a.cached + b.cached, a.completion + b.completion, a.seconds + b.seconds, cost)
