"""A Python function as a tool: its JSON schema, and the reading of arguments by its type hints.

Types: ``str``, ``int``, ``float``, ``bool``, ``Literal``, ``Enum`` (by value), ``list[T]``, ``dict[str, T]``,
``TypedDict``, dataclasses, and unions of these with each other and with None. JSON types are strict: ``"3"`` and
``3.0`` are no integers and ``1`` is no boolean; only an integer where a float is expected is taken, as a float. Numbers
are finite, integers have 64 bits, texts no half surrogate pairs.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, Literal, get_args, get_origin, get_type_hints, is_typeddict

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_INT_BOUND = 2**63
_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
_KINDS = {"string": "a text", "integer": "an integer", "number": "a number"}
_KINDS |= {"boolean": "true or false", "null": "null", "object": "an object"}
_SECTION = re.compile(r"^\s*(Args|Arguments|Parameters|Returns|Raises|Yields|Examples?|Notes?):\s*$")
_ARGUMENT = re.compile(r"^(\s+)\**(\w+)(?:\s*\([^)]*\))?:\s*(.*)$")
_LONE = re.compile("[\ud800-\udfff]")


class ToolError(Exception):
    """The agent's mistake, raised by a tool: its text is the call's result."""


class Tool:
    """One function, its schema, and how its arguments are read; a ``ValueError`` says why there is no schema."""

    def __init__(self, function: Callable[..., Any]) -> None:
        name = getattr(function, "__name__", None) or repr(function)
        if not callable(function) or not NAME.fullmatch(name):
            raise ValueError(f"tool {name}: expected a function with a name of its own (letters, digits, _ and -)")
        if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
            raise ValueError(f"tool {name}: expected a plain function, got one that is async or a generator")
        about, texts = _docstring(name, inspect.getdoc(function) or "")
        try:
            hints = get_type_hints(function)
        except Exception as error:
            raise ValueError(f"tool {name}: its type hints cannot be read: {error}") from None
        self.name: str = name
        self.function = function
        self.hints: dict[str, Any] = {}
        self.required: list[str] = []
        properties: dict[str, Any] = {}
        for parameter in inspect.signature(function).parameters.values():
            where = f"tool {name}: parameter {parameter.name!r}"
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
                raise ValueError(f"{where}: expected one that is given by name, got {str(parameter).split(':')[0]!r}")
            if parameter.name not in hints:
                raise ValueError(f"{where}: expected a type hint, got none")
            self.hints[parameter.name] = hint = hints[parameter.name]
            properties[parameter.name] = schema = schema_of(hint, where)
            if text := texts.pop(parameter.name, ""):
                schema["description"] = text
            if parameter.default is parameter.empty:
                self.required.append(parameter.name)
            elif type(parameter.default) in (str, int, float, bool):
                schema["default"] = parameter.default
        if texts:
            raise ValueError(f"tool {name}: its docstring describes {next(iter(texts))!r}, which is no parameter of it")
        parameters = _object(properties, self.required)
        described = {"name": name, "description": about, "parameters": parameters}
        self.schema: dict[str, Any] = {"type": "function", "function": described}

    def read(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments as the function takes them.

        Raises:
            ToolError: Each that is missing, unknown, or of another type, with what was expected and what was got.
        """
        found, wrong = _fields(arguments, self.hints, self.required, "", "argument")
        if wrong:
            there_are = ", ".join(f"{k}: {expected(hint)}" for k, hint in self.hints.items()) or "none"
            raise ToolError(f"{self.name} was not called: {'; '.join(wrong)}. Its arguments are: {there_are}.")
        return found


def schema_of(hint: Any, where: str, depth: int = 0) -> dict[str, Any]:
    """Return the JSON schema of a type hint.

    Raises:
        ValueError: There is none; ``where`` begins the sentence.
    """
    origin, args = get_origin(hint), get_args(hint)
    below = depth + 1
    if depth > 16:
        raise ValueError(f"{where}: expected a type of finite depth, got one that contains itself")
    if any(hint is kind for kind in _PLAIN):
        return {"type": _PLAIN[hint]}
    if origin is Literal or (isinstance(hint, type) and issubclass(hint, enum.Enum)):
        values: list[Any] = list(args) if origin is Literal else [m.value for m in hint]
        if values and all(type(value) in _PLAIN for value in values):
            kinds = {_PLAIN[type(value)] for value in values}
            return ({"type": kinds.pop()} if len(kinds) == 1 else {}) | {"enum": values}
    elif origin in (typing.Union, types.UnionType):
        return {"anyOf": [schema_of(arg, where, below) for arg in args]}
    elif origin is list:
        return {"type": "array", "items": schema_of(args[0], where, below)}
    elif origin is dict and args[0] is str:
        return {"type": "object", "additionalProperties": schema_of(args[1], where, below)}
    elif is_typeddict(hint) or (isinstance(hint, type) and dataclasses.is_dataclass(hint)):
        hints, required = _members(hint)
        return _object({k: schema_of(h, f"{where}, field {k!r}", below) for k, h in hints.items()}, required)
    raise ValueError(
        f"{where}: expected str, int, float, bool, Literal, Enum, list[T], dict[str, T], a TypedDict, a dataclass or "
        f"a union of these, got {getattr(hint, '__name__', hint) if origin is None else hint}"
    )


def expected(hint: Any) -> str:
    """Return in words what a type hint expects."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(expected(arg) for arg in args)
    if origin is list:
        return f"a list (of {expected(args[0])})"
    schema = schema_of(hint, "")
    if "enum" in schema:
        return "one of " + ", ".join(_literal(value) for value in schema["enum"])
    if "properties" in schema:
        return f"an object with {', '.join(schema['properties'])}"
    return _KINDS[schema["type"]]


def told(value: Any) -> str:
    """Return in a few words what a JSON value is."""
    if isinstance(value, str):
        return f"the text {_literal(value)}"
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "an object"
    if isinstance(value, int) and abs(value) >= _INT_BOUND:
        return "a number of more than 64 bits"
    return _literal(value)


def did_you_mean(name: str, known: Mapping[str, Any]) -> str:
    """Return `` (did you mean 'x'?)`` where a known name is close, else nothing."""
    close = get_close_matches(name[:64], list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _literal(value: Any) -> str:
    if isinstance(value, str):
        return repr(value) if len(value) <= 60 else f"{value[:40]!r}... ({len(value)} characters)"
    return "null" if value is None else str(value).lower()


def _read(value: Any, hint: Any, at: str) -> Any:
    """Return a JSON value as a type hint has it, or raise ``ToolError`` with the place, the expected and the got."""
    origin, args = get_origin(hint), get_args(hint)
    kind = type(value)
    if origin in (typing.Union, types.UnionType):
        for arg in sorted(args, key=lambda arg: arg is float):  # an integer stays one where it may
            try:
                return _read(value, arg, at)
            except ToolError:
                continue
    elif origin is Literal:
        if any(kind is type(arg) and value == arg for arg in args):
            return value
    elif origin is list and kind is list:
        return [_read(item, args[0], f"{at}[{i}]") for i, item in enumerate(value)]
    elif origin is dict and kind is dict:
        return {_read(k, str, f"a key of {at}"): _read(v, args[1], f"{at}[{_literal(k)}]") for k, v in value.items()}
    elif isinstance(hint, type) and issubclass(hint, enum.Enum):
        for member in hint:
            if kind is type(member.value) and value == member.value:
                return member
    elif hint not in _PLAIN and origin is None and kind is dict:
        found, wrong = _fields(value, *_members(hint), f"{at}.", "field")
        if wrong:
            raise ToolError("; ".join(wrong))
        return found if is_typeddict(hint) else hint(**found)
    elif hint is str and kind is str:
        if not _LONE.search(value):
            return value
        raise ToolError(f"{at}: expected a text of whole characters, got half a surrogate pair")
    elif (hint is int or hint is float) and kind is int:
        if abs(value) < _INT_BOUND:
            return hint(value)
    elif kind is hint and (kind is not float or math.isfinite(value)):
        return value
    raise ToolError(f"{at}: expected {expected(hint)}, got {told(value)}")


def _fields(
    values: Mapping[str, Any], hints: Mapping[str, Any], required: list[str], at: str, noun: str
) -> tuple[dict[str, Any], list[str]]:
    """Return the values that fit, and a sentence for each that does not."""
    found, wrong = {}, []
    for key, value in values.items():
        if key not in hints:
            wrong.append(f"unexpected {noun} {at}{_literal(key)}{did_you_mean(key, hints)}")
            continue
        try:
            found[key] = _read(value, hints[key], f"{at}{key}")
        except ToolError as error:
            wrong.append(str(error))
    wrong += [f"missing {noun} {at}{key}: expected {expected(hints[key])}" for key in required if key not in values]
    return found, wrong[:5] + ([f"and {len(wrong) - 5} more"] if len(wrong) > 5 else [])


def _members(hint: Any) -> tuple[dict[str, Any], list[str]]:
    """Return the fields of a TypedDict or dataclass, and which of them are required."""
    hints = get_type_hints(hint)
    if is_typeddict(hint):
        marks = {name: get_origin(mark) for name, mark in get_type_hints(hint, include_extras=True).items()}
        keys = {
            key for key in hint.__required_keys__ if marks[key] is not typing.NotRequired
        }  # missed in texts of hints
        return hints, [name for name in hints if name in keys or marks[name] is typing.Required]
    missing = dataclasses.MISSING
    fields = [field for field in dataclasses.fields(hint) if field.init]
    required = [field.name for field in fields if field.default is missing and field.default_factory is missing]
    return {field.name: hints[field.name] for field in fields}, required


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def _docstring(name: str, text: str) -> tuple[str, dict[str, str]]:
    """Return what a docstring says before its sections, and what ``Args:`` says of each parameter."""
    about: list[str] = []
    texts: dict[str, str] = {}
    section, current = "", ""
    for line in text.splitlines():
        if found := _SECTION.match(line):
            section = found[1]
        elif not section:
            about.append(line.strip())
        elif section in ("Args", "Arguments", "Parameters"):
            entry = _ARGUMENT.match(line)
            if entry and len(entry[1]) <= 4:
                current = entry[2]
                texts[current] = entry[3].strip()
            elif current:
                texts[current] = f"{texts[current]} {line.strip()}".strip()
    described = "\n".join(about).strip()
    if not described:
        raise ValueError(f"tool {name}: expected a docstring whose first sentence tells the agent what it does")
    return described, texts
