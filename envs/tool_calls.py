"""Reading the tool calls of a move, in each of the three forms in which an agent may write them.

1. Native: the JSON list of ``{"id", "name", "arguments"}`` that ``Action.move`` is for a turn with calls; the arguments
   are JSON text as the agent wrote it.
2. JSON in text: ``{"name": "find", "arguments": {"word": "x"}}`` or a list of such objects. ``parameters`` is read
   for ``arguments``, and arguments may be a JSON text in turn.
3. A plain text action: ``find(word="x", n=2)``, or several one after the other. Values are JSON, or Python's strings
   in single quotes, True, False and None.

Forms 2 and 3 are the whole text, or stand in fenced blocks or ``<tool_call>`` tags, and then the text around them does
not matter. Any other text holds no call.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeGuard

from milepost.envs.tool_schema import told

MAX_CHARS = 200_000
"""A longer move is not read."""
MAX_DEPTH = 50
FORMS = 'find(word="x", n=2) or {"name": "find", "arguments": {"word": "x", "n": 2}}'
_BLOCK = re.compile(r"```[ \t]*\w*[ \t]*\n(.*?)(?:```|\Z)|<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
_START = re.compile(r"\s*(?:[\[{]|[A-Za-z_][\w-]*\()")
_CALL = re.compile(r"([A-Za-z_][\w-]*)\(")
_KEY = re.compile(r"([A-Za-z_]\w*)\s*=(?!=)")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?(?![\w.])")
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"' + r"|'[^'\\]*(?:\\.[^'\\]*)*'", re.DOTALL)
_WORD = re.compile(r"(true|false|null|True|False|None)\b")
_WORDS = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}
_QUOTES = re.compile(r"""\\(.)|(")""", re.DOTALL)
_SPACE = re.compile(r"\s*")


@dataclass
class ReadCall:
    """One call as it was read."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    id: str = ""
    problem: str = ""
    """Why it could not be read; then name and arguments are what is known of them."""


@dataclass
class ReadMove:
    """The calls of a move, in order."""

    calls: list[ReadCall] = field(default_factory=list)
    native: bool = False
    said: str | None = None
    """The text, where it holds no call and no try at one."""


def read_move(move: str) -> ReadMove:
    """Return the calls of a move. It never raises: a call that cannot be read says why."""
    if len(move) > MAX_CHARS:
        problem = f"the answer is too long: expected at most {MAX_CHARS} characters, got {len(move)}"
        return _native_too_long(move, problem) or ReadMove([ReadCall("", problem=problem)])
    if _START.match(move):
        value, _ = _load(move)
        if _is_native(value):
            return ReadMove([_native(call) for call in value], native=True)
        return ReadMove(_read_text(move))
    blocks = [a or b for a, b in _BLOCK.findall(move)]
    calls = [call for block in blocks if _START.match(block) for call in _read_text(block)]
    return ReadMove(calls) if calls else ReadMove(said=move)


def _native_too_long(move: str, problem: str) -> ReadMove | None:
    """Every call of a native move needs a result by its id, also where the whole is too long to be read."""
    value, _ = _load(move) if move.startswith('[{"id": ') else (None, "")
    if not _is_native(value):
        return None
    return ReadMove([ReadCall(call["name"], id=call["id"], problem=problem) for call in value], native=True)


def _is_native(value: Any) -> TypeGuard[list[dict[str, Any]]]:
    keys = ("id", "name", "arguments")
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(call, dict) and all(isinstance(call.get(key), str) for key in keys) for call in value)
    )


def _native(call: dict[str, Any]) -> ReadCall:
    arguments, problem = _arguments(call["name"], call["arguments"])
    return ReadCall(call["name"], arguments, call["id"], problem)


def _read_text(text: str) -> list[ReadCall]:
    """Return the calls of a text that is JSON or a plain action."""
    if _CALL.match(text.strip()):
        return _Plain(text.strip()).calls()
    value, problem = _load(text)
    if problem:
        return [ReadCall("", problem=problem)]
    if isinstance(value, dict):
        return [_read_object(value)]
    if not value:
        return [ReadCall("", problem="the list of calls is empty")]
    return [_read_object(item) for item in value]


def _read_object(value: Any) -> ReadCall:
    keys = [key for key in ("arguments", "parameters") if isinstance(value, dict) and key in value]
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not (keys or len(value) == 1):
        got = f"the keys {', '.join(value)[:80]!r}" if isinstance(value, dict) else told(value)
        return ReadCall("", problem=f'a call is an object with the keys "name" and "arguments", got {got}')
    arguments, problem = _arguments(value["name"], value[keys[0]] if keys else {})
    return ReadCall(value["name"], arguments, problem=problem)


def _arguments(name: str, written: Any) -> tuple[dict[str, Any], str]:
    """Return arguments and no problem, or none and the problem."""
    value, problem = written, ""
    if isinstance(written, str):
        value, problem = _load(written) if written.strip() else ({}, "")
    if not problem and not isinstance(value, dict):
        problem = f'expected an object such as {{"word": "x"}}, got {told(value)}'
    return ({}, f"arguments of {name[:64]!r}: {problem}") if problem else (value, "")


def _load(text: str) -> tuple[Any, str]:
    """Return the value of a JSON text and no problem, or None and where it is broken."""
    try:
        return json.loads(text, parse_constant=_refuse, strict=False), ""
    except json.JSONDecodeError as error:
        return None, f"broken JSON at line {error.lineno}, column {error.colno}: {error.msg}"
    except RecursionError:
        return None, "broken JSON: nested too deeply"
    except ValueError as error:  # NaN, or an integer of thousands of digits
        return None, f"broken JSON: {str(error).split(';')[0]}"


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


class _Broken(Exception):
    pass


class _Plain:
    """A scanner of plain text actions."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def calls(self) -> list[ReadCall]:
        """Return the calls, or one that says where the text is broken."""
        found: list[ReadCall] = []
        name = ""
        try:
            while self.at < len(self.text):
                start = self._match(_CALL)
                if start is None:
                    raise self._broken("another call or the end")
                name = start[1]
                found.append(ReadCall(name, self._arguments()))
                self._skip(";")
        except _Broken as error:
            return [ReadCall(name, problem=str(error))]
        return found

    def _arguments(self) -> dict[str, Any]:
        arguments: dict[str, Any] = {}
        while not self._skip(")"):
            key = self._match(_KEY)
            if key is None:
                raise self._broken('name=value, such as word="x", or )')
            if key[1] in arguments:
                raise _Broken(f"argument {key[1]} is given twice")
            arguments[key[1]] = self._value(0)
            if not self._skip(",") and self.text[self.at : self.at + 1] != ")":
                raise self._broken(", or )")
        return arguments

    def _value(self, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise _Broken("nested too deeply")
        self._skip("")
        if self._skip("["):
            return self._items("]", lambda: self._value(depth + 1))
        if self._skip("{"):
            return dict(self._items("}", lambda: self._pair(depth + 1)))
        if text := self._match(_STRING):
            return self._string(text[0])
        if word := self._match(_WORD):
            return _WORDS[word[0]]
        if number := self._match(_NUMBER):
            value, problem = _load(number[0])
            if problem:
                raise _Broken(problem)
            return value
        raise self._broken("a value: a text in quotes, a number, true, false, null, a list or an object")

    def _items(self, end: str, read: Any) -> list[Any]:
        items: list[Any] = []
        while not self._skip(end):
            items.append(read())
            if not self._skip(",") and self.text[self.at : self.at + 1] != end:
                raise self._broken(f", or {end}")
        return items

    def _pair(self, depth: int) -> tuple[str, Any]:
        key = self._match(_STRING)
        if key is None or not self._skip(":"):
            raise self._broken('"key": value, or }')
        return self._string(key[0]), self._value(depth)

    def _string(self, quoted: str) -> str:
        if quoted[0] == "'":
            quoted = f'"{_QUOTES.sub(_requoted, quoted[1:-1])}"'
        value, problem = _load(quoted)
        if problem:
            raise _Broken(f"the text before character {self.at + 1} has an escape that JSON does not know")
        return str(value)

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self.text, self.at)
        if found:
            self.at = found.end()
            self._skip("")
        return found

    def _skip(self, sign: str) -> bool:
        """Pass a sign, if it is there, and the white space after it."""
        there = self.text.startswith(sign, self.at)
        if there:
            space = _SPACE.match(self.text, self.at + len(sign))
            assert space is not None
            self.at = space.end()
        return there

    def _broken(self, wanted: str) -> _Broken:
        got = repr(self.text[self.at : self.at + 20]) if self.at < len(self.text) else "the end"
        return _Broken(f"broken call at character {self.at + 1}: expected {wanted}, got {got}")


def _requoted(found: re.Match[str]) -> str:
    if found[2]:
        return '\\"'
    return "'" if found[1] == "'" else found[0]
