"""Edits of the syntax tree, each on a source that fits in a line."""

from __future__ import annotations

import ast
from textwrap import dedent, indent

import pytest

from milepost.envs.swe.mutate import Edit, apply, mutate, possible_edits, undo
from milepost.envs.swe.operators import OPERATORS


def edited(body: str, operator: str, parameters: str = "a, b") -> list[str]:
    """Return what an operator makes of a function body, one text an edit."""
    head = f"def f({parameters}):\n"
    data = (head + indent(dedent(body).strip("\n"), "    ") + "\n").encode()
    edits = [edit for edit in possible_edits("m.py", data) if edit.operator == operator]
    texts = [apply(data, [edit]).decode() for edit in edits]
    for text in texts:
        ast.parse(text)
    return [dedent(text.removeprefix(head)).strip("\n") for text in texts]


@pytest.mark.parametrize(
    ("operator", "body", "expected"),
    [
        ("flipped comparison", "return a == b", ["return a != b"]),
        ("flipped comparison", "return (a)  not  in (b)  # why", ["return (a)  in (b)  # why"]),
        ("flipped comparison", "return a is b", ["return a is not b"]),
        ("moved boundary", "return a < b", ["return a <= b"]),
        ("swapped arithmetic", "return a  +  b", ["return a  -  b"]),
        ("swapped arithmetic", "a //= b", ["a *= b"]),
        ("and for or", "return a and b", ["return a or b"]),
        ("negated condition", "if a:\n    b()", ["if not (a):\n    b()"]),
        ("negated condition", "return 1 if not a else 2", ["return 1 if a else 2"]),
        ("off by one", "return a[1]", ["return a[0]", "return a[2]"]),
        ("off by one", "return a[0]", ["return a[1]"]),
        ("wrong constant", "a = True", ["a = False"]),
        ("wrong constant", "return 'abc'", ["return 'bc'"]),
        ("dropped argument", "g(a, key=b)", ["g(a)"]),
        ("dropped argument", "g(a, b)", ["g(a)"]),
        ("swapped arguments", "g(a,  b)", ["g(b,  a)"]),
        ("removed branch", "if a:\n    b()\nelse:\n    a()\nb()", ["if a:\n    b()\nb()"]),
        ("removed branch", "if a:\n    b()\nb()", ["pass\nb()"]),
        ("wrong return", "return a.b", ["return None"]),
        ("wrong return", "return a, b", ["return b, a"]),
        ("wrong return", "return a < b", ["return not (a < b)"]),
        ("removed statement", "a.append(b)\nreturn a", ["pass\nreturn a"]),
        ("lost slice bound", "return a[b:]", ["return a[:]"]),
        ("wrong variable", "return a", ["return b"]),
        ("sibling function", "return a.lstrip()", ["return a.rstrip()"]),
        ("dropped call", "return list(a)", ["return a"]),
        ("dropped call", "return a.strip()", ["return a"]),
        ("break for continue", "for a in b:\n    break", ["for a in b:\n    continue"]),
    ],
)
def test_an_operator_changes_its_place_and_nothing_else(operator: str, body: str, expected: list[str]) -> None:
    assert sorted(edited(body, operator)) == expected


@pytest.mark.parametrize(
    "body",
    [
        '"""a == 1"""',
        "x: 'list[1]'",
        "return f'{a + 1}'",
        "return 'a' + b if b else b",
        "return (a  # not < here\n    < b)",
    ],
)
def test_docstrings_annotations_f_strings_and_joined_texts_are_left_alone(body: str) -> None:
    operators = ("flipped comparison", "moved boundary", "swapped arithmetic", "off by one", "wrong constant")
    assert [text for name in operators for text in edited(body, name)] == []


def test_what_runs_at_import_and_what_is_only_declared_is_left_alone() -> None:
    text = "LIMIT = 1 + 2\nclass A:\n    size = 3\n    @overload\n    def f(self, a=4): return 5\n"
    assert possible_edits("m.py", text.encode()) == ()


SOURCE = b'''"""M."""

def area(width, height):  # \xc3\xa4
    """Say it."""
    if width < 0 or height < 0:
        raise ValueError("negative")
    return width * height


def longest(words, least):
    best = ""
    for word in words:
        if len(word) > len(best) and len(word) >= least:
            best = word
    return best.strip()
'''


def test_a_seed_gives_the_same_edits_and_undoing_them_gives_the_file_byte_for_byte() -> None:
    seen = set()
    for seed in range(40):
        for level, least, most in (("easy", 1, 1), ("medium", 1, 1), ("hard", 2, 3)):
            edits = mutate("m.py", SOURCE, level, str(seed))
            assert edits == mutate("m.py", SOURCE, level, str(seed))
            assert least <= len(edits) <= most
            changed = apply(SOURCE, edits)
            ast.parse(changed)
            assert changed != SOURCE
            assert undo(changed, edits) == SOURCE
            seen.update(edit.operator for edit in edits)
    assert len(seen) >= 10
    assert seen <= set(OPERATORS)


def test_operators_are_drawn_evenly_however_many_places_each_has() -> None:
    drawn = [mutate("m.py", SOURCE, "easy", str(seed))[0].operator for seed in range(400)]
    kinds = {edit.operator for edit in possible_edits("m.py", SOURCE)}
    assert max(map(drawn.count, kinds)) < 2.5 * len(drawn) / len(kinds)


def test_an_edit_that_does_not_fit_the_file_says_what_it_found() -> None:
    edit = Edit("m.py", "flipped comparison", 0, 1, "<", ">=")
    with pytest.raises(ValueError, match=r"^m.py: the patch does not apply: expected '<' at byte 0, got '\"'$"):
        apply(SOURCE, [edit])


def test_a_file_without_places_and_an_unknown_level_are_refused() -> None:
    with pytest.raises(ValueError, match="expected places for 1 edits, got 0"):
        mutate("m.py", b"x = 1\n", "easy", "0")
    with pytest.raises(ValueError, match="expected one of easy, medium, hard, got 'harder'"):
        mutate("m.py", SOURCE, "harder", "0")
