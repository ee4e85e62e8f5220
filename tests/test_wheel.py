"""What is shipped: the wheel of a clean checkout works where there is nothing but the core."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALONE = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def run(*command: str | Path, cwd: Path) -> str:
    ran = subprocess.run([str(c) for c in command], cwd=cwd, env=ALONE, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the python of an empty environment into which the wheel was installed."""
    folder = tmp_path_factory.mktemp("wheel")
    names = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines()
    for name in (n for n in names if not n.startswith(".typing/") and (ROOT / n).is_file()):
        (folder / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "src" / name)
    pip = [sys.executable, "-m", "pip"]
    run(*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, folder / "src", cwd=folder)
    (wheel,) = folder.glob("*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    python = folder / "venv/bin/python"
    run(*pip, "--python", python, "install", "-q", "-c", ROOT / ".ci/constraints.txt", wheel, cwd=folder)
    return python


def test_the_wheel_runs_the_command_with_the_core_alone(installed, tmp_path):
    assert "milepost/Ladder-v0" in run(installed.parent / "milepost", "envs", cwd=tmp_path)


def test_a_recipe_that_needs_torch_says_which_extra_brings_it(installed, tmp_path):
    ran = subprocess.run(
        [installed.parent / "milepost", "train", "ladder_gra"],
        cwd=tmp_path,
        env=ALONE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (2, "milepost: this needs torch: pip install 'milepost[train]'\n")


def test_the_wheel_has_every_module_and_the_licence(installed, tmp_path):
    code = "import importlib.metadata as m; print(*m.files('milepost'), sep='\\n')"
    shipped = set(run(installed, "-c", code, cwd=tmp_path).splitlines())
    packages = ["envs", "agents", "credit", "sandbox", "recipes"]
    ours = {f"milepost/{p.relative_to(ROOT)}" for package in packages for p in (ROOT / package).rglob("*.py")}
    ours |= {f"milepost/{p.relative_to(ROOT)}" for p in (ROOT / "recipes/report/viewer").iterdir()}
    assert ours <= shipped
    assert any(name.endswith("licenses/LICENSE") for name in shipped)
