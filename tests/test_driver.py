"""The driver: the same episodes from the same seed, and every end in its lane."""

from __future__ import annotations

from typing import Any

import pytest
from driver_envs import COUNT, DUET, CountEnv, tasks
from hypothesis import example, given, settings
from hypothesis.strategies import integers, sampled_from
from recorders import (
    AsyncRecorder,
    Recorder,
    choose,
    played,
    threads_of_milepost,
)

from milepost.agents.core import ContextFull, Request, episode_id, stable_seed
from milepost.agents.driver import play
from milepost.agents.scripted import ScriptedPolicy
from milepost.envs.core import ContractError, Episode, Stop, Task
from milepost.sandbox.core import EndpointError

# ---- the same episodes ----


def test_play_keeps_the_order_of_the_tasks():
    episodes = play(tasks(23), ScriptedPolicy(choose), slots=5)
    assert [(e.group, e.attempt) for e in episodes] == [(f"g{i // 4}", i % 4) for i in range(23)]
    assert [e.id for e in episodes] == [episode_id(0, f"g{i // 4}", i % 4) for i in range(23)]


@pytest.mark.parametrize("gather", ["round", "greedy"])
def test_the_same_seed_plays_the_same_episodes(gather):
    first, second, other = (play(tasks(20), ScriptedPolicy(choose), gather=gather, seed=s) for s in (1, 1, 2))
    assert played(first) == played(second)
    assert played(first) != played(other)


@settings(max_examples=12, deadline=None)
@example(policy=AsyncRecorder, gather="greedy", slots=1, n_threads=1)
@example(policy=AsyncRecorder, gather="greedy", slots=3, n_threads=2)
@example(policy=AsyncRecorder, gather="greedy", slots=64, n_threads=8)
@given(
    policy=sampled_from([Recorder, AsyncRecorder]),
    gather=sampled_from(["round", "greedy"]),
    slots=integers(1, 70),
    n_threads=integers(1, 9),
)
def test_a_policy_that_answers_from_the_request_alone_plays_the_same_at_any_concurrency(
    policy, gather, slots, n_threads
):
    expected = played(play(tasks(30), ScriptedPolicy(choose), slots=7))
    assert played(play(tasks(30), policy(), gather=gather, slots=slots, n_threads=n_threads)) == expected


def test_a_round_asks_once_for_all_live_episodes_in_the_order_of_the_tasks():
    runs = []
    for _ in range(2):
        policy = Recorder()
        play(tasks(30), policy, slots=8)
        runs.append([[request.episode for request in batch] for batch in policy.batches])
    assert runs[0] == runs[1]
    assert all(len(batch) == 8 for batch in runs[0][:3])
    order = [f"0:g{i // 4}:{i % 4}" for i in range(30)]
    assert all(batch == sorted(batch, key=order.index) for batch in runs[0])


def test_attempts_of_a_group_share_a_seed_that_depends_on_run_and_group():
    episodes = play(tasks(8), ScriptedPolicy(choose), seed=5)
    assert [e.seed for e in episodes] == [stable_seed(5, f"g{i // 4}") % 2**31 for i in range(8)]
    assert play([Task(COUNT, group="g", seed=17)], ScriptedPolicy(choose))[0].seed == 17


def test_a_request_has_a_seed_of_run_episode_and_turn():
    policy = Recorder()
    play(tasks(6), policy, seed=3)
    for batch in policy.batches:
        for request in batch:
            turn = sum(message["role"] == "assistant" for message in request.messages)
            assert turn <= 12
    first = policy.batches[0][0]
    assert first.seed == stable_seed(3, first.episode, 0)
    second = next(r for r in policy.batches[1] if r.episode == policy.batches[1][0].episode)
    assert second.seed == stable_seed(3, second.episode, 1)


def test_two_tasks_of_one_group_and_attempt_are_refused():
    with pytest.raises(ValueError, match=r"two tasks have the group 'g' and the attempt 1"):
        play([Task(COUNT, group="g", attempt=1)] * 2, ScriptedPolicy(choose))


# ---- what the policy is shown ----


@pytest.mark.parametrize("env_id", [COUNT, DUET])
def test_messages_are_the_view_in_one_growing_list_per_agent(env_id):
    shown: dict[tuple[str, str], list[tuple[int, int, int]]] = {}
    views: dict[str, list[list[Any]]] = {}

    def look(request: Request) -> str:
        now = (id(request.messages), request.n_seen, len(request.messages))
        shown.setdefault((request.episode, request.agent), []).append(now)
        views.setdefault(request.episode, []).append(list(request.messages))
        assert request.observation == request.messages[-1]["content"]
        return choose(request)

    episodes = play([Task(env_id, group=f"g{i}") for i in range(5)], Recorder(look))
    for episode in episodes:
        assert views[episode.id] == [episode.view(t) for t in range(len(episode.turns))]
    for asked in shown.values():
        assert len({identity for identity, _, _ in asked}) == 1
        assert [n_seen for _, n_seen, _ in asked] == [0] + [length for _, _, length in asked[:-1]]
    if env_id == DUET:
        assert [t.agent for t in episodes[0].turns] == ["a", "b", "a", "b", "a"]
        assert views[episodes[0].id][1][0] == {"role": "system", "content": "You are b."}


def test_only_a_reference_policy_gets_the_environment():
    policy = Recorder()
    play(tasks(2), policy)
    assert all(request.env is None for batch in policy.batches for request in batch)


def test_every_episode_is_forgotten_once_and_before_the_next_act_after_its_end():
    policy = Recorder(lambda r: "machine" if r.seed % 5 == 0 else choose(r))
    episodes = play(tasks(20), policy, slots=4)
    assert sorted(policy.forgotten) == sorted(e.id for e in episodes)
    assert {e.stop for e in episodes} >= {Stop.FAILED, Stop.TERMINATED}


# ---- gathering ----


def test_greedy_asks_a_busy_policy_for_all_that_came_meanwhile():
    policy = Recorder(seconds=0.02)
    play(tasks(16, slow_s=0.002), policy, gather="greedy", slots=8)
    assert max(len(batch) for batch in policy.batches) > 1


def test_greedy_has_many_acts_of_an_async_policy_under_way():
    policy = AsyncRecorder(seconds=0.02)
    play(tasks(16), policy, gather="greedy", slots=8)
    assert policy.most >= 4
    assert all(len(batch) == 1 for batch in policy.batches)


def test_environments_step_in_parallel():
    CountEnv.most_stepping = 0
    play(tasks(8, slow_s=0.05), ScriptedPolicy(["more"]), slots=8)
    assert CountEnv.most_stepping >= 4


# ---- threads and environments ----


def test_a_slot_reuses_its_environment_in_one_thread_and_all_are_closed():
    before = CountEnv.made
    play(tasks(40), ScriptedPolicy(choose), slots=4, n_threads=3)
    assert CountEnv.made - before == 4
    assert not CountEnv.alive
    assert threads_of_milepost() == []


def test_other_arguments_get_another_environment():
    before = CountEnv.made
    mixed = [Task(COUNT, {"slow_s": s}, group=f"{s}") for s in (0.0, 0.001, 0.002)]
    play(mixed, ScriptedPolicy(["stop"]), slots=1)
    assert CountEnv.made - before == 3
    assert not CountEnv.alive


# ---- every end in its lane ----


def test_a_full_context_ends_the_episode_and_the_state_is_scored():
    policy = Recorder(lambda r: ContextFull("2048 tokens") if len(r.messages) > 2 else "more")
    (episode,) = play(tasks(1), policy)
    assert (episode.stop, episode.outcome, len(episode.turns)) == (Stop.MAX_TOKENS, 0.0, 1)


def test_a_first_prompt_beyond_the_context_is_the_callers_mistake():
    with pytest.raises(ContractError, match=r"Count-v0: the first prompt is longer than the agent's context: 9 > 8"):
        play(tasks(3), Recorder(lambda r: ContextFull("9 > 8")))


def test_a_first_prompt_beyond_the_context_may_end_its_episode_alone():
    policy = Recorder(lambda r: ContextFull("9 > 8") if r.group == "g1" else choose(r))
    episodes = play(tasks(3, group=1), policy, first_must_fit=False)
    assert [e.stop for e in episodes] == [Stop.TERMINATED, Stop.MAX_TOKENS, Stop.TERMINATED]
    assert (episodes[1].success, episodes[1].outcome, episodes[1].turns) == (False, None, [])


def test_wall_time_is_over_between_two_turns():
    (episode,) = play(tasks(1, slow_s=0.05), ScriptedPolicy(["wait"]), timeout_s=0.12)
    assert (episode.stop, episode.outcome) == (Stop.TIMEOUT, 0.0)
    assert 1 <= len(episode.turns) <= 3


def test_the_turn_limit_is_scored():
    (episode,) = play(tasks(1), ScriptedPolicy(["wait"]))
    assert (episode.stop, episode.outcome, len(episode.turns)) == (Stop.MAX_TURNS, 0.0, 12)


@pytest.mark.parametrize(
    ("answer", "failure"),
    [("machine", "SandboxError: the container is gone"), (EndpointError("no answer"), "EndpointError: no answer")],
)
def test_the_machines_errors_fail_episodes_and_never_stop_a_run(answer, failure):
    episodes = play(tasks(8), Recorder(lambda r: answer))
    for episode in episodes:
        assert (episode.stop, episode.outcome) == (Stop.FAILED, None)
        assert failure in str(episode.failure)


@pytest.mark.parametrize(("move", "error"), [("crash", "ZeroDivisionError: a bug"), ("exit", "SystemExit: 3")])
def test_an_exception_in_a_step_fails_its_episode_with_the_traceback(move, error):
    bad = episode_id(0, "g4", 0)
    episodes = play(tasks(40), Recorder(lambda r: move if r.episode == bad else choose(r)), slots=1)
    assert [e.id for e in episodes if e.stop is Stop.FAILED] == [bad]
    failure = str(episodes[16].failure)
    assert error in failure
    assert "driver_envs.py" in failure
    assert episodes[16].outcome is None
    assert not CountEnv.alive


def test_an_exception_in_reset_fails_its_episode():
    mixed = [Task(COUNT, task="broken" if i == 3 else None, group=f"g{i}") for i in range(10)]
    episodes = play(mixed, ScriptedPolicy(["stop"]), slots=2)
    assert [i for i, e in enumerate(episodes) if e.stop is Stop.FAILED] == [3]
    assert "no such task file" in str(episodes[3].failure)
    assert (episodes[3].env_id, episodes[3].task, episodes[3].turns) == (COUNT, "broken", [])


def test_three_exceptions_at_first_stop_the_run_with_the_last_lines_of_the_traceback():
    kept: list[Episode] = []
    with pytest.raises(ContractError, match=r"(?s)3 of the first 3 episodes.*ZeroDivisionError: a bug in a user's"):
        play(tasks(50), ScriptedPolicy(["crash"]), slots=2, on_end=kept.append)
    assert 3 <= [e.stop for e in kept].count(Stop.FAILED) <= 4  # one more may have been under way


def test_more_than_one_in_twenty_exceptions_stop_the_run():
    bad = {episode_id(0, f"g{i}", 0) for i in (2, 4)}
    policy = Recorder(lambda r: "crash" if r.episode in bad else "stop")
    kept: list[Episode] = []
    with pytest.raises(ContractError, match=r"2 of the first 20 episodes ended by an exception"):
        play(tasks(60), policy, slots=1, on_end=kept.append)
    assert len(kept) == 20
