"""Seeded edits of source files: which there could be, which a task has, and how they are made and undone.

Edits are written into the text by position, so that formatting and comments stay as they are.
"""

from __future__ import annotations

import ast
import random
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from milepost.envs.swe.operators import OPERATORS, Code

N_SITES = {"easy": (1, 1), "medium": (1, 1), "hard": (2, 3)}
"""Fewest and most edits of a level's tasks."""
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Edit:
    """One change of a file."""

    file: str
    operator: str
    begin: int
    """Bytes before it in the original file."""
    end: int
    before: str
    after: str


@lru_cache(maxsize=64)
def possible_edits(file: str, data: bytes) -> tuple[Edit, ...]:
    """Return all edits that operators propose for a file and after which it is still Python, in order of place.

    Raises:
        ValueError: The file is not Python.
    """
    try:
        tree = ast.parse(data)
    except SyntaxError as error:
        raise ValueError(f"{file}: expected Python: {error}") from None
    found: list[Edit] = []
    code = Code.of(data)
    for function, node in _nodes(tree):
        here = replace(code, parameters=_parameters(function))
        for name, operator in OPERATORS.items():
            for begin, end, after in operator(here, node):
                before = data[begin:end].decode()
                if before != after:
                    found.append(Edit(file, name, begin, end, before, after))
    unique = {(edit.begin, edit.end, edit.after): edit for edit in reversed(found)}
    return tuple(sorted(unique.values(), key=lambda edit: (edit.begin, edit.end, edit.operator, edit.after)))


def mutate(file: str, data: bytes, level: str, seed: str) -> tuple[Edit, ...]:
    """Return a task's edits of a file: operators are drawn evenly, then a place for each; none overlap.

    Raises:
        ValueError: There is no such level, or the file has too few places.
    """
    if level not in N_SITES:
        raise ValueError(f"SWE level: expected one of {', '.join(N_SITES)}, got {level!r}")
    rng = random.Random(f"{seed} {level} {file}")
    n_sites = rng.randint(*N_SITES[level])
    edits = possible_edits(file, data)
    chosen: list[Edit] = []
    for _ in range(200):
        free = [edit for edit in edits if all(_apart(edit, other) for other in chosen)]
        by_operator = defaultdict(list)
        for edit in free:
            by_operator[edit.operator].append(edit)
        if not free:
            break
        edit = rng.choice(by_operator[rng.choice(sorted(by_operator))])
        if _is_python(apply(data, [*chosen, edit])):
            chosen.append(edit)
        if len(chosen) == n_sites:
            return tuple(sorted(chosen, key=lambda edit: edit.begin))
    raise ValueError(f"{file}: expected places for {n_sites} edits, got {len(chosen)}")


def apply(data: bytes, edits: Sequence[Edit]) -> bytes:
    """Return a file with edits made.

    Raises:
        ValueError: The file does not have at their places what they are to replace.
    """
    for edit in sorted(edits, key=lambda edit: edit.begin, reverse=True):
        found = data[edit.begin : edit.end].decode("utf-8", "backslashreplace")
        if found != edit.before:
            told = f"expected {edit.before!r:.80} at byte {edit.begin}, got {found!r:.80}"
            raise ValueError(f"{edit.file}: the patch does not apply: {told}")
        data = data[: edit.begin] + edit.after.encode() + data[edit.end :]
    return data


def undo(data: bytes, edits: Sequence[Edit]) -> bytes:
    """Return a file with edits taken back.

    Raises:
        ValueError: The file does not have at their places what they had made.
    """
    moved, reversed_edits = 0, []
    for edit in sorted(edits, key=lambda edit: edit.begin):
        begin, size = edit.begin + moved, len(edit.after.encode())
        reversed_edits.append(replace(edit, begin=begin, end=begin + size, before=edit.after, after=edit.before))
        moved += size - (edit.end - edit.begin)
    return apply(data, reversed_edits)


def _apart(one: Edit, other: Edit) -> bool:
    """A place between two edits keeps both to be seen apart; insertions at one place would have no order."""
    return one.end + 1 < other.begin or other.end + 1 < one.begin


def _is_python(data: bytes) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            compile(data, "edited", "exec", dont_inherit=True)
        except (SyntaxError, ValueError):
            return False
    return True


def _nodes(node: ast.AST, function: Function | None = None) -> Iterator[tuple[Function, ast.AST]]:
    """Yield the nodes of function bodies, each with its innermost function."""
    if isinstance(node, Function):
        if not _is_only_declared(node):
            for statement in node.body[_has_docstring(node) :]:
                yield from _nodes(statement, node)
    elif isinstance(node, ast.AnnAssign):
        if node.value:
            yield from _nodes(node.value, function)
    elif not isinstance(node, ast.JoinedStr):
        if function:
            yield function, node
        for child in ast.iter_child_nodes(node):
            yield from _nodes(child, function)


def _is_only_declared(function: Function) -> bool:
    decorators = {getattr(one, "id", getattr(one, "attr", "")) for one in function.decorator_list}
    return bool(decorators & {"overload", "abstractmethod"})


def _has_docstring(function: Function) -> bool:
    first = function.body[0]
    return isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)


def _parameters(function: Function) -> tuple[str, ...]:
    arguments = function.args
    names = [one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return tuple(name for name in names if name not in ("self", "cls", "mcs"))
