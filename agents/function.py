"""An agent that is a Python function, sync or async: messages and tools in, a text or a message out.

    def agent(messages, tools, seed):
        return "climb"

It is given by name what it names: ``tools`` (OpenAI schemas), ``seed`` (the only source of randomness, where results
are to be the same again), ``observation`` (the newest alone) and ``episode`` (its id).
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from milepost.agents.core import Answer, ContextFull, Request
from milepost.agents.outside import read_message, sent_messages, timed, told
from milepost.envs.core import Action, ContractError
from milepost.envs.make import load_module
from milepost.envs.names import did_you_mean
from milepost.sandbox.core import MachineError

NAMED = ("tools", "seed", "observation", "episode")
FORM = f"function(messages) or function(messages, ...) with any of {', '.join(NAMED)}"


class FunctionPolicy:
    """Asks a function; one that is not async runs in a thread for every request, so that it may block.

    The function returns a text, an OpenAI message or an ``Action``. What it raises is its author's mistake and ends the
    run; only a ``MachineError`` fails the episode alone, and ``ContextFull`` ends it as ``Stop.MAX_TOKENS``.
    """

    version = 0

    def __init__(self, function: Callable[..., Any], name: str | None = None) -> None:
        """Wrap a function.

        Raises:
            ValueError: It is no function, or takes what it will not be given.
        """
        self.name = name or str(getattr(function, "__qualname__", type(function).__name__))
        self._function = function
        self._named = _named(function, self.name)
        called = function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004
        self._is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)

    async def act(self, requests: Sequence[Request]) -> Sequence[Answer]:
        """Return what the function answers to each request.

        Raises:
            ContractError: It raised an exception, or returned something else.
        """
        return await asyncio.gather(*map(self._answer, requests))

    def forget(self, episode_ids: Sequence[str]) -> None:
        """Nothing is kept."""

    async def _answer(self, request: Request) -> Answer:
        given = {
            "tools": [dict(tool) for tool in request.tools],
            "seed": request.seed,
            "observation": request.observation,
            "episode": request.episode,
        }
        kwargs = {name: given[name] for name in self._named}
        messages = sent_messages(request)
        began = time.perf_counter()
        try:
            if self._is_async:
                answer = self._function(messages, **kwargs)
            else:
                answer = await in_thread(lambda: self._function(messages, **kwargs))
            if inspect.isawaitable(answer):
                answer = await answer
        except (MachineError, ContextFull) as error:
            return error
        except (Exception, SystemExit) as error:
            raise ContractError(f"{self._where(request)}: {_told_error(error)}") from error
        seconds = time.perf_counter() - began
        try:
            return timed(self._read(answer, len(request.messages)), seconds)
        except ValueError as error:
            raise ContractError(f"{self._where(request)}: {error}") from None

    def _read(self, answer: Any, n_messages: int) -> Action:
        if isinstance(answer, str):
            return Action(answer)
        if isinstance(answer, Action):
            return answer
        if hasattr(answer, "model_dump"):  # a message of the openai package
            answer = answer.model_dump()
        if isinstance(answer, Mapping):
            return read_message(answer, n_messages)
        raise ValueError(f"expected a text, a message (dict) or an Action, got {told(answer)}")

    def _where(self, request: Request) -> str:
        return f"agent {self.name}, episode {request.episode}"


def load(spec: str) -> FunctionPolicy:
    """Return the agent of ``module:function``; the module may lie in the current folder.

    Raises:
        ValueError: There is no such module or function, or it cannot be an agent.
        gymnasium.error.DependencyNotInstalled: A package that the module imports is missing.
    """
    module_name, _, path = spec.partition(":")
    if not module_name or not path:
        raise ValueError(f"agent {spec!r}: expected module:function")
    module = load_module(module_name)
    value: Any = module
    for name in path.split("."):
        if not hasattr(value, name):
            known = [key for key in vars(module) if not key.startswith("_")] if value is module else dir(value)
            raise ValueError(f"agent {spec}: {module.__name__} has no {path!r}{did_you_mean(name, known)}")
        value = getattr(value, name)
    return FunctionPolicy(value, spec)


async def in_thread(call: Callable[[], Any]) -> Any:
    """Return what a call returns that is made in a daemon thread of its own: it may block, and holds up no exit."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if not future.done():
            future.set_result(result) if error is None else future.set_exception(error)

    def run() -> None:
        outcome: tuple[Any, BaseException | None]
        try:
            outcome = call(), None
        except BaseException as error:
            if isinstance(error, StopIteration):  # a future cannot hold it
                error = RuntimeError("StopIteration")
            outcome = None, error
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=run, name="agent-function", daemon=True).start()
    return await future


def _named(function: Callable[..., Any], name: str) -> tuple[str, ...]:
    """Return what of ``NAMED`` a function is to be given."""
    if not callable(function) or isinstance(function, type):
        what = f"the class {function.__name__}" if isinstance(function, type) else told(function)
        raise ValueError(f"agent {name}: expected a function, got {what}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        raise ValueError(f"agent {name}: its signature cannot be read; expected {FORM}") from None
    parameters = list(signature.parameters.values())
    wrong = not parameters or parameters[0].kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
    wanted = []
    for parameter in parameters[1:]:
        if parameter.kind is parameter.VAR_KEYWORD:
            wanted += [known for known in NAMED if known not in wanted]
        elif parameter.name in NAMED and parameter.kind is not parameter.POSITIONAL_ONLY:
            wanted.append(parameter.name)
        elif parameter.default is parameter.empty and parameter.kind is not parameter.VAR_POSITIONAL:
            wrong = True
    if wrong:
        raise ValueError(f"agent {name}: expected {FORM}, got {getattr(function, '__name__', 'function')}{signature}")
    return tuple(wanted)


def _told_error(error: BaseException) -> str:
    """Return an exception and the line that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    at = f" (line {frames[-1].lineno} of {frames[-1].filename.rpartition('/')[2]})" if frames else ""
    return f"{type(error).__name__}: {error}{at}"
