"""The software-engineering recipe: what its teacher shows, what its three methods pay, and that runs survive."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from guide_runs import metrics, weights
from sandboxes import need
from swe_envs import EASY, FIX, tiny_tasks

from milepost.agents.driver import play
from milepost.agents.scripted import ScriptedPolicy
from milepost.credit import advantage
from milepost.credit.core import assign
from milepost.credit.methods import resolve
from milepost.envs.core import Episode, Task, groups_of
from milepost.envs.runs import Run, read_episodes
from milepost.envs.swe.oracle import call
from milepost.recipes import swe_gra, textworld_guide
from milepost.recipes.cli import main
from milepost.recipes.console import parse
from milepost.recipes.demonstrator import Demonstrator, place
from milepost.recipes.games import Games
from milepost.recipes.guide import check_warmup_of, plain
from milepost.recipes.report import arms
from milepost.recipes.swe_gra import Args, SweGuide, measure

SMALL = shlex.split(
    "--model tiny --dtype fp32 --lora 4 --rl-layers 2 --packages tiny --n-train 2 --n-test 1 --n-probe 1 --games 1 "
    "--group 2 --warmup-updates 1 --warmup-demos 2 --updates 2 --probe-every 2 --save-every 1 --max-new-tokens 64"
)
LOOK, EDIT, SUBMIT = call("open", file="tiny.py"), call("edit", file="tiny.py", old=FIX[0], new=FIX[1]), "submit()"
TASKS = (
    EASY,
    replace(EASY, id="tiny-1.0:tiny.py:easy:1"),
    replace(EASY, id="tiny-1.0:tiny.py:easy:2", split="valid"),
    replace(EASY, id="tiny-1.0:tiny.py:easy:3", split="test"),
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with tiny_tasks(tmp_path_factory.mktemp("swe"), *TASKS) as path:
        yield path


def train(file: Path, out: Path, *flags: str) -> int:
    where = ["--tasks", str(file), "--backend", need("bubblewrap"), "--out", str(out)]
    return main(["train", "swe_gra", *SMALL, *where, *flags])


@pytest.fixture(name="gated", scope="module")
def the_run_of_two_updates_that_the_others_begin_from(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "gra"
    assert train(file, folder) == 0
    return folder


@pytest.fixture(name="episodes", scope="module")
def one_episode_of_every_end(file: Path) -> dict[str, Episode]:
    kwargs = {"tasks": str(file), "backend": need("bubblewrap"), "outcome": "gra", "max_episode_steps": 4}
    scripts = {
        "resolved": [LOOK, EDIT, SUBMIT],
        "patch": [call("edit", file="tiny.py", old="result = start", new="result = 7"), SUBMIT],
        "empty_patch": ["what is this", SUBMIT],
        "no_submission": [EDIT, call("open", file="none.py"), LOOK, LOOK],
    }
    return {
        end: play([Task("milepost/SWE-v0", kwargs, task=EASY.id, group=end)], ScriptedPolicy(moves))[0]
        for end, moves in scripts.items()
    }


def said(episodes: Iterable[Episode]) -> dict[str, list[str]]:
    return {e.id: [turn.action.text for turn in e.turns] for e in episodes if e.group.startswith("rl/0/")}


def rl(run: Path) -> list[Episode]:
    return [e for e in read_episodes(run) if e.group.startswith("rl/")]


EARNED = {
    # Three critics of 0.1 in a turn; a call that is read and not carried out passes two of them.
    "resolved": {"gra": [0.3, 0.3, 1.3], "dra": [0.3, 0.3, 1.3], "outcome": [0.0, 0.0, 1.0]},
    "patch": {"gra": [0.3, 0.8], "dra": [0.3, 0.8], "outcome": [0.0, 0.5]},
    "empty_patch": {"gra": [0.0, 0.0], "dra": [0.0, 0.3], "outcome": [0.0, 0.0]},
    "no_submission": {"gra": [0, 0, 0, -0.5], "dra": [0.3, 0.2, 0.3, -0.2], "outcome": [0, 0, 0, -0.5]},
}


@pytest.mark.parametrize("method", ["gra", "dra", "outcome"])
def test_each_method_pays_every_end_as_worked_by_hand(episodes: dict[str, Episode], method: Any):
    guide = SweGuide.__new__(SweGuide)
    guide.args = Args(method=method)
    credit = resolve(method, **guide.credit_options().get(method, {}))
    for end, episode in episodes.items():
        groups = groups_of([episode])
        assign([credit], groups)
        (((*earned,),),) = advantage.rewards(groups, [credit])
        assert [value or 0.0 for value in earned] == pytest.approx(EARNED[end][method]), end


def test_rates_and_rewards_are_those_of_the_episodes(episodes: dict[str, Episode]):
    found = measure(list(episodes.values()), step_weight=0.5)
    # Critics passed: 9 of 9, 6 of 6, 3 of 6, 11 of 12; outcomes 1, 0.5, 0 and -0.5.
    assert found == {
        "completion": 0.75,
        "modification": 0.5,
        "resolution": 0.25,
        "edited": 0.75,
        "stepwise": 0.5 * 29 / 4,
        "outcome": 0.25,
        "turns": 2.75,
    }
    assert measure([], 0.1) == {}


def test_the_teacher_looks_at_the_bug_before_it_mends_it(file: Path):
    kwargs = {"tasks": str(file), "backend": need("bubblewrap"), "max_lines": 5}
    (episode,) = play([Task("milepost/SWE-v0", kwargs, task=EASY.id)], Demonstrator())
    assert [turn.action.text for turn in episode.turns] == [call("open", file="tiny.py", line=16), EDIT, SUBMIT]
    assert "\n16|    return (low + high) * 2" in str(episode.turns[1].observation)
    assert episode.success


def test_the_teacher_remembers_its_slips_and_still_arrives(file: Path):
    kwargs = {"tasks": str(file), "backend": need("bubblewrap")}
    tasks = [Task("milepost/SWE-v0", kwargs, task=EASY.id, attempt=i) for i in range(6)]
    teacher = Demonstrator(0.4)
    played = play(tasks, teacher)
    right = {call("open", file="tiny.py", line=16), EDIT, SUBMIT}
    wrong = {(e.id, t) for e in played for t, turn in enumerate(e.turns) if turn.action.text not in right}
    assert wrong
    assert wrong == teacher.slips
    assert all(e.success for e in played)


@pytest.mark.parametrize(
    ("patch", "where"),
    [
        ("--- a/x.py\n+++ b/x.py\n@@ -3,3 +3,3 @@\n a\n-b\n+c\n d\n", ("x.py", 4)),
        ("--- a/x.py\n+++ b/x.py\n@@ -3,2 +3,3 @@\n a\n+b\n c\n", ("x.py", 4)),
        ("--- a/x.py\n+++ b/x.py\n@@ -1 +1 @@\n--a\n+b\n", ("x.py", 1)),
        ("--- /dev/null\n+++ b/x.py\n@@ -0,0 +1 @@\n+b\n", ("x.py", 1)),
    ],
)
def test_the_place_of_a_patch_is_its_first_line_that_changes(patch: str, where: tuple[str, int]):
    assert place(patch) == where


def test_a_patch_that_changes_nothing_has_no_place():
    with pytest.raises(ValueError, match="changes no file"):
        place("")


def test_a_run_keeps_every_turn_what_it_earned_and_what_became_of_its_episodes(gated: Path):
    rows = [row for row in metrics(gated) if "swe/outcome" in row]
    assert [row["update"] for row in rows] == [1, 2]
    trained = rl(gated)
    assert len(trained) == 2 * 2
    for turn in (turn for e in trained for turn in e.turns):
        assert set(turn.credit) == {"gra"}
        assert isinstance(turn.advantage, float)
    found = json.loads((gated / "summary.json").read_text())
    assert found["stages"]["oracle"]["measured"]["resolution"] == 1.0
    last = [e for e in read_episodes(gated) if e.runtime.get("policy") == "trained" and e.split == "test"]
    assert found["stages"]["trained"]["measured"] == measure(last, 0.1)
    assert {e.runtime["sandbox"]["backend"] for e in trained} == {"bubblewrap"}
    assert (gated / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_methods_begin_from_one_warm_up_and_differ_in_credit_alone(file: Path, gated: Path, tmp_path: Path):
    runs = {"gra": gated} | {method: tmp_path / method for method in ("dra", "outcome")}
    for method in ("dra", "outcome"):
        assert train(file, runs[method], "--method", method, "--warmup-of", str(gated)) == 0
    results = {method: arms.read(run) for method, run in runs.items()}
    for method, run in runs.items():
        assert {label for e in rl(run) for turn in e.turns for label in turn.credit} == {method}
        settings = results[method]["settings"]
        assert settings == results["gra"]["settings"] | {"method": method, "credit": [method]}
        assert results[method]["test"]["warmup"] == results["gra"]["test"]["warmup"]
        assert said(rl(run)) == said(rl(gated))
        for row in results[method]["updates"]:
            played = [e for e in rl(run) if e.group.startswith(f"rl/{row['update']}/")]
            paid = fmean(sum(turn.credit[method] or 0.0 for turn in e.turns) for e in played)
            assert row["paid"] == pytest.approx(paid, abs=1e-4)
            more = row["stepwise"] if method == "dra" else 0.0
            assert method == "gra" or paid == pytest.approx(row["outcome"] + more, abs=1e-3)
    picture = arms.draw(list(results.values()), tmp_path / "arms.png")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_results_that_were_kept_before_they_told_what_was_paid_are_drawn(tmp_path: Path):
    update = {"update": 0, "stepwise": 0.75, "outcome": 0.5}
    kept = {"method": "gra", "seed": 0, "updates": [update] * 2, "test": {"warmup": {}, "trained": {}}}
    for results in ([kept], [kept, kept | {"updates": [update | {"paid": 0.25}]}]):
        assert arms.draw(results, tmp_path / "arms.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_to_the_same_model(
    file: Path, gated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    cut = tmp_path / "cut"
    with monkeypatch.context() as patch:
        patch.setattr(Run, "finish", stop)
        assert train(file, cut) == 130
    newest = sorted((cut / "checkpoints").iterdir())
    shutil.rmtree(newest[-1])  # it goes on before the last stage's end
    assert train(file, cut, "--resume") == 0
    ours, whole = weights(cut), weights(gated)
    assert all(torch.equal(ours[name], whole[name]) for name in whole)
    assert metrics(cut) == metrics(gated)


def test_every_command_of_the_header_finds_its_bugs():
    told = re.sub(r"\n +--", " --", str(swe_gra.__doc__))
    commands = [shlex.split(line) for line in re.findall(r"milepost train swe_gra (.*)", told)]
    assert len(commands) == 3
    for words in commands:
        guide = SweGuide.__new__(SweGuide)
        guide.args = parse(Args, [*words, "--backend", need("bubblewrap")])
        games = Games(guide.args, guide.env_kwargs())
        assert len(games.of["train"]) == guide.args.n_train


def test_what_is_not_finished_has_no_result(tmp_path: Path):
    with Run.open(tmp_path / "run", "swe_gra", {}):
        pass
    with pytest.raises(ValueError, match="is not finished"):
        arms.read(tmp_path / "run")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--backend", "dokcer"], "milepost: sandbox backend: expected one of"),
        (["--option", "actions=bash"], "milepost: --option actions=bash: the teacher of the warm-up calls tools"),
    ],
)
def test_what_cannot_be_played_is_one_line(
    flags: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["train", "swe_gra", *SMALL, *flags, "--out", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err
    assert told.startswith(said)
    assert told.count("\n") == 1
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.parametrize("flag", ["--after cloning", "--credit dra", "--patience 3"])
def test_flags_that_would_change_nothing_are_not_taken(flag: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        parse(Args, flag.split())
    assert "Unrecognized" in capsys.readouterr().err


def test_the_warm_up_of_another_recipe_is_refused_with_what_differs(tmp_path: Path):
    with Run.open(tmp_path / "swe", "swe_gra", plain(Args(out=tmp_path / "swe"))) as run:
        (run.path / "warmup").mkdir()
        (run.path / "warmup" / "state.json").write_text("{}")
    with pytest.raises(
        ValueError, match=r"packages is \['cachetools', .*\] there, not set here; max_lines is 10 there"
    ):
        check_warmup_of(textworld_guide.Args(warmup_of=tmp_path / "swe"))
