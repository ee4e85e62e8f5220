"""The picture in docs/architecture.md is the code, imports go one way, and importing is free."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("sandbox", "envs", "credit", "agents", "recipes")
MAY_IMPORT = {
    "sandbox": {"sandbox"},
    "envs": {"sandbox", "envs"},
    "credit": {"sandbox", "envs", "credit"},
    "agents": {"sandbox", "envs", "agents"},
    "recipes": set(PACKAGES),
}
HOME = {
    "torch": ("agents/",),
    "transformers": ("agents/local/",),
    "peft": ("agents/local/",),
    "gguf": ("agents/local/",),
    "textworld": ("envs/textworld",),
    "matplotlib": ("recipes/report/",),
}
"""Where a heavy package may be named."""
LIGHT = ("agents.core", "agents.driver", "agents.samples", "agents.scripted", "credit.methods", "recipes.cli")
"""Beside all of sandbox, envs and credit: modules that load nothing heavy."""

Graph = dict[str, set[str]]


def name_of(path: Path) -> str:
    """Return ``envs.core`` for envs/core.py and ``envs`` for its ``__init__``."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def imports() -> Graph:
    """Return for every module the modules of ours that it imports, anywhere in its text."""
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    known = {name_of(path) for path in paths}
    graph: Graph = {}
    for path in paths:
        found: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("milepost."):
                module = (node.module or "").removeprefix("milepost.")
                subs = {f"{module}.{alias.name}" for alias in node.names} & known
                found |= subs or {module}
                if any(f"{module}.{alias.name}" not in known for alias in node.names):
                    found.add(module)
            elif isinstance(node, ast.Import):
                found |= {a.name.removeprefix("milepost.") for a in node.names if a.name.startswith("milepost.")}
        graph[name_of(path)] = found - {name_of(path)}
    return graph


def named(path: Path) -> set[str]:
    """Return the top-level packages that a file imports, anywhere in its text."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    modules = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    modules += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return {module.partition(".")[0] for module in modules}


def reach(graph: Graph, start: str) -> set[str]:
    """Return all that ``start`` imports, directly or through others."""
    seen: set[str] = set()
    todo = [start]
    while todo:
        new = graph.get(todo.pop(), set()) - seen
        seen |= new
        todo += new
    return seen


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
    code, picture = reduced(imports()), drawn()
    assert (sorted(code - picture), sorted(picture - code)) == ([], []), "(draw these arrows, rub these out)"


def test_imports_go_one_way_between_packages():
    for name, others in imports().items():
        for other in others:
            assert other.partition(".")[0] in MAY_IMPORT[name.partition(".")[0]], f"{name} imports {other}"


def test_no_module_imports_itself_around_a_corner():
    for name in imports():
        assert name not in reach(imports(), name), f"{name} is in a circle of imports"


def test_nothing_imports_a_recipe():
    for name, others in imports().items():
        assert not any(other in ("recipes.textworld_guide", "recipes.ladder_gra") for other in others), name


def test_a_heavy_package_is_named_in_its_home_alone():
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for heavy in named(path) & set(HOME):
                assert str(path.relative_to(ROOT)).startswith(HOME[heavy]), f"{path} imports {heavy}"


def test_importing_loads_nothing_heavy():
    names = [*LIGHT, *(name for name in imports() if name.partition(".")[0] in ("sandbox", "envs", "credit"))]
    code = f"import importlib, sys; [importlib.import_module('milepost.' + n) for n in {names}]; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {*HOME, "docker", "openai", "requests"} & set(ran.stdout.split())


def test_importing_the_environments_takes_less_than_three_tenths_of_a_second():
    code = "import time; t = time.perf_counter(); import milepost.envs; print(time.perf_counter() - t)"
    seconds = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(4)
    ]
    assert min(seconds) < 0.3
