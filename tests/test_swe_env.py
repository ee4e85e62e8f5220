"""milepost/SWE-v0: what an episode earns, how it ends, and what happens when machines break."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from sandboxes import EACH, need
from swe_envs import EASY, FIX, HARD, OTHER_FIX, SAID, TASK, TWO, begun, options, oracle, solve, tiny_tasks
from swe_images import image_with

from milepost.agents.driver import play
from milepost.agents.scripted import OraclePolicy, ScriptedPolicy
from milepost.credit.gra import DRA, GRA, SWE_PROFILE
from milepost.envs.check import check
from milepost.envs.core import Stop, Task
from milepost.envs.hooks import TurnHooks
from milepost.envs.make import make
from milepost.envs.replay import replay
from milepost.envs.swe import bench, places
from milepost.envs.swe.env import WORTH, SweEnv
from milepost.envs.swe.grade import Grade
from milepost.envs.swe.oracle import call
from milepost.envs.swe.tasks import gold
from milepost.sandbox.core import SandboxError

HALF = ("return (low + high) * 2", "return 4")
"""Mends one of the two failing tests."""
WORSE = ("result = start", "result = start + 1")
"""Breaks the two that pass."""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with tiny_tasks(tmp_path_factory.mktemp("swe")) as path:
        yield path


def edits(*pairs: tuple[str, str]) -> list[str]:
    return [call("edit", file="tiny.py", old=old, new=new) for old, new in pairs]


def played(env: TurnHooks, *moves: str) -> dict[str, Any]:
    info: dict[str, Any] = {}
    for move in moves:
        *_, info = env.step(move)
    return info


@pytest.mark.parametrize("form", ["tools", pytest.param("bash", marks=pytest.mark.slow)])
def test_it_keeps_the_contract(file: Path, form: str):
    report = check("milepost/SWE-v0", **options(file, actions=form))
    assert report.ok, report.failures
    assert any("replayable" in finding.text for finding in report.notes)


@pytest.mark.parametrize("backend", EACH)
def test_the_oracle_solves_it_on_every_backend_and_the_record_says_where(file: Path, backend: str):
    with begun(file, TWO, backend=backend) as env:
        assert solve(env)["success"]
        assert env.episode.outcome == 1.0
        assert env.episode.runtime["sandbox"]["backend"] == backend
        json.dumps(env.episode.runtime)


def test_the_first_observation_is_the_statement_and_the_answer_stays_in_the_record(file: Path):
    with begun(file) as env:
        assert env.episode.last == SAID
        assert env.episode.info["answer"] == gold(EASY)
        assert "-    return (low + high) * 2\n+    return (low + high) // 2\n" in gold(EASY)


def test_components_stand_where_they_were_earned(file: Path):
    with begun(file) as env:
        played(env, *[call("run_tests")], *edits(HALF), call("run_tests"), call("run_tests"), "nonsense")
        played(env, *edits(WORSE), call("run_tests"), call("submit"))
    rows = [turn.info["reward_components"] for turn in env.episode.turns]
    assert [row["tests"] for row in rows] == [0, 0, 1, 0, 0, 0, 1, 0]
    assert [row["patch"] for row in rows] == [0, 1, 0, 0, 0, 0, 0, 0]
    assert [row["format"] for row in rows] == [1, 1, 1, 1, 0, 1, 1, 1]
    assert [set(row) - set(rows[0]) for row in rows] == [set()] * 7 + [{"fail_to_pass", "regressions"}]
    assert (rows[-1]["fail_to_pass"], rows[-1]["regressions"]) == (0.5, -1.0)
    assert [turn.reward for turn in env.episode.turns] == [0.0] * 8


ENDS: list[tuple[tuple[tuple[str, str], ...], str, dict[str, float]]] = [
    ((FIX,), "resolved", {"resolved": 1.0, "fraction": 1.0, "gra": 1.0}),
    ((HALF,), "patch", {"resolved": 0.0, "fraction": 0.5, "gra": 0.5}),
    ((HALF, WORSE), "patch", {"resolved": 0.0, "fraction": 0.0, "gra": 0.5}),
    ((FIX, WORSE), "patch", {"resolved": 0.0, "fraction": 0.0, "gra": 0.5}),
    ((), "empty_patch", {"resolved": 0.0, "fraction": 0.0, "gra": 0.0}),
]


@pytest.mark.parametrize(("pairs", "result", "worth"), ENDS)
def test_an_end_is_worth_what_the_profile_says(file: Path, pairs: Any, result: str, worth: dict[str, float]):
    for outcome, value in worth.items():
        with begun(file, outcome=outcome) as env:
            info = played(env, *edits(*pairs), call("submit"))
            assert (info["result"], info["outcome"], info["success"]) == (result, value, result == "resolved")
            assert env.episode.stop is Stop.TERMINATED
            assert (env.episode.turns[-1].reward, oracle(env)) == (value, [])


@pytest.mark.parametrize(("outcome", "value"), [("resolved", 0.0), ("fraction", 0.0), ("gra", -0.5)])
def test_at_the_turn_limit_there_is_no_submission_however_good_the_patch(file: Path, outcome: str, value: float):
    env = TurnHooks(make("milepost/SWE-v0", max_episode_steps=2, **options(file, outcome=outcome)))
    env.reset(options={"task": TASK})
    info = played(env, *edits(FIX), call("run_tests"))
    env.close()
    assert (env.episode.stop, env.episode.outcome, env.episode.success) == (Stop.MAX_TURNS, value, False)
    assert "result" not in info
    assert GRA(profile="swe").on_group([env.episode]) == [[0.0, -0.5]]
    assert DRA(profile="swe").on_group([env.episode]) == [pytest.approx([0.3, -0.2])]


def test_the_profile_of_the_environment_is_that_of_the_credit_method():
    assert WORTH["gra"] == SWE_PROFILE.outcomes


def test_what_does_not_count_is_no_patch(file: Path):
    with begun(file) as env:
        info = played(env, call("edit", file="test_tiny.py", old="== 4", new="== 16"), call("submit"))
        assert info["result"] == "empty_patch"
        assert [turn.info["reward_components"]["patch"] for turn in env.episode.turns] == [0.0, 0.0]
        assert env.episode.last == (
            "Submitted: nothing was changed that counts. test_tiny.py: a test, or a part of the tests."
        )


def test_a_workspace_with_more_in_it_than_can_be_taken_out_is_no_patch_and_no_crash(file: Path):
    big = "```bash\ntruncate -s 200M a; truncate -s 200M b; sed -i 's|[*] 2|// 2|' tiny.py\n```"
    with begun(file, backend="local", actions="bash") as env:
        assert not env.step(big)[2]
        assert played(env, "```bash\nsubmit\n```")["result"] == "empty_patch"
        assert "all: " in str(env.episode.last)
    with begun(file, backend="local", actions="bash") as env:
        assert played(env, big, "```bash\nrm a b\n```", "```bash\nsubmit\n```")["result"] == "resolved"


def test_a_full_disk_is_an_observation(file: Path):
    with begun(file, actions="bash", disk=1 << 20) as env:
        shown, *_ = env.step("```bash\nhead -c 4M /dev/zero > a; sed -i 's|[*] 2|// 2|' tiny.py; rm a\n```")
        assert "No space left on device" in str(shown)
        assert solve(env)["result"] == "resolved"


def test_a_patch_that_hangs_or_ends_the_tests_is_a_grade_and_not_a_crash(file: Path):
    for bad in ("import os; os._exit(0)", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"):
        with begun(file) as env:
            info = played(env, *edits(("result = start", f"{bad}")), call("submit"))
            assert (info["result"], info["reward_components"]["fail_to_pass"]) == ("patch", 0.0)
            assert "the tests do not come to their end" in str(env.episode.last)


def test_an_equal_patch_is_graded_once(file: Path, monkeypatch: pytest.MonkeyPatch):
    graded: list[str] = []
    real: Callable[..., Grade] = places.grade

    def counted(*args: Any) -> Grade:
        graded.append(args[0].id)
        return real(*args)

    monkeypatch.setattr(places, "grade", counted)
    odd = (HALF[0], "return 4 + 0")
    same: list[list[tuple[str, str]]] = [[odd], [odd], [odd, WORSE]]
    for pairs in same:
        with begun(file) as env:
            played(env, *edits(*pairs), call("submit"))
    assert graded == [TASK, TASK]


def test_a_state_is_the_files_and_what_is_open(file: Path):
    with begun(file) as env:
        keys = [env.episode.info["state_key"]]
        for move in (call("find", name="x"), call("open", file="tiny.py"), *edits(HALF), *edits((HALF[1], HALF[0]))):
            keys.append(played(env, move)["state_key"])
        assert keys[1] == keys[0]
        assert len(set(keys)) == 4
        assert env.episode.info["potential"] == -2.0
        assert played(env, *edits(FIX))["potential"] == -1.0


def test_two_edits_are_two_steps_to_the_goal(file: Path):
    with begun(file, TWO) as env:
        assert [env.episode.info["potential"], played(env, *edits(FIX))["potential"]] == [-3.0, -2.0]
        assert played(env, *edits(OTHER_FIX))["potential"] == -1.0
        assert HARD.level == "hard"


def test_a_sandbox_that_dies_is_a_machine_error_and_the_next_episode_has_another(file: Path):
    with begun(file) as env:
        env.unwrapped._sandbox._host.stop()  # type: ignore[attr-defined]
        with pytest.raises(SandboxError):
            env.step(call("open", file="tiny.py"))
        env.reset(options={"task": TASK})
        assert solve(env)["result"] == "resolved"


def test_a_sandbox_that_dies_fails_its_episode_alone(file: Path):
    n = 0

    def move(request: Any) -> str:
        nonlocal n
        n += 1
        if n == 1:
            request.env.unwrapped._sandbox._host.stop()
        return oracle(request.env)[0]

    policy = ScriptedPolicy(move)
    policy.reference = True  # type: ignore[attr-defined]
    tasks = [Task("milepost/SWE-v0", options(file), task=TASK, group="g", attempt=i) for i in range(2)]
    episodes = play(tasks, policy, slots=1)
    assert sorted(str(episode.stop) for episode in episodes) == ["failed", "terminated"]
    assert [episode.outcome for episode in episodes if episode.stop is not Stop.FAILED] == [1.0]


def test_it_plays_in_many_slots_at_once(file: Path):
    tasks = [
        Task("milepost/SWE-v0", options(file), task=task, group=task, attempt=i)
        for task in (TASK, TWO)
        for i in range(4)
    ]
    episodes = play(tasks, OraclePolicy(noise=0.3), slots=4)
    assert all(episode.stop in (Stop.TERMINATED, Stop.MAX_TURNS) for episode in episodes)
    assert sum(episode.success or False for episode in episodes) >= 4
    assert not places._pools


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_it_is_vectorised(file: Path, mode: str):
    how = {"shared_memory": False} if mode == "async" else {}  # texts have no fixed size
    envs: Any = gym.make_vec("milepost/SWE-v0", 2, mode, vector_kwargs=how, **options(file))
    observations, _ = envs.reset(seed=[0, 0])
    assert observations[0] == observations[1]
    *_, infos = envs.step((call("open", file="tiny.py"), "nonsense"))
    assert list(infos["valid"]) == [True, False]
    envs.close()


def test_it_can_be_sent_to_another_process_before_it_is_played(file: Path):
    env = pickle.loads(pickle.dumps(SweEnv(**options(file, max_lines=7))))
    env.reset(options={"task": TASK})
    assert "lines 1-7 of 16" in env.step(call("open", file="tiny.py"))[0]
    env.close()


def test_an_episode_can_be_replayed_up_to_a_turn_and_go_on(file: Path):
    with begun(file) as env:
        played(
            env,
            call("open", file="tiny.py"),
            *edits(HALF),
            call("run_tests"),
            *edits((HALF[1], FIX[1])),
            call("submit"),
        )
        source = env.episode
        again = replay(env.env, source, 3)
        assert solve(again)["result"] == "resolved"


def test_an_environment_that_was_not_reset_says_so(file: Path):
    env = SweEnv(**options(file))
    with pytest.raises(gym.error.ResetNeeded):
        env.step("submit()")
    env.close()
    env.close()


def test_tasks_are_those_of_a_split_level_and_package():
    backend = need("bubblewrap")
    every = SweEnv(backend=backend)
    assert [len(every.tasks(split)) for split in ("train", "valid", "test")] == [344, 52, 104]
    some = SweEnv(backend=backend, level="hard", packages=["inflection", "unidiff"])
    chosen = some.tasks("train")
    assert chosen
    assert all(task.startswith("inflection-") and task.split(":")[2] == "hard" for task in chosen)
    assert {task.partition("-")[0] for task in some.tasks("test")} == {"unidiff"}
    with pytest.raises(ValueError, match="expected one of train, valid, test, got 'tset'"):
        every.tasks("tset")


@pytest.mark.parametrize(("suffix", "hide_tests"), [(".jsonl", False), (".json", True), (".parquet", True)])
def test_a_file_in_the_form_of_swe_bench_is_played_and_graded(
    file: Path, tmp_path: Path, suffix: str, hide_tests: bool
):
    written = bench.write(tmp_path / f"bench{suffix}", [EASY, HARD], hide_tests=hide_tests)
    given = options(tmp_path / f"bench{suffix}")
    env = SweEnv(**given)
    assert env.tasks("train") == [one.id for one in written]
    env.close()
    for one, n_edits in zip(written, (1, 2), strict=True):
        with begun(tmp_path / f"bench{suffix}", one.id) as hooked:
            assert hooked.episode.last == one.problem_statement
            assert hooked.episode.info["answer"] == one.patch
            assert hooked.episode.info["potential"] == -1.0 - n_edits
            shown, *_ = hooked.step(call("run_tests", tests="all"))
            assert ("No test was run" in str(shown)) is hide_tests
            assert solve(hooked)["result"] == "resolved"
        with begun(tmp_path / f"bench{suffix}", one.id) as hooked:
            assert played(hooked, call("submit"))["result"] == "empty_patch"


@pytest.mark.slow
@pytest.mark.docker
@pytest.mark.parametrize("form", ["tools", "bash"])
def test_an_instance_in_an_image_is_played_in_it(file: Path, tmp_path: Path, form: str):
    (one,) = bench.write(tmp_path / "bench.json", [EASY])
    rows = json.loads((tmp_path / "bench.json").read_text())
    with image_with(Path(one.repository)) as image:
        shutil.rmtree(one.repository)
        (tmp_path / "bench.json").write_text(json.dumps([{**rows[0], "image": image}]))
        with begun(tmp_path / "bench.json", one.id, backend="docker", actions=form) as env:
            assert solve(env)["result"] == "resolved"
            assert env.episode.runtime["sandbox"]["image"] == image


def test_hidden_tests_are_not_told_by_the_tool_that_runs_tests(file: Path, tmp_path: Path):
    told = replace(EASY, statement="middle(2, 6) gives 16")
    (one,) = bench.write(tmp_path / "bench.json", [told], hide_tests=True)
    with begun(tmp_path / "bench.json", one.id) as env:
        for tests in ("", "all"):
            assert "test_tiny" not in str(env.step(call("run_tests", tests=tests))[0])
        assert "test_tiny" not in json.dumps(env.episode.info["actions"])


def test_the_tasks_of_a_file_are_those_that_are_played(file: Path):
    env = SweEnv(**options(file))
    assert (env.tasks("train"), env.tasks("test")) == ([TASK, TWO], [])
    assert SweEnv(**options(file, level="hard")).tasks("train") == [TWO]
    with pytest.raises(ValueError, match="no task 'nothing' in"):
        env.reset(options={"task": "nothing"})
    with pytest.raises(ValueError, match="no task of the split 'test' to draw from"):
        SweEnv(**options(file, split="test")).reset(seed=0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"split": "tset"}, "SWE split: expected one of train, valid, test, got 'tset'"),
        ({"level": "eassy"}, "SWE level: expected one of easy, medium, hard, got 'eassy'"),
        ({"actions": "shell"}, "SWE actions: expected one of tools, bash, got 'shell'"),
        ({"outcome": "won"}, "SWE outcome: expected one of resolved, gra, fraction, got 'won'"),
        ({"packages": ["inflectoin"]}, "no package 'inflectoin' (did you mean 'inflection'?)"),
        ({"tasks": "nowhere.jsonl"}, "tasks: no file nowhere.jsonl"),
        ({"backend": "dokcer"}, "sandbox backend: expected one of"),
        ({"allow": ["dsik"]}, "allow: no limit 'dsik' (did you mean 'disk'?)"),
        ({"max_lines": "abc"}, "SWE max_lines: expected a whole number, got 'abc'"),
        ({"max_chars": 2.5}, "SWE max_chars: expected a whole number, got 2.5"),
        ({"memory": True}, "SWE memory: expected a whole number or None, got True"),
        ({"turn_timeout_s": "1m"}, "SWE turn_timeout_s: expected a number, got '1m'"),
        ({"tasks": 5}, "SWE tasks: expected a file or None, got 5"),
        ({"backend": 5}, "SWE backend: expected text, got 5"),
        ({"packages": 5}, "SWE packages: expected names, got 5"),
        ({"packages": [5]}, "SWE packages: expected names, got [5]"),
        ({"allow": "dsik"}, "allow: no limit 'dsik' (did you mean 'disk'?)"),
        ({"max_lines": 0}, "SWE max_lines: expected more than 0, got 0"),
        ({"turn_timeout_s": -1.0}, "SWE turn_timeout_s: expected more than 0, got -1.0"),
    ],
)
def test_an_argument_that_cannot_be_is_one_line_when_it_is_made(given: dict[str, Any], said: str):
    with pytest.raises(ValueError) as error:
        SweEnv(**{"backend": "local", **given})
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_one_name_stands_for_a_list_of_it():
    with closing(SweEnv(backend="local", packages="inflection", allow="disk")) as env:
        assert {one.partition("-")[0] for one in env.tasks("train")} == {"inflection"}


def test_the_pool_to_grade_in_is_shared_and_closed_by_who_leaves_last(file: Path):
    with begun(file) as one, begun(file) as other:
        for env, value in ((one, "return 7"), (other, "return 8")):
            played(env, *edits((HALF[0], value)), call("submit"))
        assert [n for _, (n,) in places._pools.values()] == [2]
        one.close()
        assert len(places._pools) == 1
    assert not places._pools


def test_environments_in_threads_share_the_pool_without_waiting_for_each_other(file: Path):
    def play_one(i: int) -> str:
        with begun(file) as env:
            return str(played(env, *edits((HALF[0], f"return {i}")), call("submit"))["result"])

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(play_one, range(10, 16))) == ["patch"] * 6
    assert not places._pools
