"""The contract's checker passes what keeps the contract and names what does not."""

from __future__ import annotations

import re
from pathlib import Path

import gymnasium as gym
import pytest
from broken_envs import BROKEN, GOOD, GoodEnv

from milepost.envs.check import check
from milepost.envs.core import Utf8
from milepost.envs.make import env_ids, make


def test_an_environment_that_keeps_the_contract_passes():
    report = check(GOOD)
    assert report.ok, report.failures


@pytest.mark.parametrize(("env_id", "rule"), BROKEN.items())
def test_a_broken_environment_fails_for_its_own_reason_alone(env_id, rule):
    report = check(env_id)
    assert [finding.rule for finding in report.failures] == [rule], report.failures
    assert re.search(r"\w \w.*\.$", report.failures[0].text), "a sentence"


def test_an_instance_is_checked_as_its_id_is():
    assert check(gym.make(GOOD)).ok
    assert [finding.rule for finding in check(gym.make("milepost-tests/LosingOracle-v0")).failures] == ["oracle"]


def test_what_is_optional_is_reported_as_absent_and_never_as_a_failure():
    class Bare(gym.Env):
        observation_space = action_space = Utf8()

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return "say yes", {}

        def step(self, action):
            return "so be it", 0.0, action == "yes", False, {}

    report = check(Bare())
    assert report.ok, report.failures
    absent = " ".join(finding.text for finding in report.notes if finding.rule == "absent")
    assert all(name in absent for name in ("potential", "outcome", "oracle", "tasks", "score"))


def test_a_turn_limit_without_a_score_is_told_what_it_costs():
    class Unscored(GoodEnv):
        score = property()  # type: ignore[assignment]

    gym.register("milepost-tests/Unscored-v0", lambda **kwargs: Unscored(**kwargs), max_episode_steps=7)
    report = check("milepost-tests/Unscored-v0")
    assert report.ok, report.failures
    (note,) = (finding.text for finding in report.notes if finding.rule == "limit")
    assert note.startswith("there is a limit of 7 turns and no score()")


def test_whether_it_is_replayable_is_proved():
    (note,) = (finding.text for finding in check(GOOD).notes if finding.rule == "replay")
    assert note.startswith("replayable: ")


def test_an_answer_in_the_first_observation_is_a_leak():
    class Tells(GoodEnv):
        def reset(self, *, seed=None, options=None):
            text, info = super().reset(seed=seed, options=options)
            return f"{text} (it is Paris)", info | {"answer": "Rome", "aliases": ["PARIS"]}

    assert [finding.rule for finding in check(Tells()).failures] == ["leak"]


def test_an_environment_that_takes_no_text_is_named():
    class Numbers(GoodEnv):
        action_space = gym.spaces.Discrete(3)  # type: ignore[assignment]

    assert [finding.rule for finding in check(Numbers()).failures] == ["action"]


def test_a_reset_that_raises_is_a_failure_and_not_a_traceback():
    class Raises(GoodEnv):
        def reset(self, *, seed=None, options=None):
            raise KeyError("no such file")

    ((rule, text),) = check(Raises()).failures
    assert rule == "reset"
    assert "KeyError: 'no such file'" in text


def test_an_unknown_id_is_answered_with_the_nearest():
    with pytest.raises(gym.error.UnregisteredEnv, match="did you mean 'milepost-tests/Good-v0'"):
        make("milepost-tests/Goud-v0")


def test_an_unknown_option_of_a_known_id_is_one_line():
    with pytest.raises(ValueError, match=r"^milepost-tests/Good-v0 has no option 'level'; it has none$"):
        make(GOOD, level=3)


def test_an_id_of_a_module_in_the_current_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    text = "import gymnasium\ngymnasium.register('mine/X-v0', 'broken_envs:GoodEnv')\n"
    (tmp_path / "a_module_of_mine.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    assert isinstance(make("a_module_of_mine:mine/X-v0").unwrapped, GoodEnv)
    with pytest.raises(ValueError, match="no module 'another_of_mine'"):
        make("another_of_mine:mine/X-v0")


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "needs_more.py").write_text("import a_package_nobody_has\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    with pytest.raises(gym.error.DependencyNotInstalled, match="needs a_package_nobody_has: pip install"):
        make("needs_more:mine/Y-v0")


SLOW = {"milepost/SWE-v0"}
"""Fetches packages and runs their tests; test_swe_env.py checks it on a package of two files."""


@pytest.mark.parametrize("env_id", [pytest.param(i, marks=[pytest.mark.slow] * (i in SLOW)) for i in env_ids()])
def test_every_environment_of_ours_keeps_the_contract(env_id, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # nothing compiled yet
    report = check(env_id)
    assert report.ok, report.failures
