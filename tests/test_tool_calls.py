"""Reading the calls of a move: every form, every mistake, nothing that raises."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tool_env import ShopEnv, native

from milepost.envs.tool_calls import read_move
from milepost.envs.tools import Tools


@pytest.mark.parametrize(
    ("move", "said"),
    [
        ("byu(item='pen')", "No tool 'byu' (did you mean 'buy'?); the tools are: look, buy, pay."),
        ("buy(item='pem')", "item: expected one of 'pen', 'ink', 'desk', got the text 'pem'"),
        ("buy(item='pen', n=2.0)", "n: expected an integer, got 2.0"),
        ("buy(item='pen', n=true)", "n: expected an integer, got true"),
        ("buy(item='pen', wrap=1)", "wrap: expected true or false or null, got 1"),
        ("buy(itm='pen')", "unexpected argument 'itm' (did you mean 'item'?); missing argument item: expected one of"),
        ("look(below=1e999)", "below: expected a number, got inf"),
        ("buy(item='pen', n=99999999999999999999)", "n: expected an integer, got a number of more than 64 bits"),
        ("buy('pen')", "broken call at character 5: expected name=value"),
        ("buy(item='pen'", "broken call at character 15: expected , or ), got the end"),
        ("buy(item='pen') please", "expected another call or the end, got 'please'"),
        ("buy(item='pen', item='ink')", "argument item is given twice"),
        ('{"name": "buy", "arguments": {"item": }}', "broken JSON at line 1, column 39: Expecting value"),
        ('{"name": "buy", "args": {}}', 'the keys "name" and "arguments", got the keys \'name, args\''),
        ('{"name": "buy", "arguments": [1]}', "arguments of 'buy': expected an object such as"),
        ('[{"name": "look"}, 3]', "2. ?: Not run: a call is an object with the keys"),
        ("[]", "the list of calls is empty"),
        ("I would like a pen.", "No tool was called. Expected a call, such as find("),
        ("", "No tool was called."),
        ('<tool_call>{"name": "buy"', "broken JSON at line 1, column 15"),
    ],
)
def test_a_mistake_is_answered_by_what_was_wrong_and_what_was_expected(move: str, said: str):
    env = ShopEnv()
    env.reset()
    observation, reward, terminated, _, info = env.step(move)
    assert isinstance(observation, str)
    assert said in observation
    assert (reward, terminated, info["valid"]) == (0.0, False, False)
    assert len(observation) < 500


def echo(word: str) -> str:
    """Say it again."""
    return word


ECHO = Tools([echo])
DEEP, SURROGATE, LONG = 5_000, "\ud800", 10_000_000
HOSTILE = [
    "[" * DEEP,
    '{"name": "look", "arguments": ' + '{"a": ' * DEEP + "1" + "}" * (DEEP + 1),
    '{"name": "look", "arguments": {"below": ' + "[" * 900 + "]" * 900 + "}}",
    f"look(below={'[' * DEEP})",
    f"look(below={'-' * DEEP}1)",
    f"look(below={'9' * DEEP})",
    '{"name": "look", "arguments": {"below": ' + "9" * DEEP + "}}",
    '{"name": "look", "arguments": {"below": NaN}}',
    "look(below=Infinity)",
    '{"name": "buy", "arguments": {"item": "\\ud800"}}',
    f"buy(item='{SURROGATE}')",
    f"{SURROGATE}()",
    f'{{"name": "{SURROGATE}", "arguments": {{"{SURROGATE}": 1}}}}',
    f'{{"name": "look", "arguments": {{"{SURROGATE}": 1}}}}',
    "x" * LONG,
    f"buy(item='{'x' * LONG}')",
    "```" * 60_000,
    "<tool_call>" * 18_000,
    "look(" * 40_000,
    "\x00",
]


@pytest.mark.parametrize("move", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("form", ["text", "native arguments", "native name"])
def test_nothing_that_an_agent_writes_raises_or_cannot_be_recorded(form: str, move: str):
    env = ShopEnv()
    env.reset()
    if form == "native arguments":
        move = native(("1", "look", move)).move or ""
    elif form == "native name":
        move = native(("1", move, "{}")).move or ""
    observation, _, _, _, info = env.step(move)
    assert not info["valid"]
    if form == "text":
        assert isinstance(observation, str)
    else:
        assert isinstance(observation, dict)
        assert [result["id"] for result in observation["results"]] == ["1"]
        observation = observation["results"][0]["text"]
    assert len(observation.encode()) < 1_000


@given(text=st.one_of(st.text(max_size=80), st.text(alphabet="buylook(){}[]\"'\\=:,1e.-n `\n", max_size=40)))
@settings(max_examples=150, deadline=None)
def test_any_text_is_answered(text: str):
    results = ECHO.run(text)
    assert len(results) > 0 or results.said is not None


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(value=VALUES)
@settings(max_examples=100, deadline=None)
def test_a_plain_action_reads_any_value_of_json_or_python_as_it_was_written(value: Any):
    for move in (f"look(a={json.dumps(value)})", f"look(a={json.dumps(value, ensure_ascii=False)})"):
        (call,) = read_move(move).calls
        assert call.problem == ""
        assert call.arguments == {"a": value}


def test_texts_in_single_quotes_are_read_as_python_writes_them():
    assert ECHO.run("""echo(word='it\\'s "so"\\n\\\\ \\u00e9')""")[0].text == 'it\'s "so"\n\\ \u00e9'
    assert ECHO.run("""echo(word="it's")""")[0].text == "it's"
    assert ECHO.run("echo(word='two\nlines')")[0].text == "two\nlines"


def test_text_without_a_call_is_kept_as_said_and_a_broken_call_is_not():
    assert ECHO.run("Hello (again): what is it?").said == "Hello (again): what is it?"
    assert ECHO.run("```python\nprint = 3\n```").said == "```python\nprint = 3\n```"
    for tried in ('{"name": ', "echo(", "[]", "x" * LONG):
        assert ECHO.run(tried).said is None


def test_calls_in_tags_and_fences_are_run_whatever_stands_around_them():
    texts = ['<tool_call>\n{"name": "echo", "arguments": {"word": "a"}}\n</tool_call>', "```\necho(word='b')\n```"]
    assert [r.text for r in ECHO.run(f"First {texts[0]} then\n{texts[1]}\ndone.")] == ["a", "b"]
