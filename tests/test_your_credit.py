"""The method printed in docs/your-credit.md, executed as printed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from milepost.credit import advantage, diagnostics
from milepost.credit.check import check
from milepost.credit.core import assign
from milepost.credit.made import episode
from milepost.credit.methods import resolve
from milepost.envs.core import Episode

PAGE = Path(__file__).parent.parent / "docs" / "your-credit.md"


@pytest.fixture(name="folder")
def folder_with_the_printed_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(code.splitlines()) <= 25
    (tmp_path / "my_module.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_module", raising=False)
    return tmp_path


def walk(outcome: float, states: str) -> Episode:
    """An attempt that went through these states; the first is where it began."""
    e = episode(outcome, n_turns=len(states) - 1)
    e.info["state_key"] = states[0]
    for turn, state in zip(e.turns, states[1:], strict=True):
        turn.info["state_key"] = state
    return e


def test_the_printed_method_earns_and_trains_as_the_page_says(folder: Path):
    credit = resolve("my_module:MyCredit", bonus=0.5)
    groups = [[walk(1.0, "abac"), walk(0.0, "aa")]]
    found = assign([credit], groups)
    assert [[t.credit["novelty"] for t in e.turns] for e in groups[0]] == [[0.5, 0.0, 0.5], [0.0]]
    assert found["credit/novelty/mean"] == 0.25
    advantage.write(groups, advantage.turn_rtg(advantage.rewards(groups, credit)))
    assert [t.advantage for e in groups[0] for t in e.turns] == [2.0, 0.0, 0.0, -2.0]
    assert diagnostics.metrics(groups, [credit])["credit/novelty/outcome_correlation"] == pytest.approx(1.0)


def test_the_printed_method_is_found_from_a_fresh_interpreter_in_its_folder(folder: Path):
    code = "from milepost.credit.methods import resolve; print(resolve('my_module:MyCredit').label)"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("novelty\n", "")


def test_the_printed_method_keeps_the_contract(folder: Path):
    assert check("my_module:MyCredit", bonus=0.5).failures == []


def test_the_printed_method_names_what_it_misses(folder: Path):
    with pytest.raises(ValueError, match=r"novelty needs info\['state_key'\]; my/Env-v0 gave none"):
        resolve("my_module:MyCredit").on_group([episode(1.0)])
