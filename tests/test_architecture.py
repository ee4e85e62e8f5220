"""The picture in docs/architecture.md is the code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("sandbox", "envs", "credit", "agents", "recipes")
ROOMS = (
    *(
        "sandbox.guest",
        "sandbox.attacks",
        "envs.swe",
        "envs.tooldesk",
        "credit.peers",
        "credit.combine",
        "credit.visual",
        "credit.audit",
    ),
    *("recipes.evaluate", "recipes.vectors"),
)
"""Folders that the picture shows as one: many files of one kind."""
Graph = dict[str, set[str]]


def name_of(path: Path) -> str:
    """Return ``envs.core`` for envs/core.py."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


@cache
def imports() -> Graph:
    """Return for every module the modules of ours that it imports, anywhere in its text."""
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if path.name != "__init__.py"]
    known = {name_of(path) for path in paths}
    graph: Graph = {}
    for path in paths:
        found: set[str] = set()
        for node in nodes(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("milepost."):
                module = (node.module or "").removeprefix("milepost.")
                subs = {f"{module}.{alias.name}" for alias in node.names} & known
                found |= subs or {module}
                if any(f"{module}.{alias.name}" not in known for alias in node.names):
                    found.add(module)
            elif isinstance(node, ast.Import):
                found |= {a.name.removeprefix("milepost.") for a in node.names if a.name.startswith("milepost.")}
        graph[name_of(path)] = found & known - {name_of(path)}
    return graph


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes but those that only a type checker reads."""
    if not (isinstance(tree, ast.If) and isinstance(tree.test, ast.Name) and tree.test.id == "TYPE_CHECKING"):
        yield tree
        for child in ast.iter_child_nodes(tree):
            yield from nodes(child)


def reach(graph: Graph, start: str) -> set[str]:
    """Return all that ``start`` imports, directly or through others."""
    seen: set[str] = set()
    todo = [start]
    while todo:
        new = graph.get(todo.pop(), set()) - seen
        seen |= new
        todo += new
    return seen


def folded(graph: Graph) -> Graph:
    """Return the graph with every module of a room as the room itself."""

    def room(name: str) -> str:
        return next((r for r in ROOMS if name.startswith(f"{r}.")), name)

    result: Graph = {}
    for name, others in graph.items():
        result.setdefault(room(name), set()).update(map(room, others))
    return {name: others - {name} for name, others in result.items()}


def reduced(graph: Graph) -> set[tuple[str, str]]:
    """Return the edges that no longer way around says: the fewest from which the rest follows."""
    beyond = {name: reach(graph, name) for name in graph}
    return {
        (name, other)
        for name, direct in graph.items()
        for other in direct
        if not any(other in beyond[via] for via in direct - {other})
    }


def drawn() -> set[tuple[str, str]]:
    """Return the arrows of the picture."""
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    block = text.partition("```mermaid\n")[2].partition("```")[0]
    edges: set[tuple[str, str]] = set()
    for line in block.splitlines():
        source, arrow, targets = line.strip().partition(" --> ")
        if arrow:
            edges |= {(source, target.strip()) for target in targets.split("&")}
    return edges


def test_the_picture_in_the_docs_is_the_code():
    code, picture = reduced(folded(imports())), drawn()
    assert (sorted(code - picture), sorted(picture - code)) == ([], []), "(draw these arrows, rub these out)"


def test_no_module_imports_itself_around_a_corner():
    for name in imports():
        assert name not in reach(imports(), name), f"{name} is in a circle of imports"
