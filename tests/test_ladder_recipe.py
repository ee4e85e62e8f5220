"""The recipe learns, within a minute and from nothing, what its credit pays for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from milepost.credit.core import Credit
from milepost.envs.core import Episode
from milepost.envs.runs import Run, read_episodes, read_metrics
from milepost.recipes import ladder_gra
from milepost.recipes.ladder_gra import Args

SEEDS = range(5)


def summary_of(args: Args) -> dict[str, float]:
    ladder_gra.main(args)
    summary: dict[str, float] = json.loads((args.out / "summary.json").read_text())
    return summary


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.slow
def test_gated_small_rewards_let_the_agent_win(seed, tmp_path):
    summary = summary_of(Args(credit="gra", seed=seed, out=tmp_path))
    assert summary["outcome/success"] >= 0.8


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.slow
def test_summed_small_rewards_let_the_agent_farm(seed, tmp_path):
    summary = summary_of(Args(credit="dra", seed=seed, out=tmp_path))
    assert summary["outcome/success"] <= 0.1
    assert summary["earned/dust"] >= 2.0


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of two updates."""
    return two_updates(tmp_path_factory.mktemp("run") / "whole")


def two_updates(out: Path, **settings: Any) -> Path:
    ladder_gra.main(Args(out=out, updates=2, warmup_updates=2, groups=2, group=2, **settings))
    return out


def test_two_updates_leave_a_model_that_transformers_loads(whole):
    model = AutoModelForCausalLM.from_pretrained(whole / "model")
    assert AutoTokenizer.from_pretrained(whole / "model").chat_template
    assert sum(p.numel() for p in model.parameters()) < 500_000


def test_two_updates_leave_curve_metrics_and_what_every_turn_earned(whole):
    assert (whole / "curve.png").stat().st_size > 1000
    assert [row["update"] for row in read_metrics(whole)] == [0, 1]
    trained = [e for e in read_episodes(whole) if e.split == "train"]
    assert len(trained) == 8
    assert all("gra" in turn.credit for episode in trained for turn in episode.turns)


def test_a_finished_run_says_so_and_changes_nothing(whole, capsys):
    before = (whole / "summary.json").read_bytes()
    two_updates(whole, resume=True)
    assert "is finished; nothing to do" in capsys.readouterr().out
    assert (whole / "summary.json").read_bytes() == before


def test_a_run_without_a_checkpoint_starts_over_and_says_so(whole, tmp_path, monkeypatch, capsys):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ladder_gra, "measure", stop)
        with pytest.raises(KeyboardInterrupt):
            two_updates(tmp_path / "run")
    two_updates(tmp_path / "run", resume=True)
    assert "has no checkpoint; starting over" in capsys.readouterr().out
    again, first = ((run / "model/model.safetensors").read_bytes() for run in (tmp_path / "run", whole))
    assert again == first


class Counting(Credit):
    """Remembers how many turns it has seen."""

    name = "counting"

    def __init__(self) -> None:
        self.n = 0

    def on_turn(self, episode: Episode) -> float:
        self.n += 1
        return 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"n": self.n}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.n = state["n"]


def test_a_method_that_remembers_goes_on_with_what_it_had(tmp_path, monkeypatch):
    class Stopped(Exception):
        pass

    def stop(*_: object) -> None:
        raise Stopped

    small: dict[str, Any] = {
        "updates": 10,
        "warmup_updates": 1,
        "groups": 1,
        "group": 2,
        "credit": f"{__name__}:Counting",
    }
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    ladder_gra.main(Args(out=whole, **small))
    with monkeypatch.context() as patch:
        patch.setattr(Run, "finish", stop)
        with pytest.raises(Stopped):
            ladder_gra.main(Args(out=cut, **small))
    shutil.rmtree(cut / "checkpoints" / "000009")
    ladder_gra.main(Args(out=cut, resume=True, **small))
    counts = [torch.load(run / "checkpoints/000009/credit.pt")["state"]["n"] for run in (whole, cut)]
    assert counts[0] == counts[1] > 0


def test_any_method_of_the_table_or_of_a_module_trains(tmp_path):
    for n, credit in enumerate(("outcome", "progress", "milepost.credit.gra:GRA")):
        assert (two_updates(tmp_path / str(n), credit=credit) / "summary.json").exists()
