"""The driver: the same episodes from the same seed, and every end in its lane."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from driver_envs import COUNT, DUET, CountEnv, tasks
from hypothesis import example, given, settings
from hypothesis.strategies import integers, sampled_from

from milepost.agents.core import Answer, ContextFull, Request, episode_id, stable_seed
from milepost.agents.driver import Interrupted, astream, play, stream
from milepost.agents.scripted import OraclePolicy, ScriptedPolicy
from milepost.envs.core import Action, ContractError, Episode, Stop, Task, Tokens
from milepost.sandbox.core import EndpointError, MachineError

CHOICES = ["more", "more", "more", "wait", "stop"]


def choose(request: Request) -> str:
    """Answer from the request alone."""
    return CHOICES[request.seed % len(CHOICES)]


class Recorder:
    """Answers by a function and keeps what it was asked."""

    version = 0

    def __init__(self, answer: Callable[[Request], Answer | str] = choose, seconds: float = 0.0) -> None:
        self.answer = answer
        self.seconds = seconds
        self.batches: list[list[Request]] = []
        self.forgotten: list[str] = []

    def act(self, requests: Sequence[Request]) -> list[Answer]:
        self.batches.append(list(requests))
        time.sleep(self.seconds)
        answers = [self.answer(request) for request in requests]
        return [Action(answer) if isinstance(answer, str) else answer for answer in answers]

    def forget(self, episode_ids: Sequence[str]) -> None:
        self.forgotten += episode_ids


class AsyncRecorder(Recorder):
    """The same, async; counts how many acts are under way at once."""

    running = 0
    most = 0

    async def act(self, requests: Sequence[Request]) -> list[Answer]:  # type: ignore[override]
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(self.seconds)
        self.running -= 1
        return super().act(requests)


def played(episodes: Sequence[Episode]) -> list[Any]:
    """Return what must be the same in two runs."""
    return [
        (e.id, e.seed, e.info, e.stop, e.last, [(t.observation, t.action, t.info.get("outcome")) for t in e.turns])
        for e in episodes
    ]


def threads_of_milepost() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("milepost")]


def press_ctrl_c_after(seconds: float) -> None:
    main = threading.main_thread().ident
    assert main
    threading.Timer(seconds, signal.pthread_kill, (main, signal.SIGINT)).start()


def press_ctrl_c_when(waiting: Callable[[], bool]) -> None:
    def watch() -> None:
        while not waiting():
            time.sleep(0.02)
        press_ctrl_c_after(0.1)

    threading.Thread(target=watch, daemon=True).start()


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
    began = time.monotonic()
    episodes = play(tasks(8, slow_s=0.05), ScriptedPolicy(["more"]), slots=8)
    one_by_one = sum(0.05 * len(e.turns) for e in episodes)
    assert time.monotonic() - began < one_by_one / 2


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


def test_a_step_that_hangs_fails_its_episode_and_its_neighbours_are_played_again():
    bad = episode_id(0, "g0", 1)
    answer = lambda r: "hang" if r.episode == bad and len(r.messages) > 3 else choose(r)  # noqa: E731
    expected = played(play(tasks(9), Recorder(choose)))
    began = time.monotonic()
    episodes = play(tasks(9), Recorder(answer), slots=4, n_threads=1, step_timeout_s=0.3)
    assert time.monotonic() - began < 1.4
    assert episodes[1].stop is Stop.FAILED
    assert "the environment took longer than 0.3 s" in str(episodes[1].failure)
    assert [p for i, p in enumerate(played(episodes)) if i != 1] == [p for i, p in enumerate(expected) if i != 1]
    time.sleep(1.4)  # the lost thread wakes and closes what it made
    assert not CountEnv.alive


def test_an_exception_of_the_policy_stops_the_run_and_keeps_what_finished():
    def answer(request: Request) -> str:
        if request.group == "g3":
            raise RuntimeError("out of memory")
        return choose(request)

    kept: list[Episode] = []
    with pytest.raises(RuntimeError, match="out of memory"):
        play(tasks(40), Recorder(answer), slots=3, on_end=kept.append)
    assert len([e for e in kept if e.stop is Stop.TERMINATED]) >= 8
    assert len([e for e in kept if e.stop is Stop.CANCELLED]) >= 1
    assert not CountEnv.alive
    assert threads_of_milepost() == []


class Short(Recorder):
    def act(self, requests: Sequence[Request]) -> list[Answer]:
        return super().act(requests)[1:]


def test_a_wrong_number_of_answers_is_refused():
    with pytest.raises(ContractError, match=r"Short.act: expected 4 answers, one per request, got 3"):
        play(tasks(4), Short())


def test_an_answer_of_another_type_is_refused():
    with pytest.raises(ContractError, match=r"expected an Action, ContextFull or MachineError .* got NoneType"):
        play(tasks(1), Recorder(lambda r: None))  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"gather": "fast"}, "gather: expected 'round' or 'greedy', got 'fast'"),
        ({"slots": 0}, "slots: expected 1 or more, got 0"),
        ({"timeout_s": 0}, "timeout_s: expected more than 0 seconds, got 0"),
    ],
)
def test_wrong_settings_are_named_before_anything_is_played(wrong, message):
    with pytest.raises(ValueError, match=message):
        stream(tasks(1), ScriptedPolicy(choose), **wrong)


def test_an_unknown_environment_stops_the_run():
    with pytest.raises(gym.error.UnregisteredEnv, match="no environment 'driver-test/NoSuch-v0'"):
        play([Task("driver-test/NoSuch-v0", group="g")], ScriptedPolicy(choose))


def test_an_unknown_option_stops_the_run():
    with pytest.raises(ValueError, match=r"no option 'slow' \(did you mean 'slow_s'\?\)"):
        play([Task(COUNT, {"slow": 1.0}, group="g")], ScriptedPolicy(choose))


# ---- stopping early ----


def test_ctrl_c_keeps_what_finished_and_marks_what_was_under_way():
    press_ctrl_c_after(1.0)
    with pytest.raises(Interrupted, match=r"\d+ episodes are kept") as caught:
        play(tasks(10_000, slow_s=0.01), ScriptedPolicy(choose), slots=8)
    stops = [e.stop for e in caught.value.episodes]
    assert 1 <= stops.count(Stop.CANCELLED) <= 8  # a step under way may have been an episode's last
    assert stops.count(Stop.TERMINATED) > 8
    assert all(e.outcome is None for e in caught.value.episodes if e.stop is Stop.CANCELLED)
    assert not CountEnv.alive
    assert threads_of_milepost() == []


def test_ctrl_c_still_yields_what_finished_before_it_is_raised():
    press_ctrl_c_after(1.0)
    episodes: list[Episode] = []
    with pytest.raises(KeyboardInterrupt):
        episodes.extend(stream(tasks(10_000, slow_s=0.01), ScriptedPolicy(choose), slots=8))
    assert 1 <= [e.stop for e in episodes].count(Stop.CANCELLED) <= 8


def test_ctrl_c_does_not_wait_for_a_slow_endpoint():
    endpoint = AsyncRecorder(seconds=300)
    press_ctrl_c_when(lambda: endpoint.running == 8)
    began = time.monotonic()
    with pytest.raises(Interrupted) as caught:
        play(tasks(8), endpoint, gather="greedy")
    assert time.monotonic() - began < 60
    assert [e.stop for e in caught.value.episodes] == [Stop.CANCELLED] * 8


def test_closing_the_stream_hands_the_rest_to_on_end():
    kept: list[Episode] = []
    episodes = stream(tasks(1000, slow_s=0.001), ScriptedPolicy(choose), slots=8, on_end=kept.append)
    taken = [next(episodes) for _ in range(5)]
    episodes.close()
    assert kept[:5] == taken
    assert 1 <= [e.stop for e in kept].count(Stop.CANCELLED) <= 8
    assert len({e.id for e in kept}) == len(kept) < 1000
    assert not CountEnv.alive
    assert threads_of_milepost() == []


def test_a_consumer_that_breaks_off_stops_the_play():
    policy = Recorder()
    for _ in stream(tasks(1000), policy, slots=8):
        break
    gc.collect()
    assert threads_of_milepost() == []
    assert len(policy.forgotten) < 1000


# ---- streaming and training at the same time ----


def test_a_policy_may_change_while_episodes_play():
    class Versioned(Recorder):
        def act(self, requests: Sequence[Request]) -> list[Answer]:
            tokens = [np.array([1], np.int32), np.array([-0.5], np.float32)]
            return [Action("wait", tokens=Tokens(0, tokens[0], *tokens, version=self.version)) for _ in requests]

    policy = Versioned()
    versions = []
    for episode in stream(tasks(60, slow_s=0.0005), policy, gather="greedy", slots=6):
        policy.version += 1
        versions.append([turn.action.tokens.version for turn in episode.turns if turn.action.tokens])
    assert len(versions) == 60
    assert all(row == sorted(row) for row in versions)
    assert any(len(set(row)) > 1 for row in versions)


def test_astream_plays_in_the_running_loop():
    async def main() -> list[Episode]:
        return [episode async for episode in astream(tasks(20), AsyncRecorder(), gather="greedy", slots=4)]

    expected = play(tasks(20), Recorder())
    order = [episode.id for episode in expected]
    episodes = sorted(asyncio.run(main()), key=lambda episode: order.index(episode.id))
    assert played(episodes) == played(expected)


def test_a_cancelled_astream_hands_the_rest_to_on_end():
    kept: list[Episode] = []

    async def main() -> None:
        async for _ in astream(tasks(10_000, slow_s=0.01), Recorder(), slots=4, on_end=kept.append):
            pass

    async def cancelled() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(main(), 0.3)

    asyncio.run(cancelled())
    assert 1 <= [e.stop for e in kept].count(Stop.CANCELLED) <= 4
    assert not CountEnv.alive
    assert threads_of_milepost() == []


# ---- hooks and branches ----


class Watch:
    """A hook that notices when two threads are in it."""

    label = "watch"
    live = True

    def __init__(self, error: Exception | None = None) -> None:
        self.inside = 0
        self.error = error
        self.begun: list[str] = []

    def on_reset(self, episode: Episode) -> None:
        self.begun.append(episode.id)

    def on_turn(self, episode: Episode) -> float:
        self.inside += 1
        time.sleep(0.0005)
        assert self.inside == 1
        self.inside -= 1
        if self.error:
            raise self.error
        return float(len(episode.turns))


def test_hooks_are_called_one_at_a_time_and_their_numbers_recorded():
    watch = Watch()
    episodes = play(tasks(12), ScriptedPolicy(choose), [watch], slots=8)
    for episode in episodes:
        assert [turn.credit["watch"] for turn in episode.turns] == [t + 1.0 for t in range(len(episode.turns))]
    assert sorted(watch.begun) == sorted(e.id for e in episodes)


def test_an_error_of_a_hook_is_not_the_environments():
    with pytest.raises(ContractError, match=r"credit 'watch' at turn 0 of episode 0:g0:0: KeyError: 'answer'"):
        play(tasks(1), ScriptedPolicy(choose), [Watch(KeyError("answer"))])


def test_a_machine_error_of_a_hook_fails_the_episode():
    episodes = play(tasks(4), ScriptedPolicy(choose), [Watch(MachineError("no judge"))])
    assert {e.stop for e in episodes} == {Stop.FAILED}


def test_a_branch_goes_on_from_the_state_before_the_turn():
    (trunk,) = play([Task(COUNT, group="trunk", seed=4)], ScriptedPolicy(["more", "wait", "more", "stop"]))
    starts = [Task(COUNT, group="branch", attempt=i, start=(trunk, 2)) for i in range(3)]
    policy, watch = Recorder(lambda r: "stop"), Watch()
    branches = play(starts, policy, [watch])
    for branch in branches:
        assert branch.parent == {"episode": trunk.id, "turn": 2}
        assert [t.action.text for t in branch.turns] == ["more", "wait", "stop"]
        assert (branch.seed, branch.group) == (trunk.seed, "branch")
        assert branch.last == trunk.turns[2].observation
    assert len({b.id for b in branches}) == 3
    assert sorted(watch.begun) == sorted(b.id for b in branches)
    (batch,) = policy.batches
    assert all(list(request.messages) == trunk.view(2) + branches[0].view(3)[-2:-1] for request in batch)
    assert all(request.n_seen == 0 for request in batch)


def test_a_branch_from_a_turn_that_was_not_played_is_refused():
    (trunk,) = play([Task(COUNT, group="trunk")], ScriptedPolicy(["stop"]))
    with pytest.raises(ValueError, match=r"start: expected a turn of 0..1 of 0:trunk:0, got 2"):
        play([Task(COUNT, group="branch", start=(trunk, 2))], ScriptedPolicy(["stop"]))


def test_nothing_is_printed_without_a_terminal(capfd):
    play(tasks(3), OraclePolicy(), progress="playing")
    assert capfd.readouterr() == ("", "")
