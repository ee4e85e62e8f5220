"""Python functions as the tools of an agent: their schemas, and the calls of a move run and answered.

A tool is a function, or a method bound to its environment, with type hints and a docstring. The agent calls it
natively, as JSON in text, or as a plain text action (see ``tool_calls``): the three give the same results.

    tools = Tools([self.find, self.reply])
    results = tools.run(move)
    return results.observation(), ...
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from milepost.envs.core import ContractError, Observation
from milepost.envs.names import did_you_mean
from milepost.envs.tool_calls import FORMS, ReadCall, read_move
from milepost.envs.tool_schema import Tool, ToolError

__all__ = ["Result", "Results", "ToolError", "Tools", "describe"]

Schema = dict[str, Any]


class Result(NamedTuple):
    """What one call gave."""

    id: str
    """The call's; empty where the call was text."""
    name: str
    """Of the tool as the agent wrote it; empty where no name could be read."""
    arguments: dict[str, Any]
    """As JSON values; empty where they did not fit the tool."""
    text: str
    ok: bool
    """Whether the tool ran and raised no ``ToolError``."""


@dataclass(frozen=True)
class Results:
    """One result per call, in the order of the calls; a sequence."""

    results: tuple[Result, ...]
    native: bool = False
    """Whether the calls were native ones, which are answered by id."""
    said: str | None = None
    """The agent's text, where it holds no call and no try at one: then the one result says so. An environment with
    somebody to talk to answers this text instead."""

    def __len__(self) -> int:
        return len(self.results)

    def __iter__(self) -> Iterator[Result]:
        return iter(self.results)

    def __getitem__(self, place: int) -> Result:
        return self.results[place]

    @property
    def ok(self) -> bool:
        """Whether every call was."""
        return all(result.ok for result in self.results)

    def observation(self, text: str | None = None) -> Observation:
        """Return the results as an observation in the form of the calls, with what else happened as ``text``."""
        if self.native:
            answers = [{"id": result.id, "text": result.text} for result in self.results]
            return {"results": answers} | ({"text": text} if text else {})
        if len(self.results) == 1:
            lines = [self.results[0].text]
        else:
            lines = [f"{i}. {result.name or '?'}: {result.text}" for i, result in enumerate(self.results, 1)]
        return "\n\n".join(["\n".join(lines), *([text] if text else [])])


class Tools:
    """The tools of an environment, which shows ``schemas`` as its attribute ``tools``.

    Args:
        functions: Each becomes the tool of its name.
        max_calls: So many calls of a turn are run; what is beyond is answered only.

    Raises:
        ValueError: A schema cannot be built (which function, which parameter, what was expected), or two have one name.
    """

    def __init__(self, functions: Sequence[Callable[..., Any]], max_calls: int = 64) -> None:
        self._tools: dict[str, Tool] = {}
        for tool in map(Tool, functions):
            if tool.name in self._tools:
                raise ValueError(f"tool {tool.name}: expected a name of its own, got two functions with it")
            self._tools[tool.name] = tool
        self._max_calls = max_calls

    @property
    def schemas(self) -> list[Schema]:
        """The OpenAI tool schemas, in the order of the functions."""
        return [tool.schema for tool in self._tools.values()]

    def run(self, move: str, over: Callable[[], bool] | None = None) -> Results:
        """Run the calls of a move one after the other; the agent's mistakes become results that say what was wrong.

        Args:
            move: What ``env.step`` received.
            over: Asked before each call but the first: whether the episode has ended and the rest is not run.

        Raises:
            ContractError: A tool returned something that is neither a text nor plain JSON.
            Exception: What a tool raised, unless it is a ``ToolError``.
        """
        read = read_move(move)
        if not read.calls:
            text = f"No tool was called. Expected a call, such as {FORMS}; {self._there_are()}."
            return Results((Result("", "", {}, text, False),), said=read.said)
        results = []
        for i, call in enumerate(read.calls):
            if i >= self._max_calls:
                refusal = f"Not run: a turn has at most {self._max_calls} calls."
            elif i and over is not None and over():
                refusal = "Not run: a call before it ended the task."
            else:
                results.append(self._run(call))
                continue
            results.append(Result(call.id, call.name, {}, refusal, False))
        return Results(tuple(results), read.native)

    def _run(self, call: ReadCall) -> Result:
        tool, arguments = self._tools.get(call.name), {}
        if call.problem:
            expected = signature(tool.schema) if tool else f"a call, such as {FORMS}; {self._there_are()}"
            text, ok = f"Not run: {call.problem}. Expected {expected}.", False
        elif tool is None:
            maybe = did_you_mean(call.name, self._tools)
            text, ok = f"No tool {call.name[:64]!r}{maybe}; {self._there_are()}.", False
        else:
            try:
                given = tool.read(call.arguments)
                arguments = call.arguments
                text, ok = _text(tool.name, tool.function(**given)), True
            except ToolError as error:
                text, ok = str(error), False
        return Result(call.id, call.name, arguments, text, ok)

    def _there_are(self) -> str:
        return f"the tools are: {', '.join(self._tools) or 'none'}"


def describe(schemas: Sequence[Mapping[str, Any]]) -> str:
    """Return the tools as text for an agent without native calls: a line each, and one for each parameter's meaning."""
    lines = []
    for schema in schemas:
        about = " ".join(str(schema["function"].get("description", "")).split())
        lines.append(f"{signature(schema)}: {about}")
        for name, parameter in _parameters(schema).get("properties", {}).items():
            if "description" in parameter:
                lines.append(f"    {name}: {parameter['description']}")
    return "\n".join(lines)


def signature(schema: Mapping[str, Any]) -> str:
    """Return a tool's name and parameters, such as ``find(word: string, n: integer = 1)``."""
    parameters = _parameters(schema)
    parts = []
    for name, parameter in parameters.get("properties", {}).items():
        default = ""
        if name not in parameters.get("required", ()):
            default = f" = {json.dumps(parameter['default'])}" if "default" in parameter else " (optional)"
        parts.append(f"{name}: {_kind(parameter)}{default}")
    return f"{schema['function']['name']}({', '.join(parts)})"


def _parameters(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the parameters of a tool; a schema that is not ours may leave them out where there are none."""
    parameters: Mapping[str, Any] = schema["function"].get("parameters") or {}
    return parameters


def _kind(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema["enum"])
    if "anyOf" in schema:
        return " | ".join(map(_kind, schema["anyOf"]))
    if "items" in schema:
        return f"list of {_kind(schema['items'])}"
    if "properties" in schema:
        return "{" + ", ".join(f"{key}: {_kind(value)}" for key, value in schema["properties"].items()) + "}"
    return str(schema.get("type", "any"))


def _text(name: str, value: Any) -> str:
    """Return what a tool returned as text: a text as it is, None as ``done``, all else as compact JSON."""
    if isinstance(value, str):
        return value
    if value is None:
        return "done"
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ContractError(f"tool {name}: expected a text or plain JSON as its result: {error}") from None
