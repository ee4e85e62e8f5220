"""TextWorld: real games by level and seed, from a cache that is never half full."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import gymnasium as gym
import pytest

pytest.importorskip("textworld")

from milepost.envs.make import make
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


def test_the_oracle_wins():
    env = started()
    for command in oracle(env):
        _, reward, terminated, _, info = env.step(command)
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


def test_a_half_written_game_is_compiled_again(tmp_path):
    folder = tmp_path / LEVEL
    folder.mkdir()
    (folder / f"{TASK}.json").write_text("{")
    assert game_file(Level.parse(LEVEL), TASK, tmp_path).stat().st_size > 100_000
    assert sorted(path.name for path in folder.iterdir()) == [f"{TASK}.json", f"{TASK}.z8"]
    assert (folder / f"{TASK}.json").stat().st_size > 100


def test_two_processes_may_fill_one_cache(tmp_path):
    level = Level.parse(LEVEL)
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        files = [pool.submit(game_file, level, "50002", tmp_path) for _ in range(2)]
        assert {f.result() for f in files} == {tmp_path / LEVEL / "50002.z8"}
    assert sorted(path.name for path in (tmp_path / LEVEL).iterdir()) == ["50002.json", "50002.z8"]


def test_a_level_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"expected a name like w2-o3-q4 or w3-o6-q2\.\.4, got 'big'"):
        Level.parse("big")
