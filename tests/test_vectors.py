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


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("id: 5\ngiven: {}\nexpect: {a: 1}", "expected a text as id, got 5"),
        ("id: COM-1\ngiven: {}\nexpect: {}", "expect not empty"),
        ("id: COM-1\ngiven: {same_as: [1]}\nexpect: {a: 1}", r"same_as names \[1\]"),
        ("- 1", "expected a mapping with id, given and expect, got"),
        ("id: [", "is not YAML"),
    ],
)
def test_a_file_of_another_form_is_refused_in_one_line(tmp_path: Path, text: str, told: str):
    (tmp_path / "odd.yaml").write_text(text)
    with pytest.raises(ValueError, match=told):
        run(tmp_path / "odd.yaml")


def test_an_odd_example_is_not_computed_and_the_others_are(tmp_path: Path):
    odd = "id: IGPO-9\ngiven: {prediction: 5, golds: [a], prediction2: b}\nexpect: {f1: 1}"
    good = "id: COM-8\ngiven: {group_rewards: [1, 0]}\nexpect: {center: [0.5, -0.5], nothing: 1}"
    (tmp_path / "odd.yaml").write_text(f"{odd}\n---\n{good}")
    first, second, third = run(tmp_path / "odd.yaml")
    assert first.text.startswith("f1: not computed: ")
    assert second.ok
    assert third.text == "nothing: not computed: nothing computes this key"
