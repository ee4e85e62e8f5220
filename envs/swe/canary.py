"""A file of tests whose outcomes only this side knows, run after the wanted ones: where one comes out otherwise, the
outcomes of the others say nothing.

Code that makes every test pass makes the canary's failing ones pass; names, numbers and order are drawn anew each time.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

TESTS = (
    ("passed", "", "def test_{name}():\n    assert {a} == {a}\n"),
    (
        "passed",
        "",
        "def test_{name}():\n    with pytest.raises(ValueError, match='{a}'):\n        raise ValueError('{a}')\n",
    ),
    (
        "passed",
        "",
        "class Test{name}(unittest.TestCase):\n    def test_{name}(self):\n        self.assertEqual({a}, {a})\n",
    ),
    ("failed", "assert {a} == {b}", "def test_{name}():\n    assert {a} == {b}\n"),
    ("failed", "assert not {a}", "def test_{name}():\n    assert not {a}\n"),
    ("failed", "ValueError: {a}", "def test_{name}():\n    raise ValueError('{a}')\n"),
    ("failed", "DID NOT RAISE", "def test_{name}():\n    with pytest.raises(ValueError):\n        str({a})\n"),
    (
        "failed",
        "{a} != {b}",
        "class Test{name}(unittest.TestCase):\n    def test_{name}(self):\n        self.assertEqual({a}, {b})\n",
    ),
    (
        "error",
        "KeyError: {a}",
        "@pytest.fixture\ndef f_{name}():\n    raise KeyError({a})\ndef test_{name}(f_{name}):\n    pass\n",
    ),
)
"""Outcome, what its message has, and text."""


@dataclass(frozen=True)
class Canary:
    """One file of tests."""

    name: str
    """Of its folder, and after ``test_`` of the file."""
    text: str
    expected: Mapping[str, tuple[str, str]]
    """Outcome and a part of the message, by the name of the test's function."""

    @classmethod
    def new(cls) -> Canary:
        """Draw one."""
        rng = random.Random(secrets.randbits(128))
        parts, expected = ["import unittest\nimport pytest\n"], {}
        for outcome, message, text in rng.sample(TESTS, len(TESTS)):
            a, b = rng.sample(range(10**8, 10**9), 2)
            drawn = {"name": secrets.token_hex(8), "a": a, "b": b}
            parts.append(text.format(**drawn))
            expected[f"test_{drawn['name']}"] = outcome, message.format(**drawn)
        return cls(secrets.token_hex(8), "\n".join(parts), expected)

    def owns(self, test: str) -> bool:
        """Return whether a test is one of its own."""
        return test.rpartition("::")[2] in self.expected

    def lives(self, outcomes: Mapping[str, str], messages: Mapping[str, str]) -> bool:
        """Return whether all its tests, and no other, came out as they have to."""
        found = {
            test.rpartition("::")[2]: (outcomes[test], messages.get(test, "")) for test in outcomes if self.owns(test)
        }
        return found.keys() == self.expected.keys() and all(
            found[test][0] == outcome and message in found[test][1]
            for test, (outcome, message) in self.expected.items()
        )
