"""TextWorld: real games by level and seed."""

from __future__ import annotations

import math
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import gymnasium as gym
import pytest

pytest.importorskip("textworld")

from milepost.envs import textworld, textworld_interpreter
from milepost.envs.core import Episode
from milepost.envs.hooks import TurnHooks
from milepost.envs.make import make
from milepost.envs.replay import replay
from milepost.envs.textworld import parse_command
from milepost.envs.textworld_games import Level, game_file, tasks

LEVEL = "w2-o3-q2"
TASK = "50001"


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def started(**options) -> gym.Env:
    env = make("milepost/TextWorld-v0", level=LEVEL, **options)
    env.reset(options={"task": TASK})
    return env


def oracle(env: gym.Env) -> list[str]:
    return env.get_wrapper_attr("oracle")()


def won(env: gym.Env) -> tuple:
    """Play the oracle's commands and return what the last step did."""
    return [env.step(command) for command in oracle(env)][-1]


def test_the_oracle_wins():
    _, reward, terminated, _, info = won(started())
    assert (terminated, reward, info["outcome"], info["success"]) == (True, 1.0, 1.0, True)


def test_commands_that_are_not_admissible_cost_the_turn_and_change_nothing():
    env = started()
    _, before = env.reset(options={"task": TASK})
    for text in ("", "\n", "fly to the moon", "\U0001f600", "{"):
        shown, reward, terminated, _, info = env.step(text)
        assert shown.startswith("You can't do that.")
        assert (reward, terminated, info["valid"], info["state_key"]) == (0.0, False, False, before["state_key"])


def test_the_closest_answer_names_three_admissible_commands_and_the_plain_one_none():
    closest = started(on_invalid="closest")
    shown, *_, info = closest.step(oracle(closest)[0] + " now")
    named = shown.removeprefix("You can't do that. You can: ").rstrip(".").split(", ")
    assert oracle(closest)[0] in named
    assert len(named) <= 3
    assert set(named) <= set(info["actions"])
    assert started(on_invalid="plain").step("fly")[0] == "You can't do that."


def test_progress_is_the_drop_of_the_plan_at_that_state_after_detours_too():
    env = started()
    _, info = env.reset(options={"task": TASK})
    potential = info["potential"]
    for _ in range(6):
        detour = next((a for a in info["actions"] if a not in oracle(env) and a.startswith("go ")), oracle(env)[0])
        *_, terminated, _, info = env.step(detour)
        assert info["reward_components"]["progress"] == info["potential"] - potential
        assert info["potential"] == -len(oracle(env))
        potential = info["potential"]
        if terminated:
            break


def test_two_environments_play_one_game_alike_and_apart():
    one, other = started(), started()
    moves = ["fly", *oracle(one)]
    assert [one.step(m)[0] for m in moves] == [other.step(m)[0] for m in moves]
    assert oracle(other) == []
    assert oracle(started()) == moves[1:]


def test_the_same_seed_draws_the_same_task():
    env = make("milepost/TextWorld-v0", level=LEVEL)
    assert env.reset(seed=3)[1]["task_id"] == env.reset(seed=3)[1]["task_id"]


def test_splits_share_no_game():
    ids = [task for split in ("train", "valid", "test") for task in tasks(split)]
    assert len(set(ids)) == len(ids)


def test_what_an_agent_wrote_is_read_from_its_first_line():
    assert parse_command("\n > Go   East.\nand then") == "go east"


def test_a_goal_that_is_reached_has_the_potential_zero_without_a_sign():
    *_, info = won(started())
    assert math.copysign(1.0, info["potential"]) == 1.0


def test_the_limit_asks_for_the_score_and_an_end_gives_the_same():
    env = TurnHooks(make("milepost/TextWorld-v0", level=LEVEL, max_episode_steps=2))
    env.reset(options={"task": TASK})
    env.step("fly")
    *_, terminated, truncated, info = env.step("fly")
    assert (terminated, truncated, info["outcome"]) == (False, True, 0.0)
    env.reset(options={"task": TASK})
    *_, info = won(env)
    assert info["outcome"] == env.get_wrapper_attr("score")() == 1.0


def test_the_outcome_may_be_the_share_of_the_score():
    env = started(outcome="score")
    score = env.get_wrapper_attr("score")
    assert score() == 0.0
    *_, info = won(env)
    assert info["outcome"] == score() == 1.0


def test_show_commands_lists_what_may_change_the_state_and_a_refusal_lists_it_once():
    env = make("milepost/TextWorld-v0", level=LEVEL, show_commands=True)
    shown, info = env.reset(options={"task": TASK})
    listed = shown.rpartition("You can: ")[2].rstrip(".").split(", ")
    assert set(listed) < set(info["actions"])
    assert set(info["actions"]) - set(listed) >= {"look", "inventory"}
    assert env.step("fly")[0].count("You can: ") == 1


def test_the_answer_all_names_every_command_that_may_change_the_state():
    shown, *_, info = started(on_invalid="all").step("fly")
    named = shown.removeprefix("You can't do that. You can: ").rstrip(".").split(", ")
    idle = ("look", "inventory", "examine ")
    assert named == [command for command in info["actions"] if not command.startswith(idle)]


def test_sizes_count_instead_of_the_levels():
    env = make("milepost/TextWorld-v0", level="w5-o9-q9", rooms=2, objects=3, quest_length=2)
    _, info = env.reset(options={"task": TASK})
    assert info["potential"] == -2.0
    assert str(env.unwrapped.level) == LEVEL  # type: ignore[attr-defined]
    assert str(Level.parse("w3-o6-q4", quest_length="2..3")) == "w3-o6-q2..3"


def played() -> Episode:
    """Return an episode with a refusal, a detour and the win."""
    env = TurnHooks(started())
    env.reset(seed=0, options={"task": TASK})
    for command in ("fly", "inventory", *env.get_wrapper_attr("oracle")()):
        env.step(command)
    return env.episode


def test_any_state_of_an_episode_is_played_again():
    episode = played()
    for t in range(len(episode.turns) + 1):
        again = replay(started(), episode, t)
        assert again.episode.info_before(t)["state_key"] == episode.info_before(t)["state_key"]
    with pytest.raises(ValueError, match="before turn 0: expected"):
        replay(started(show_commands=True), episode, 1)


def test_threads_play_one_game_without_mixing_its_states():
    def play(command: str) -> list[str]:
        env = started()
        return [env.step(move)[0] for move in [command, "fly", *oracle(env)]]

    starts = [started().reset(options={"task": TASK})[1]["actions"][i % 4] for i in range(16)]
    alone = {command: play(command) for command in starts}
    textworld.game(textworld.game_file(Level.parse(LEVEL), TASK)).stop()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(play, starts)) == [alone[command] for command in starts]


def test_more_games_than_run_at_once_are_played_to_their_ends(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(textworld_interpreter, "N_RUNNING", 1)
    monkeypatch.setattr(textworld_interpreter, "N_SEEN", 2)
    envs = [started(), started(), make("milepost/TextWorld-v0", level=LEVEL)]
    envs[-1].reset(options={"task": "50002"})
    ended: set[int] = set()
    while len(ended) < len(envs):
        for i in set(range(len(envs))) - ended:
            *_, terminated, _, info = envs[i].step(oracle(envs[i])[0])
            if terminated:
                assert info["success"]
                ended.add(i)
    assert len(textworld_interpreter._RUNNING) == 1


def test_an_environment_travels_to_another_process_in_the_state_it_is_in():
    env = started()
    env.step(oracle(env)[0])
    assert oracle(pickle.loads(pickle.dumps(env))) == oracle(env)


def test_a_game_starts_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        textworld.game(game_file(Level.parse(LEVEL), TASK)).stop()
        started()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"level": "big"}, r"level: expected a name like w2-o3-q4 or w3-o6-q2\.\.4, got 'big'"),
        ({"level": "w0-o3-q4"}, "rooms: expected a number from 1, got 0"),
        ({"level": "w2-o3-q4..2"}, r"quest_length: expected the shorter first, got 4\.\.2"),
        ({"quest_length": "long"}, "quest_length: expected a number from 1, got long"),
        ({"objects": -1}, "objects: expected a number from 1, got -1"),
        ({"split": "dev"}, "split: expected one of train, valid, test, got 'dev'"),
        ({"outcome": "points"}, "outcome: expected win or score, got 'points'"),
        ({"on_invalid": "best"}, "on_invalid: expected plain, closest or all, got 'best'"),
        ({"room": 3}, r"has no option 'room' \(did you mean 'rooms'\?\); it has: level, "),
    ],
)
def test_a_wrong_option_is_answered_in_one_line(options, line):
    with pytest.raises(ValueError, match=line) as error:
        make("milepost/TextWorld-v0", **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("task", ["first", "-1", "1.5", "4294967296", ""])
def test_a_task_that_is_no_seed_is_refused(task):
    with pytest.raises(ValueError, match=f"task: expected a seed such as 50001, got '{task}'"):
        started().reset(options={"task": task})


def test_a_missing_textworld_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(textworld, "find_spec", lambda name: None)
    with pytest.raises(gym.error.DependencyNotInstalled, match=r"needs textworld: pip install 'milepost\[textworld\]'"):
        make("milepost/TextWorld-v0")


def test_a_step_before_the_first_reset_says_so():
    with pytest.raises(gym.error.ResetNeeded, match="call reset before"):
        make("milepost/TextWorld-v0").unwrapped.step("look")
