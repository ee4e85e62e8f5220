"""What is shipped: the wheel of a clean checkout works where there is nothing but the core."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import wheels
from wheels import ALONE, ROOT, run


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the python of an environment with the core alone."""
    return wheels.installed(tmp_path_factory.mktemp("wheel"))


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
