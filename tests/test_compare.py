"""Two runs are compared attempt by attempt, and told apart where their numbers do not mean the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from milepost.agents.core import Request
from milepost.agents.scripted import ScriptedPolicy
from milepost.recipes.cli import main
from milepost.recipes.evaluate import Results, evaluate
from milepost.recipes.evaluate.compare import bootstrap, compare, warnings

LADDER = "milepost/Ladder-v0"


def run(out: Path, solved: str, **settings: Any) -> Results:
    """Evaluate an agent that climbs the ladders whose name is in ``solved`` and dusts the others."""

    def move(request: Request) -> str:
        return "climb" if any(wood in request.group for wood in solved.split()) else "dust"

    return evaluate(LADDER, ScriptedPolicy(move), out=out, watch="nothing", **settings)


def test_the_numbers_are_of_pairs(tmp_path: Path):
    a, b = run(tmp_path / "a", "pear"), run(tmp_path / "b", "lime pear")
    (told,) = compare(a, b).values()
    assert (told.n, told.success.won, told.success.lost, told.success.gain) == (4, 2, 0, 0.5)
    assert told.success.p == pytest.approx(0.5)  # two discordant pairs, both one way: 2 / 2^2
    assert told.outcome is not None
    assert (told.outcome.a, told.outcome.b, told.outcome.difference) == (0.5, 1.0, 0.5)
    assert warnings(a, b) == []
    (back,) = compare(b, a).values()
    assert (back.success.gain, back.success.p) == (-0.5, told.success.p)


def test_equal_runs_differ_by_nothing(tmp_path: Path):
    a, b = run(tmp_path / "a", "pear"), run(tmp_path / "b", "pear")
    (told,) = compare(a, b).values()
    assert (told.success.gain, told.success.p) == (0.0, 1.0)
    assert told.outcome is not None
    assert (told.outcome.low, told.outcome.high) == (0.0, 0.0)


def test_attempts_at_one_task_are_resampled_together():
    """Two tasks, one won and one lost in all 50 attempts: 100 attempts say no more than two."""
    pairs = [(task, 0.0, gain) for task, gain in (("x", 1.0), ("y", -1.0)) for _ in range(50)]
    told = bootstrap(pairs)
    assert (told.n, told.tasks, told.difference) == (100, 2, 0.0)
    assert (told.low, told.high) == (-1.0, 1.0)


def test_the_interval_of_the_bootstrap_is_that_of_a_mean_of_many():
    """64 tasks that differ by +1 or -1, evenly: the mean's standard error is 1 / 8."""
    told = bootstrap([(str(i), 0.0, 1.0 if i % 2 else -1.0) for i in range(64)])
    assert (told.low, told.high) == (pytest.approx(-1.96 / 8, abs=0.02), pytest.approx(1.96 / 8, abs=0.02))


def test_runs_under_other_limits_are_not_comparable_and_the_difference_is_named(tmp_path: Path):
    a, b = run(tmp_path / "a", "pear"), run(tmp_path / "b", "pear", max_turns=7, seed=1, tasks="pear 5,lime 5")
    assert a.digest != b.digest
    (line,) = warnings(a, b)
    where = f"panel.entries.{LADDER}"
    assert line == (
        "not the same panel, versions and settings: "
        f'{where}.tasks (["pear 5", "pear 6", "lime 5", "lime 6"] and ["pear 5", "lime 5"]), '
        f"{where}.max_turns (nothing and 7), seed (0 and 1); compared is what both played"
    )
    assert compare(a, b)[LADDER].n == 2  # and still the numbers on what both have


def test_what_counts_in_one_run_alone_is_left_out(tmp_path: Path):
    a, b = run(tmp_path / "a", "pear"), run(tmp_path / "b", "pear", tasks="lime 6", attempts=2)
    (told,) = compare(a, b).values()
    assert told.n == 1
    c = run(tmp_path / "c", "pear", tasks="pear 6")
    with pytest.raises(ValueError, match="have no attempt at a task in common"):
        compare(b, c)


def test_the_agent_is_what_is_compared(tmp_path: Path):
    a = run(tmp_path / "a", "pear")
    b = evaluate(LADDER, "oracle", out=tmp_path / "b", watch="nothing")
    assert a.digest == b.digest
    assert warnings(a, b) == []


def test_the_command_prints_a_table_or_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run(tmp_path / "a", "pear")
    run(tmp_path / "b", "pear lime", seed=1)
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    out = capsys.readouterr().out
    assert "warning: not the same panel, versions and settings: seed (0 and 1)" in out
    assert "50.0 %" in out
    assert "\N{HORIZONTAL ELLIPSIS}" not in out  # no number is cut at 80 columns
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["comparable"] is False
    assert told["entries"][LADDER]["success"]["won"] == 2
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "nowhere")]) == 2
    assert "nowhere is no run folder" in capsys.readouterr().err
