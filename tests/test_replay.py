"""A recorded episode leads back to the state before any of its turns."""

from __future__ import annotations

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from broken_envs import GOOD

from milepost.envs.core import Action, Episode
from milepost.envs.hooks import TurnHooks
from milepost.envs.replay import replay, same


def played(seed: int | None = 5, task: str | None = None) -> Episode:
    env = TurnHooks(gym.make(GOOD))
    env.reset(seed=seed, options={"task": task} if task else None)
    for move in ("1", "nonsense", "1"):
        env.step(move)
    return env.episode


@pytest.mark.parametrize("t", [0, 1, 2, 3])
def test_the_state_before_a_turn_is_there_again(t):
    episode = played()
    again = replay(gym.make(GOOD), episode, t)
    assert again.episode.view(t) == episode.view(t)
    assert again.episode.info_before(t) == episode.info_before(t)
    assert len(again.episode.turns) == t


def test_a_task_by_name_is_found_without_its_seed():
    episode = played(seed=None, task="t11")
    assert replay(gym.make(GOOD), episode, 2).episode.task == "t11"


def test_a_branch_goes_on_differently():
    env = replay(gym.make(GOOD), played(task="t10"), 2)
    env.step("1")
    *_, info = env.step("2")
    assert info["outcome"] == 1.0


def test_an_observation_that_differs_is_named():
    episode = played()
    episode.turns[1] = replace(episode.turns[1], action=Action("2"))
    with pytest.raises(ValueError, match="before turn 2: expected 'Not understood"):
        replay(gym.make(GOOD), episode, 3)


def test_a_turn_that_was_not_played_is_refused():
    with pytest.raises(ValueError, match=r"expected a turn of 0\.\.3, got 4"):
        replay(gym.make(GOOD), played(), 4)


def test_observations_with_images_are_compared_by_value():
    black, white = np.zeros((1, 1, 3), np.uint8), np.ones((1, 1, 3), np.uint8)
    assert same({"images": [black]}, {"images": [black.copy()]})
    assert not same({"images": [black]}, {"images": [white]})
    assert not same({"images": [black]}, "text")
