"""Imports go one way, and importing a package is free."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "sandbox": set(),
    "envs": {"sandbox"},
    "credit": {"sandbox", "envs"},
    "agents": {"sandbox", "envs"},
    "recipes": {"sandbox", "envs", "credit", "agents"},
}
HEAVY = ("torch", "transformers", "peft", "textworld", "matplotlib", "PIL", "openai", "docker", "nle", "alfworld")


def modules() -> list[Path]:
    return sorted(path for name in MAY_IMPORT for path in (ROOT / name).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Return the names that a module imports, wherever it does."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_is_below_its_package(path: Path):
    package = path.relative_to(ROOT).parts[0]
    ours = {name.split(".")[1] for name in imported(path) if name.startswith("milepost.")}
    assert ours <= MAY_IMPORT[package] | {package}, f"{path.relative_to(ROOT)} imports {ours}"


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_importing_a_package_loads_nothing_heavy(package: str):
    code = f"import json, sys, milepost.{package}; print(json.dumps(sorted(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    loaded = {name.partition(".")[0] for name in json.loads(out)}
    assert not loaded & set(HEAVY)


def test_importing_the_command_line_loads_nothing_heavy():
    code = "import json, sys, milepost.recipes.cli; print(json.dumps(sorted(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert not {name.partition(".")[0] for name in json.loads(out)} & set(HEAVY)


def test_importing_the_environments_costs_little_more_than_gymnasium():
    """Both are timed by turns in fresh processes: gymnasium alone takes 0.11 s where milepost.envs may take 0.3."""
    code = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"
    ours, theirs = 9.0, 9.0
    for _ in range(12):
        theirs, ours = min(theirs, seconds(code.format("gymnasium"))), min(ours, seconds(code.format("milepost.envs")))
        if ours < 0.3 or ours < 2.5 * theirs:
            return
    pytest.fail(f"the best of 12 imports took {ours:.2f} s, of gymnasium alone {theirs:.2f} s")


def seconds(code: str) -> float:
    """Return what a fresh process prints."""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return float(run.stdout)


def test_the_packages_of_pyproject_are_the_folders():
    tables = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {str(path.parent.relative_to(ROOT)) for name in MAY_IMPORT for path in (ROOT / name).rglob("__init__.py")}
    names = {f"milepost.{folder.replace('/', '.')}": folder for folder in folders}
    assert sorted(tables["packages"]) == sorted(names)
    assert tables["package-dir"] == names


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_at_most_400_lines(path: Path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
