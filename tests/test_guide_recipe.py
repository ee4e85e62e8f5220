"""The Guide's recipe, two updates of everything on a tiny model."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from guide_runs import LADDER, TEXTWORLD, metrics, train, weights, words

from milepost.envs.runs import read_episodes, read_run
from milepost.recipes.cli import main

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module", name="run")
def run_on_text_games(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on TextWorld, shared; its games are compiled into an empty cache."""
    folder = tmp_path_factory.mktemp("guide")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        assert train(folder / "run", env=TEXTWORLD) == 0
    return folder / "run"


@pytest.fixture(scope="module", name="ladder")
def run_on_the_ladder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the ladder, shared."""
    folder = tmp_path_factory.mktemp("guide") / "ladder"
    assert train(folder) == 0
    return folder


@pytest.fixture(name="my_folder")
def an_empty_folder_to_work_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_module", raising=False)
    return tmp_path


def printed(page: str) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.S)
    return str(code)


def summary(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "summary.json").read_text()))


def updates(run: Path) -> list[dict[str, Any]]:
    return [row for row in metrics(run) if "train/lr" in row]


def test_a_finished_run_says_all_that_it_reached(run: Path):
    found = summary(run)
    assert found["games"] == 2
    assert set(found["success"]) == {"random", "zero_shot", "warmup", "trained", "oracle"}
    assert found["success"]["oracle"] == 1.0
    assert 0.0 <= found["paired_p"] <= 1.0
    assert {"games", "warmup", "trained", "trained_games"} <= set(found["seconds"])
    assert not {"total", "all"} & set(found["seconds"])
    assert found["peak_rss_bytes"] > 100_000_000
    assert found["seed"] == 0
    assert {"python", "torch", "transformers", "textworld"} <= set(found["versions"])
    assert (run / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert read_run(run).status == "finished"


def test_the_curve_has_a_point_before_and_after_every_training(run: Path):
    assert [row["update"] for row in metrics(run) if "probe/success" in row] == [0, 1, 2, 3, 4]
    assert [row["update"] for row in updates(run)] == [0, 1, 2, 3]


def test_the_trained_model_loads_as_any_other(run: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(run / "model")
    tokenizer: Any = AutoTokenizer.from_pretrained(run / "model")
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "go"}], return_tensors="pt", return_dict=True)
    assert torch.isfinite(model(**ids).logits).all()
    assert not any("lora" in name for name, _ in model.named_parameters())


def test_every_episode_is_on_disk_with_what_its_turns_earned(run: Path):
    episodes = list(read_episodes(run))
    assert len({e.id for e in episodes}) == len(episodes)
    by_policy = {e.runtime["policy"] for e in episodes if e.split == "test"}
    assert by_policy == {"random", "oracle", "zero_shot", "warmup", "trained"}
    trained = [e for e in episodes if e.group.startswith("rl/")]
    assert len(trained) == 2 * 2 * 2
    for turn in (turn for e in trained for turn in e.turns):
        assert set(turn.credit) == {"progress", "validity"}
        assert isinstance(turn.advantage, float)
        assert turn.action.tokens is not None
    test = {e.task for e in episodes if e.split == "test"}
    assert not test & {e.task for e in episodes if e.split != "test"}


def test_the_run_can_be_shown_and_drawn(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["show", str(run)]) == 0
    assert "against warmup" in capsys.readouterr().out.replace("\n", " ")
    number = next(i for i, e in enumerate(read_episodes(run)) if e.group.startswith("rl/"))
    assert main(["show", str(run), "--episode", str(number)]) == 0
    assert "advantage" in capsys.readouterr().out
    assert main(["plot", str(run), "--out", str(tmp_path / "c.png")]) == 0
    assert (tmp_path / "c.png").exists()


def test_the_same_seed_gives_the_same_run_and_another_seed_another(ladder: Path, tmp_path: Path):
    assert train(tmp_path / "same") == 0
    assert train(tmp_path / "other", "--seed", "1") == 0
    assert metrics(tmp_path / "same") == metrics(ladder)
    ours, same, other = (weights(folder) for folder in (ladder, tmp_path / "same", tmp_path / "other"))
    assert all(torch.equal(ours[name], same[name]) for name in ours)
    assert not all(torch.equal(ours[name], other[name]) for name in ours)


def test_more_cloning_can_follow_the_warm_up_of_another_run(ladder: Path, tmp_path: Path):
    assert train(tmp_path / "run", "--warmup-of", str(ladder), "--after", "cloning") == 0
    assert [("loss/clone" in row, row["update"]) for row in updates(tmp_path / "run")] == [(True, 2), (True, 3)]
    assert summary(tmp_path / "run")["success"]["warmup"] == summary(ladder)["success"]["warmup"]


def test_more_cloning_goes_on_with_other_demonstrations(tmp_path: Path):
    assert train(tmp_path / "run", "--after", "cloning") == 0
    ids = [e.id for e in read_episodes(tmp_path / "run")]
    assert len(set(ids)) == len(ids)
    demonstrated = [e.group.split("/")[1] for e in read_episodes(tmp_path / "run") if e.group.startswith("demos/")]
    assert demonstrated == [str(update) for update in range(4) for _ in range(2)]


def test_rl_after_the_warm_up_of_another_run_is_what_it_would_have_been_there(ladder: Path, tmp_path: Path):
    assert train(tmp_path / "run", "--warmup-of", str(ladder)) == 0
    ours, theirs = weights(tmp_path / "run"), weights(ladder)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_printed_environment_trains_as_it_is(my_folder: Path, capsys: pytest.CaptureFixture[str]):
    (my_folder / "my_module.py").write_text(printed("your-environment.md"))
    assert train(my_folder / "run", env=["--env", "my_module:my/Guess-v0"]) == 0
    assert len(updates(my_folder / "run")) == 4
    assert summary(my_folder / "run")["success"]["oracle"] == 1.0
    assert "random: left out, as my_module:my/Guess-v0 has no info['actions']" in capsys.readouterr().out


def test_the_printed_credit_method_trains_as_it_is(my_folder: Path):
    (my_folder / "my_module.py").write_text(printed("your-credit.md"))
    assert train(my_folder / "run", "--credit", "progress", "my_module:MyCredit", "--warmup-updates", "0") == 0
    assert "credit/novelty/mean" in updates(my_folder / "run")[-1]
    assert any("novelty" in t.credit for e in read_episodes(my_folder / "run") for t in e.turns)


@pytest.mark.parametrize("flag", ["--n-train", "--games", "--group", "--probe-every", "--save-every"])
def test_a_number_that_would_leave_nothing_to_do_is_refused(
    flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert train(tmp_path / "run", flag, "0") == 2
    assert capsys.readouterr().err == f"milepost: {flag}: expected 1 or more, got 0\n"
    assert not (tmp_path / "run").exists()


def test_a_batch_may_span_two_epochs(tmp_path: Path):
    assert train(tmp_path / "run", "--n-train", "3", "--warmup-updates", "0", "--games", "2") == 0
    games = [str(e.task) for e in read_episodes(tmp_path / "run") if e.group.startswith("rl/")]
    assert [games.count(task) for task in sorted(set(games))] in ([4, 2, 2], [2, 4, 2], [2, 2, 4])
    assert train(tmp_path / "more", "--n-train", "1", "--warmup-updates", "0", "--games", "3") == 0
    assert len([e for e in read_episodes(tmp_path / "more") if e.group.startswith("rl/")]) == 2 * 3 * 2


@pytest.mark.slow
def test_two_ranks_train_like_one_process(ladder: Path, tmp_path: Path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, "-m", "milepost.recipes.textworld_guide", *words(tmp_path / "two", env=LADDER)[2:]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    ours, theirs = weights(ladder), weights(tmp_path / "two")
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) <= 1e-5
    assert summary(tmp_path / "two")["success"] == summary(ladder)["success"]
    counts = ("group/count", "credit/progress/judged", "credit/progress/not_finite", "samples/total")
    for one, both in zip(updates(ladder), updates(tmp_path / "two"), strict=True):
        assert [both.get(key) for key in counts] == [one.get(key) for key in counts]
    newest = max((tmp_path / "two" / "checkpoints").iterdir())
    assert (newest / "credits-r1.pt").exists(), "what the methods of the second process remember is kept, too"
    assert {e.id for e in read_episodes(tmp_path / "two")} == {e.id for e in read_episodes(ladder)}
