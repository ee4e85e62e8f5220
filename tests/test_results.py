"""The numbers of an evaluation, by hand."""

from __future__ import annotations

import math
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from milepost.agents.scripted import ScriptedPolicy
from milepost.envs.core import Action, Episode, Stop, Turn, Usage
from milepost.envs.runs import Run
from milepost.recipes.evaluate import evaluate, read_results
from milepost.recipes.evaluate.scores import pass_k, row, score, total
from milepost.recipes.report.stats import wilson
from milepost.sandbox.core import MachineError


def episode(
    name: str = "0",
    n_turns: int = 2,
    outcome: float | None = 1.0,
    stop: Stop = Stop.TERMINATED,
    usage: Usage | None = None,
    **fields: Any,
) -> Episode:
    turns = [Turn("o", Action("a", usage=usage), seconds=0.5) for _ in range(n_turns)]
    if turns and outcome is not None:
        turns[-1].info = {"outcome": outcome}
    return Episode(id=name, turns=turns, stop=stop, **{"group": "g", "runtime": {"entry": "e"}, **fields})


def rows(*episodes: Episode):
    return [row(episode) for episode in episodes]


def test_a_failed_episode_is_counted_and_never_scored_as_a_loss():
    told = score(4, rows(episode("0"), episode("1"), episode("2", outcome=None, stop=Stop.FAILED, failure="x\nE: y")))
    assert (told.n, told.played, told.failed, told.missing) == (4, 2, 1, 1)
    assert (told.success.rate, told.outcome, told.turns) == (1.0, 1.0, 2.0)
    assert not told.complete


def test_the_interval_of_success_is_wilsons():
    told = score(3, rows(episode("0"), episode("1", outcome=0.0), episode("2", outcome=0.4)))
    assert told.success.rate == pytest.approx(1 / 3)
    assert (told.success.low, told.success.high) == wilson(1, 3)
    assert told.outcome == pytest.approx(1.4 / 3)
    assert told.complete


def test_nothing_played_is_unknown_and_not_zero():
    told = score(2, [])
    assert (told.success.rate, told.outcome, told.pass_at_1, told.turns, told.cost) == (None,) * 5
    assert (told.success.low, told.success.high, told.missing) == (0.0, 1.0, 2)


def test_an_episode_without_an_outcome_is_no_success_and_no_zero_in_the_mean():
    told = score(2, rows(episode("0", outcome=None), episode("1")))
    assert (told.success.rate, told.outcome, told.unscored) == (0.5, 1.0, 1)


def test_pass_at_1_is_a_mean_over_tasks_whatever_failed():
    some = [episode(f"a{i}", outcome=float(i == 0), group="a") for i in range(4)]
    told = score(5, rows(*some, episode("b", group="b")))
    assert told.pass_at_1 == pytest.approx((1 / 4 + 1) / 2)
    assert told.success.rate == pytest.approx(2 / 5)


def test_pass_k_is_the_share_of_all_draws_of_k_attempts_that_all_solve():
    groups = [[True, True, False, True], [False, True, False, False], [True, True, True, True]]

    def drawn(k: int) -> float:
        shares = [sum(map(all, combinations(group, k))) / math.comb(4, k) for group in groups]
        return sum(shares) / 3

    assert pass_k(groups) == pytest.approx({k: drawn(k) for k in (1, 2, 3, 4)})
    assert pass_k(groups)[2] == pytest.approx((3 / 6 + 0 + 1) / 3)


def test_pass_k_needs_attempts_that_repeat_and_leaves_out_tasks_with_fewer():
    assert pass_k([[True], [False]]) == {}
    assert pass_k([[True, True], [False]]) == {1: 0.5, 2: 1.0}


def test_a_cost_is_unknown_unless_each_answer_says_it():
    known, unknown = Usage(10, 4, 2, 1.0, 0.25), Usage(10, 4, 2, 1.0)
    assert total([known, known]) == Usage(20, 8, 4, 2.0, 0.5)
    assert total([known, unknown]) == Usage(20, 8, 4, 2.0, None)
    assert total([known, None]).cost is None
    assert total([]).cost is None


def test_seconds_are_those_of_answers_and_steps():
    assert row(episode(usage=Usage(1, 0, 1, 2.0))).seconds == pytest.approx(2 * (0.5 + 2.0))


def test_of_several_agents_success_alone_is_read():
    turns = [Turn("o", Action("a"), agent=name) for name in ("a", "b")]
    turns[-1].info = {"outcome": {"a": 1.0, "b": 0.0}}
    played = Episode(id="0", turns=turns, stop=Stop.TERMINATED)
    assert (row(played).outcome, row(played).success) == (None, False)
    turns[-1].info["success"] = True
    assert row(played).success


def test_what_was_superseded_is_paid_but_does_not_count(tmp_path: Path):
    policy = ScriptedPolicy(lambda request: Action("climb", usage=Usage(100, 0, 1, 0.0, 0.5)))
    done = evaluate("milepost/Ladder-v0", policy, out=tmp_path / "run", tasks="pear 5", watch="nothing")
    (played,) = done.episodes()
    assert (done.overall.cost, done.paid["cost"]) == (2.5, 2.5)
    shard = tmp_path / "run" / "episodes" / "00000.jsonl"
    whole = shard.read_bytes()
    shard.unlink()
    with Run.open(tmp_path / "other", "evaluate", done.pinned | done.agent) as run:
        broken = episode(played.id, 3, None, Stop.FAILED, Usage(100, 0, 1, 0.0, 0.5), group=played.group)
        run.add(broken)
    with open(tmp_path / "other" / "episodes" / "00000.jsonl", "ab") as file:
        file.write(whole)
    again = read_results(tmp_path / "other")
    assert (again.n, again.failed, again.complete, again.overall.cost) == (1, 0, True, 2.5)
    assert (again.paid["cost"], again.paid["tokens"]["prompt"]) == (4.0, 800)


def test_failures_that_differ_by_the_episode_alone_are_counted_together(tmp_path: Path):
    def sorry(messages, episode):
        raise MachineError(f"episode {episode}: no room")

    done = evaluate("milepost/Ladder-v0", sorry, out=tmp_path / "run", watch="nothing")
    assert done.failures == {"milepost.sandbox.core.MachineError: episode *: no room": 4}


def test_another_run_is_no_evaluation(tmp_path: Path):
    Run.open(tmp_path / "run", "ladder_gra").close()
    with pytest.raises(ValueError, match="holds a run of ladder_gra, expected one of evaluate"):
        read_results(tmp_path / "run")
    with pytest.raises(ValueError, match="is no run folder"):
        read_results(tmp_path / "nowhere")
