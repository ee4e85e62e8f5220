"""What an edit may be: each operator proposes changes of one node of the syntax tree, as text at its place.

Only function bodies are edited; annotations, docstrings, decorators and f-strings (whose positions depend on Python's
version) are left alone. Which edits matter is decided by tests, not here.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

Proposal = tuple[int, int, str]
"""Begin and end in bytes, and the text in between."""
Operator = Callable[["Code", ast.AST], Iterator[Proposal]]
OPERATORS: dict[str, Operator] = {}
"""By name, in the order in which their edits of one node are listed."""

INVERSE = {"==": "!=", "<": ">=", ">": "<=", "is": "is not", "in": "not in"}
INVERSE |= {after: before for before, after in INVERSE.items()}
BOUNDARY = {"<": "<=", "<=": "<", ">": ">=", ">=": ">"}
SYMBOLS: dict[type[ast.AST], str] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Is: "is",
    ast.IsNot: "is not",
    ast.In: "in",
    ast.NotIn: "not in",
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.FloorDiv: "//",
    ast.Mod: "%",
    ast.Pow: "**",
    ast.BitAnd: "&",
    ast.BitOr: "|",
    ast.LShift: "<<",
    ast.RShift: ">>",
}
ARITHMETIC = {"+": "-", "-": "+", "*": "//", "/": "*", "//": "*", "%": "//", "**": "*", "&": "|", "|": "&"}
ARITHMETIC |= {"<<": ">>", ">>": "<<"}
SIBLINGS = {"min": "max", "any": "all", "lstrip": "rstrip", "startswith": "endswith", "upper": "lower", "find": "rfind"}
SIBLINGS |= {"split": "rsplit", "partition": "rpartition", "keys": "values", "floor": "ceil", "append": "extend"}
SIBLINGS |= {"ljust": "rjust", "appendleft": "append", "popleft": "pop", "isdigit": "isalpha", "union": "intersection"}
SIBLINGS |= {after: before for before, after in SIBLINGS.items() if after not in SIBLINGS}


@dataclass(frozen=True)
class Code:
    """A file's text and what an operator has to know around a node."""

    data: bytes
    starts: tuple[int, ...]
    """Where its lines begin, in bytes."""
    parameters: tuple[str, ...] = ()
    """Of the function that the node is in."""

    @classmethod
    def of(cls, data: bytes) -> Code:
        """Return a file's code."""
        return cls(data, (0, *(match.end() for match in re.finditer(rb"\r\n|\r|\n", data))))

    def span(self, node: ast.AST) -> tuple[int, int]:
        """Return where a statement or expression begins and ends."""
        assert isinstance(node, (ast.expr, ast.stmt, ast.keyword, ast.excepthandler))
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        begin = self.starts[node.lineno - 1] + node.col_offset
        return begin, self.starts[node.end_lineno - 1] + node.end_col_offset

    def text(self, node: ast.AST) -> str:
        """Return a node's source."""
        begin, end = self.span(node)
        return self.data[begin:end].decode()

    def between(self, left: ast.AST, right: ast.AST, symbol: str) -> tuple[int, int] | None:
        """Return where an operator's symbol stands between two operands; None where a comment is in the way."""
        begin, end = self.span(left)[1], self.span(right)[0]
        gap = self.data[begin:end].decode()
        found = re.search(r"\s+".join(re.escape(word) for word in symbol.split()), gap)
        return (begin + found.start(), begin + found.end()) if found and "#" not in gap else None


def operator(name: str) -> Callable[[Operator], Operator]:
    """Enter an operator under a name."""

    def enter(function: Operator) -> Operator:
        OPERATORS[name] = function
        return function

    return enter


@operator("flipped comparison")
def _comparison(code: Code, node: ast.AST) -> Iterator[Proposal]:
    yield from _compare(code, node, INVERSE)


@operator("moved boundary")
def _boundary(code: Code, node: ast.AST) -> Iterator[Proposal]:
    yield from _compare(code, node, BOUNDARY)


def _compare(code: Code, node: ast.AST, table: dict[str, str]) -> Iterator[Proposal]:
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        symbol = SYMBOLS[type(node.ops[0])]
        if symbol in table and (place := code.between(node.left, node.comparators[0], symbol)):
            yield *place, table[symbol]


@operator("swapped arithmetic")
def _arithmetic(code: Code, node: ast.AST) -> Iterator[Proposal]:
    if isinstance(node, ast.BinOp):
        left, right, end = node.left, node.right, ""
    elif isinstance(node, ast.AugAssign):
        left, right, end = node.target, node.value, "="
    else:
        return
    symbol = SYMBOLS.get(type(node.op))
    if symbol in ARITHMETIC and not any(map(_is_text, (left, right))):
        place = code.between(left, right, symbol + end)
        if place:
            yield *place, ARITHMETIC[symbol] + end


@operator("and for or")
def _boolean(code: Code, node: ast.AST) -> Iterator[Proposal]:
    if isinstance(node, ast.BoolOp):
        symbol, other = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            if place := code.between(left, right, symbol):
                yield *place, other


@operator("negated condition")
def _condition(code: Code, node: ast.AST) -> Iterator[Proposal]:
    if isinstance(node, (ast.If, ast.While, ast.IfExp)):
        test = node.test
        inner = code.text(test.operand) if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not) else None
        yield *code.span(test), inner or f"not ({code.text(test)})"


@operator("off by one")
def _off_by_one(code: Code, node: ast.AST) -> Iterator[Proposal]:
    if isinstance(node, ast.Constant) and type(node.value) is int and code.text(node).isdecimal():
        yield *code.span(node), str(node.value + 1)
        if node.value:
            yield *code.span(node), str(node.value - 1)


@operator("wrong constant")
def _constant(code: Code, node: ast.AST) -> Iterator[Proposal]:
    if isinstance(node, ast.Constant):
        text = code.text(node)
        if isinstance(node.value, bool):
            yield *code.span(node), str(not node.value)
        elif isinstance(node.value, str) and re.fullmatch(r"(['\"])[^'\"\\\n]{2,24}\1", text):
            yield *code.span(node), text[0] + text[2:]


@operator("dropped argument")
def _dropped_argument(code: Code, node: ast.AST) -> Iterator[Proposal]:
    if isinstance(node, ast.Call):
        parts = sorted([*node.args, *node.keywords], key=lambda part: code.span(part))
        for before, part in itertools.pairwise(parts):
            if isinstance(part, ast.keyword) or part is parts[-1]:
                begin, end = code.span(before)[1], code.span(part)[1]
                if b"(" not in code.data[begin : code.span(part)[0]]:
                    yield begin, end, ""


@operator("swapped arguments")
def _swapped_arguments(code: Code, node: ast.AST) -> Iterator[Proposal]:
    if isinstance(node, ast.Call):
        for left, right in zip(node.args, node.args[1:], strict=False):
            if isinstance(left, ast.Starred) or isinstance(right, ast.Starred):
                continue
            (begin, middle), (other, end) = code.span(left), code.span(right)
            if code.text(left) != code.text(right):
                yield begin, end, code.text(right) + code.data[middle:other].decode() + code.text(left)


@operator("removed branch")
def _removed_branch(code: Code, node: ast.AST) -> Iterator[Proposal]:
    if not isinstance(node, ast.If):
        return
    if node.orelse:
        yield code.span(node.body[-1])[1], code.span(node.orelse[-1])[1], ""
    elif code.data[code.span(node)[0] :].startswith(b"if"):
        yield *code.span(node), "pass"


@operator("wrong return")
def _return(code: Code, node: ast.AST) -> Iterator[Proposal]:
    if isinstance(node, ast.Return) and node.value is not None:
        value, place = node.value, code.span(node.value)
        if isinstance(value, ast.Tuple) and len(value.elts) == 2:
            left, right = map(code.text, value.elts)
            yield code.span(value.elts[0])[0], code.span(value.elts[1])[1], f"{right}, {left}"
        elif isinstance(value, (ast.Compare, ast.BoolOp)):
            yield *place, f"not ({code.text(value)})"
        elif not (isinstance(value, ast.Constant) and value.value is None):
            yield *place, "None"


@operator("removed statement")
def _removed_statement(code: Code, node: ast.AST) -> Iterator[Proposal]:
    stored = isinstance(node, ast.Assign) and not isinstance(node.targets[0], ast.Name)
    called = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    if stored or called or isinstance(node, (ast.AugAssign, ast.Delete, ast.Raise)):
        yield *code.span(node), "pass"


@operator("lost slice bound")
def _slice(code: Code, node: ast.AST) -> Iterator[Proposal]:
    if isinstance(node, ast.Slice):
        for bound in (node.lower, node.upper):
            if bound is not None:
                yield *code.span(bound), ""


@operator("wrong variable")
def _variable(code: Code, node: ast.AST) -> Iterator[Proposal]:
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in code.parameters:
        for other in code.parameters:
            if other != node.id:
                yield *code.span(node), other


@operator("sibling function")
def _sibling(code: Code, node: ast.AST) -> Iterator[Proposal]:
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in SIBLINGS:
            end = code.span(node.func)[1]
            yield end - len(name), end, SIBLINGS[name]


@operator("dropped call")
def _dropped_call(code: Code, node: ast.AST) -> Iterator[Proposal]:
    if isinstance(node, ast.Call) and not node.keywords:
        if len(node.args) == 1 and isinstance(node.func, ast.Name) and isinstance(node.args[0], (ast.Name, ast.Call)):
            yield *code.span(node), code.text(node.args[0])
        elif not node.args and isinstance(node.func, ast.Attribute):
            yield *code.span(node), code.text(node.func.value)


@operator("break for continue")
def _loop(code: Code, node: ast.AST) -> Iterator[Proposal]:
    if isinstance(node, (ast.Break, ast.Continue)):
        yield *code.span(node), "continue" if isinstance(node, ast.Break) else "break"


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes)))
