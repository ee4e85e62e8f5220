"""Functions as tools: their schemas, and the three forms in which an agent calls them."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypedDict

import pytest
from tool_env import ShopEnv, native

from milepost.envs.core import ContractError, Episode
from milepost.envs.hooks import TurnHooks
from milepost.envs.tools import ToolError, Tools, describe


class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"


class Parcel(TypedDict):
    to: str
    kg: NotRequired[float]


@dataclass
class Box:
    side: int
    lid: bool = True


def pack(
    word: str,
    n: int,
    kg: float,
    lid: bool,
    size: Size,
    tags: list[str],
    sizes: dict[str, int],
    parcel: Parcel,
    box: Box,
    kind: Literal["a", "b"] = "b",
    note: str | None = None,
) -> dict[str, Any]:
    """Pack it.

    It is packed at once.

    Args:
        word: What is
            written on it.
        n: How many.

    Returns:
        What was packed.
    """
    return {"kg": kg, "size": size.name, "box": box.side, "lid": box.lid, "kind": kind, "note": note}


GOOD: dict[str, Any] = {"word": "x", "n": 2, "kg": 3, "lid": True, "size": "l", "tags": ["u"], "sizes": {"v": 1}}
GOOD |= {"parcel": {"to": "y"}, "box": {"side": 4}}


def in_text(*calls: tuple[str, dict[str, Any]]) -> str:
    written = [{"name": name, "arguments": arguments} for name, arguments in calls]
    return f"I do this:\n```json\n{json.dumps(written if len(written) > 1 else written[0])}\n```\nand that is all."


def plain(*calls: tuple[str, dict[str, Any]]) -> str:
    return "\n".join(f"{name}({', '.join(f'{k}={v!r}' for k, v in a.items())})" for name, a in calls)


def test_a_function_becomes_the_schema_of_its_hints_and_its_docstring():
    (schema,) = Tools([pack]).schemas
    function = schema["function"]
    parameters = function["parameters"]
    assert (schema["type"], function["name"]) == ("function", "pack")
    assert function["description"] == "Pack it.\n\nIt is packed at once."
    assert parameters["required"] == ["word", "n", "kg", "lid", "size", "tags", "sizes", "parcel", "box"]
    assert parameters["additionalProperties"] is False
    box = {"side": {"type": "integer"}, "lid": {"type": "boolean"}}
    parcel = {"to": {"type": "string"}, "kg": {"type": "number"}}
    closed = {"additionalProperties": False}
    assert parameters["properties"] == {
        "word": {"type": "string", "description": "What is written on it."},
        "n": {"type": "integer", "description": "How many."},
        "kg": {"type": "number"},
        "lid": {"type": "boolean"},
        "size": {"type": "string", "enum": ["s", "l"]},
        "tags": {"type": "array", "items": {"type": "string"}},
        "sizes": {"type": "object", "additionalProperties": {"type": "integer"}},
        "parcel": {"type": "object", "properties": parcel, "required": ["to"], **closed},
        "box": {"type": "object", "properties": box, "required": ["side"], **closed},
        "kind": {"type": "string", "enum": ["a", "b"], "default": "b"},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    }


def test_arguments_reach_the_function_as_the_types_of_its_hints():
    result = Tools([pack]).run(native(("1", "pack", GOOD)).move or "")[0]
    assert result.text == '{"kg":3.0,"size":"LARGE","box":4,"lid":true,"kind":"b","note":null}'
    assert (result.ok, result.arguments) == (True, GOOD)


def test_a_schema_that_cannot_be_built_names_function_parameter_and_what_was_expected():
    def bare(word: str, n) -> None:  # type: ignore[no-untyped-def]
        """Do it."""

    def stars(*words: str) -> None:
        """Do it."""

    def keys(**words: str) -> None:
        """Do it."""

    def first(word: str, /) -> None:
        """Do it."""

    def odd(when: list[set[int]]) -> None:
        """Do it."""

    def loose(words: list) -> None:  # type: ignore[type-arg]
        """Do it."""

    def silent(word: str) -> None: ...

    def stale(word: str) -> None:
        """Do it.

        Args:
            wrod: What to do.
        """

    async def later(word: str) -> None:
        """Do it."""

    for function, sentence in {
        bare: "tool bare: parameter 'n': expected a type hint, got none",
        stars: "tool stars: parameter 'words': expected one that is given by name, got '*words'",
        keys: "tool keys: parameter 'words': expected one that is given by name, got '**words'",
        first: "tool first: parameter 'word': expected one that is given by name",
        odd: "tool odd: parameter 'when': expected str, int, float, bool, Literal, Enum, list[T]",
        loose: "tool loose: parameter 'words': expected str, int, float, bool, Literal, Enum, list[T]",
        silent: "tool silent: expected a docstring",
        stale: "tool stale: its docstring describes 'wrod', which is no parameter of it",
        later: "tool later: expected a plain function",
        (lambda: 1): "expected a function with a name of its own",
    }.items():
        with pytest.raises(ValueError) as error:
            Tools([function])
        assert sentence in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="two functions"):
        Tools([pack, pack])


TURNS: list[list[tuple[str, dict[str, Any]]]] = [
    [("look", {})],
    [("look", {"below": 5}), ("buy", {"item": "pen"})],
    [("buy", {"item": "pem"})],
    [("buy", {"item": "ink", "n": "2"})],
    [("buy", {"item": "ink", "n": 0})],
    [("sell", {"item": "ink"})],
    [("buy", {})],
    [("buy", {"item": "ink", "m": 2, "wrap": None}), ("buy", {"item": "ink", "n": 2, "wrap": True})],
    [("pay", {}), ("buy", {"item": "desk"})],
]


def results_of(episode: Episode) -> list[list[str]]:
    """Return the texts of the results, turn by turn, whatever their form."""
    found = []
    for calls, seen in zip(TURNS, [*(t.observation for t in episode.turns[1:]), episode.last], strict=True):
        if isinstance(seen, dict):
            assert seen["text"] == "The shop closes soon."
            found.append([result["text"] for result in seen["results"]])
        else:
            assert isinstance(seen, str)
            text, _, more = seen.partition("\n\n")
            assert more == "The shop closes soon."
            lines = text.split("\n") if len(calls) > 1 else [text]
            found.append([line.split(": ", 1)[1] for line in lines] if len(calls) > 1 else lines)
    return found


def test_the_three_forms_give_the_same_episode():
    played: list[Episode] = []
    for form in ("native", "json", "plain"):
        env = TurnHooks(ShopEnv())
        env.reset(seed=0)
        for calls in TURNS:
            numbered = [(f"call-{i}", name, arguments) for i, (name, arguments) in enumerate(calls)]
            move = {"native": native(*numbered), "json": in_text(*calls), "plain": plain(*calls)}[form]
            env.step(move)
        played.append(env.episode)
    first = played[0]
    assert [turn.reward for turn in first.turns] == [0, 1, 0, 0, 0, 0, 0, 2, 0]
    assert (first.outcome, first.success) == (1.0, True)
    assert results_of(first)[8] == ["done", "Not run: a call before it ended the task."]
    for other in played[1:]:
        assert results_of(other) == results_of(first)
        assert [turn.info for turn in other.turns] == [turn.info for turn in first.turns]
        assert [turn.reward for turn in other.turns] == [turn.reward for turn in first.turns]


def test_native_results_keep_ids_and_order_even_where_two_ids_are_one():
    calls = native(("b", "look", ""), ("a", "buy", '{"item": "pen"}'), ("a", "buy", '{"item": '), ("", "nope", "{}"))
    env = ShopEnv()
    env.reset()
    observation = env.step(calls.move or "")[0]
    assert isinstance(observation, dict)
    assert [result["id"] for result in observation["results"]] == ["b", "a", "a", ""]
    texts = [result["text"] for result in observation["results"]]
    assert texts[0] == '{"pen":2.0,"ink":3.5,"desk":80.0}'
    assert texts[1] == "1 pen in the basket"
    assert texts[2].startswith("Not run: arguments of 'buy': broken JSON at line 1, column 10: Expecting value.")
    assert texts[3] == "No tool 'nope'; the tools are: look, buy, pay."


def echo(word: str) -> str:
    """Say it again."""
    return word


def test_a_turn_runs_no_more_calls_than_it_may_and_answers_all():
    results = Tools([echo], max_calls=2).run("\n".join(["echo(word='a')"] * 4))
    assert [r.text for r in results] == ["a", "a"] + ["Not run: a turn has at most 2 calls."] * 2


def test_what_a_tool_raises_passes_unless_it_is_the_agents_mistake():
    def strict(word: str) -> str:
        """Be strict."""
        raise ToolError(f"no {word} here")

    def broken(word: str) -> str:
        """Break."""
        raise ZeroDivisionError

    def odd(word: str) -> Any:
        """Return no JSON."""
        return {1, 2}

    tools = Tools([strict, broken, odd])
    (result,) = tools.run('strict(word="ink")')
    assert (result.text, result.ok, result.arguments) == ("no ink here", False, {"word": "ink"})
    with pytest.raises(ZeroDivisionError):
        tools.run('broken(word="x")')
    with pytest.raises(ContractError, match="tool odd"):
        tools.run('odd(word="x")')


def test_a_tool_whose_schema_names_no_parameters_is_described():
    assert describe([{"type": "function", "function": {"name": "look", "description": "Look."}}]) == "look(): Look."


def test_tools_are_described_to_agents_of_text_with_signature_and_meaning():
    assert describe(ShopEnv().tools).splitlines() == [
        "look(below: number = 100.0): List what there is.",
        "    below: Show what costs less than this.",
        'buy(item: "pen" | "ink" | "desk", n: integer = 1, wrap: boolean | null (optional)): '
        "Put something into the basket.",
        "    item: What to buy.",
        "    n: How many.",
        "    wrap: Whether to wrap it.",
        "pay(): Pay for the basket; that ends the visit.",
    ]
