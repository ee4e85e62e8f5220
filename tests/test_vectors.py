"""The specification's worked examples, each number of ``expect`` computed by the library."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from milepost.recipes.vectors.runner import read, run

HERE = Path(__file__).parent
FILE = HERE / "vectors.yaml"
SPECS = [folder / "shared" / "specs" / "credit-algorithms.md" for folder in (HERE.parent, HERE.parent.parent)]


@pytest.mark.parametrize("id", read(FILE))
def test_the_worked_example_comes_out(id: str):
    results = run(FILE, only=id)
    assert results
    assert [result.text for result in results if not result.ok] == []


def test_the_examples_are_those_of_the_specification():
    spec = next((path for path in SPECS if path.exists()), None)
    if spec is None:
        pytest.skip("the specification is not beside this checkout (../shared/specs/credit-algorithms.md)")
    blocks = re.findall(r"```yaml\n(id: .*?)```", spec.read_text(), re.DOTALL)
    assert {b["id"]: b for b in map(yaml.safe_load, blocks)} == read(FILE)
