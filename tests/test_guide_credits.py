"""Every credit method and estimator that text games can serve trains through the Guide's recipe; the others say why."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from guide_runs import LADDER, TEXTWORLD, metrics, train, weights, words

from milepost.agents.local import models, tiny
from milepost.agents.local.policy import LocalPolicy
from milepost.credit import methods
from milepost.credit.cards import card_of
from milepost.credit.core import Credit
from milepost.credit.made import episode
from milepost.envs.runs import read_episodes
from milepost.recipes.estimate import estimate, paired
from milepost.recipes.guide import Guide
from milepost.recipes.parts import credits_of

ALONE = (
    *("outcome", "dense", "progress", "validity", "gra", "dra", "spa", "oprl", "prime", "agentprm", "vineppo", "spo"),
    *("archer", "turn", "rloo", "grpo", "loop", "reinforce_pp", "gigpo", "hgpo", "tree_grpo", "empg"),
)
SERVED = {name: name for name in ALONE} | {
    "critic": "progress critic",
    "turn_critic": "progress validity turn_critic",
    "ppo": "spa critic",
    "turn_ppo": "turn_critic",
    "bilevel_gae": "progress critic bilevel_gae",
    "monte_carlo": "vineppo monte_carlo",
    "as_is": "archer as_is",
    "q_rloo": "agentprm q_rloo",
    "spo_segments": "progress spo",
    "istar": "oprl istar",
    "prime_rloo": "prime prime_rloo",
    "pooled": "progress pooled",
    "mt_grpo": "progress mt_grpo",
    "pure": "progress pure",
    "gdpo": "progress validity gdpo",
}
"""Method -> what is given to ``--credit``."""
REFUSED = {
    **dict.fromkeys(("igpo", "mig", "tips", "trace", "r3"), r"needs info\['answer'\] from reset"),
    **dict.fromkeys(("oni_retrieval", "oni_classification", "oni_ranking"), "needs (an annotator|info)"),
    "calm": "needs (an annotator|info)",
    "nous": "needs what is believed of the task's slots",
    "sweet": "needs what only training may see",
}
"""Method -> why text games cannot serve it."""
QUICK = ["--warmup-updates", "0", "--n-test", "1", "--probe-every", "9"]
ELSEWHERE = {"trace_sum"}
"""Pairs with a method that is refused."""


def updates(run: Path) -> list[dict[str, float]]:
    return [row for row in metrics(run) if "train/lr" in row]


@pytest.fixture(scope="module", autouse=True)
def one_cache_of_games(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def test_every_reward_and_estimator_is_served_or_refused():
    asked = {name for name in methods.TABLE if card_of(methods.look_up(name)).kind in ("reward", "estimator")}
    assert asked == set(SERVED) | set(REFUSED) | ELSEWHERE


@pytest.mark.parametrize("name", SERVED)
def test_it_trains_on_text_games(name: str, tmp_path: Path):
    asked = SERVED[name].split()
    assert train(tmp_path / "run", "--credit", *asked, *QUICK, env=TEXTWORLD) == 0
    rows = updates(tmp_path / "run")
    assert len(rows) == 2
    trained = [e for e in read_episodes(tmp_path / "run") if e.group.startswith("rl/")]
    for method in asked:
        if card_of(methods.look_up(method)).kind == "reward":
            assert f"credit/{method}/mean" in rows[-1]
            assert all(method in turn.credit for e in trained for turn in e.turns)
    assert all(turn.advantage is not None for e in trained for turn in e.turns if e.outcome is not None)


@pytest.mark.parametrize("name", REFUSED)
def test_what_text_games_lack_is_said_in_one_line_before_a_game_is_played(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert train(tmp_path / "run", "--credit", name, *QUICK, env=TEXTWORLD) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("milepost: ")
    assert re.search(REFUSED[name], line), line
    assert not (tmp_path / "run").exists(), "nothing was played"


@pytest.mark.parametrize(
    "name", ["spa", *(pytest.param(name, marks=pytest.mark.slow) for name in ("oprl", "prime", "critic", "archer"))]
)
def test_a_run_stopped_between_two_updates_ends_like_one_that_was_not(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    flags = ["--credit", *SERVED[name].split(), *QUICK]
    assert train(tmp_path / "whole", *flags) == 0

    save = Guide.save

    def save_and_stop(self: Guide) -> Path:
        folder = save(self)
        if self.training == "trained" and self.trainer is not None and self.trainer.n_updates == 1:
            raise KeyboardInterrupt
        return folder

    with monkeypatch.context() as patch:
        patch.setattr(Guide, "save", save_and_stop)
        assert train(tmp_path / "stopped", *flags) == 130
    assert train(tmp_path / "stopped", *flags, "--resume") == 0
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "whole")
    ours, theirs = weights(tmp_path / "stopped"), weights(tmp_path / "whole")
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    kept, whole = (
        torch.load(max((tmp_path / run / "checkpoints").iterdir()) / "credits.pt", weights_only=True)
        for run in ("stopped", "whole")
    )
    assert differs(kept, whole) == []


def differs(a: Any, b: Any, where: str = "state") -> list[str]:
    """Return where two saved states differ, in any bit."""
    if isinstance(a, torch.Tensor):
        return [] if torch.equal(a, b) else [where]
    if isinstance(a, dict):
        return [x for key in a.keys() | b.keys() for x in differs(a.get(key), b.get(key), f"{where}.{key}")]
    if isinstance(a, list | tuple):
        return [x for i, (p, q) in enumerate(zip(a, b, strict=True)) for x in differs(p, q, f"{where}[{i}]")]
    return [] if a == b else [where]


def test_an_estimator_beside_another_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert train(tmp_path / "run", "--credit", "gigpo", "--estimator", "rloo", env=LADDER) == 2
    assert "expected one estimator, got gigpo, --estimator rloo" in capsys.readouterr().err
    assert train(tmp_path / "run", "--credit", "progress", "--estimator", "ppo", env=LADDER) == 2
    assert "--estimator ppo needs a critic in --credit" in capsys.readouterr().err
    assert train(tmp_path / "run", "--credit", "progress", "--estimator", "krc", env=LADDER) == 2
    assert "--estimator krc: expected an estimator, got a combiner" in capsys.readouterr().err


def test_credit_that_an_estimator_would_not_read_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert train(tmp_path / "run", "--credit", "progress", "oprl") == 2
    assert "--estimator istar reads 'oprl' alone, not progress (turn adds them up)" in capsys.readouterr().err
    assert train(tmp_path / "run", "--credit", "gra", "vineppo") == 2
    assert "'gra' judges after it" in capsys.readouterr().err


def test_a_methods_options_are_checked_before_anything_is_played_and_then_hold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = tmp_path / "run"
    assert train(run, "--credit", "dra", "--credit-option", "dra.profile=swee", env=LADDER) == 2
    assert "no profile 'swee' (did you mean 'swe'?)" in capsys.readouterr().err
    assert not run.exists()
    assert train(run, "--credit", "dra", "--credit-option", "dra.terms={}", "--updates", "1", env=LADDER) == 0
    (row,) = [row for row in updates(run) if "credit/dra/total" in row]
    assert row["credit/dra/total"] == row["outcome/mean"]


def test_a_process_model_begins_as_the_policy_is_when_rl_begins(tmp_path: Path):
    flags = ["--credit", "oprl", "--warmup-updates", "30", "--n-test", "1", "--updates", "1"]
    assert train(tmp_path / "run", *flags) == 0
    (first,) = [row for row in updates(tmp_path / "run") if "credit/oprl/mean" in row]
    assert abs(first["credit/oprl/mean"]) < 1e-5


def policy(tmp_path: Path) -> LocalPolicy:
    return LocalPolicy(*models.load(tiny.build(tmp_path), lora=4), max_new_tokens=3)


def test_a_critic_expects_what_all_others_pay_discounted_as_the_recipe_does(tmp_path: Path):
    for names in (["progress", "turn_critic"], ["turn_critic", "progress"]):
        made = dict(zip(names, credits_of(names, policy(tmp_path), seed=0, lr=1e-3, gamma=0.9), strict=True))
        critic: Any = made["turn_critic"]
        assert (list(critic.rewards), critic.gamma) == ([made["progress"]], 0.9)
    found: list[Any] = credits_of(["progress", "vineppo"], policy(tmp_path), seed=0, lr=1e-3, gamma=0.8)
    assert (found[1].labels, found[1].gamma) == ([found[0]], 0.8)
    (token_critic,) = credits_of(["critic"], policy(tmp_path), seed=0, lr=1e-3, gamma=0.8)
    assert vars(token_critic)["gamma"] == 1.0, "per token, nothing is discounted"


class Pays(Credit):
    name = "progress"


class Expects(Credit):
    name, channel, pair = "vineppo", "value", "monte_carlo"


def test_values_that_are_right_leave_no_advantage():
    # earned .25 a turn and 1 in the end; gamma .5: V = .25 + .5 * next, the last 1.25
    values = [0.25 + 0.5 * (0.25 + 0.5 * 1.25), 0.25 + 0.5 * 1.25, 1.25]
    e = episode(1.0, credit={"progress": [0.25] * 3, "vineppo": values})
    ((row,),) = estimate("monte_carlo", [[e]], [Pays(), Expects()], 0.5)
    assert row == pytest.approx([0.0, 0.0, 0.0])


def test_fresh_attempts_earn_what_the_methods_beside_pay(tmp_path: Path):
    assert train(tmp_path / "run", "--credit", "validity", "vineppo", *QUICK) == 0
    played = [e for e in read_episodes(tmp_path / "run") if e.group.startswith("rl/")]
    values = [float(np.sum(v)) for e in played for t in e.turns if (v := t.credit["vineppo"]) is not None]
    assert min(values) < 0, "an untrained model is charged for what it cannot say"


def test_an_attempt_that_only_took_longer_to_win_gets_no_more_for_it():
    # Q of a win is gamma ** turns left: the last turns earn 1. Summed to the end the longer attempt would get more.
    rows = [[0.95, 1.0], [0.95**4, 0.95**3, 0.95**2, 0.95, 1.0]]
    group = [episode(1.0, id=str(len(row)), credit={"agentprm": row}) for row in rows]
    name, _ = paired("auto", ["agentprm"])
    ((short, long),) = estimate(name, [group], [methods.resolve("agentprm")], 0.9)
    assert short[0] == pytest.approx(0.95 - 0.95**4)
    assert long[0] == pytest.approx(0.95**4 - 0.95)


@pytest.mark.slow
def test_whitening_over_two_ranks_is_that_of_one_process(tmp_path: Path):
    flags = ["--credit", "progress", "turn_critic", *QUICK]
    assert train(tmp_path / "one", *flags) == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, "-m", "milepost.recipes.textworld_guide", *words(tmp_path / "two", *flags)[2:]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    ours, theirs = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) <= 1e-5
