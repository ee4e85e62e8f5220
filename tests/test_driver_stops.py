"""How play is stopped: errors of the policy, wrong answers, Ctrl-C, a consumer that leaves; and hooks and branches."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Sequence

import gymnasium as gym
import numpy as np
import pytest
from driver_envs import COUNT, CountEnv, tasks
from recorders import (
    AsyncRecorder,
    Held,
    Recorder,
    choose,
    played,
    press_ctrl_c,
    press_ctrl_c_when,
    threads_of_milepost,
)

from milepost.agents.core import Answer, Request
from milepost.agents.driver import Interrupted, astream, play, stream
from milepost.agents.scripted import OraclePolicy, ScriptedPolicy
from milepost.envs.core import Action, ContractError, Episode, Stop, Task, Tokens
from milepost.sandbox.core import MachineError


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


def test_where_many_acts_raise_at_once_every_episode_under_way_is_kept():
    class Spent(AsyncRecorder):
        async def act(self, requests):
            if len({batch[0].episode for batch in self.batches}) == 40:
                raise RuntimeError("no money left")
            return await super().act(requests)

    for _ in range(5):
        kept: list[Episode] = []
        with pytest.raises(RuntimeError, match="no money left"):
            play(tasks(40), Spent(), gather="greedy", slots=40, n_threads=3, on_end=kept.append)
        assert len({e.id for e in kept}) == len(kept) == 40
    assert not CountEnv.alive


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
    kept: list[Episode] = []
    press_ctrl_c_when(lambda: len(kept) > 8)
    with pytest.raises(Interrupted, match=r"\d+ episodes are kept") as caught:
        play(tasks(10_000, slow_s=0.01), ScriptedPolicy(choose), slots=8, on_end=kept.append)
    stops = [e.stop for e in caught.value.episodes]
    assert 1 <= stops.count(Stop.CANCELLED) <= 8  # a step under way may have been an episode's last
    assert stops.count(Stop.TERMINATED) > 8
    assert all(e.outcome is None for e in caught.value.episodes if e.stop is Stop.CANCELLED)
    assert not CountEnv.alive
    assert threads_of_milepost() == []


def test_ctrl_c_still_yields_what_finished_before_it_is_raised():
    episodes: list[Episode] = []
    kept: list[Episode] = []
    press_ctrl_c_when(lambda: len(kept) > 8)
    with pytest.raises(KeyboardInterrupt):
        episodes.extend(stream(tasks(10_000, slow_s=0.01), ScriptedPolicy(choose), slots=8, on_end=kept.append))
    assert 1 <= [e.stop for e in episodes].count(Stop.CANCELLED) <= 8


def test_ctrl_c_does_not_wait_for_a_slow_endpoint():
    endpoint = AsyncRecorder(seconds=3600)
    press_ctrl_c_when(lambda: endpoint.running == 8)
    with pytest.raises(Interrupted) as caught:
        play(tasks(8), endpoint, gather="greedy")
    assert [e.stop for e in caught.value.episodes] == [Stop.CANCELLED] * 8


def test_a_second_ctrl_c_leaves_no_environment_open():
    policy = Held()
    kept: list[Episode] = []

    def press() -> None:
        policy.asked.wait(100)
        time.sleep(0.5)  # whoever plays waits
        press_ctrl_c()
        while len(kept) < 4:
            time.sleep(0.02)
        press_ctrl_c()
        time.sleep(0.5)  # it comes while the policy is waited for
        policy.released.set()

    threading.Thread(target=press, daemon=True).start()
    with pytest.raises(Interrupted):
        play(tasks(4), policy, on_end=kept.append)
    assert not CountEnv.alive
    assert threads_of_milepost() == []


def test_closing_the_stream_hands_the_rest_to_on_end():
    kept: list[Episode] = []
    episodes = stream(tasks(10_000, slow_s=0.001), ScriptedPolicy(choose), slots=8, on_end=kept.append)
    taken = [next(episodes) for _ in range(5)]
    episodes.close()
    assert kept[:5] == taken
    assert 1 <= [e.stop for e in kept].count(Stop.CANCELLED) <= 8
    assert len({e.id for e in kept}) == len(kept) < 10_000
    assert not CountEnv.alive
    assert threads_of_milepost() == []


def test_a_consumer_that_breaks_off_stops_the_play():
    policy = Recorder()
    for _ in stream(tasks(10_000), policy, slots=8):
        break
    gc.collect()
    assert threads_of_milepost() == []
    assert len(policy.forgotten) < 10_000


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


@pytest.mark.parametrize("times", [1, 2])
def test_a_cancelled_astream_hands_the_rest_to_on_end_and_leaves_nothing_open(times):
    policy = Held("g2")
    kept: list[Episode] = []

    async def consume() -> None:
        async for _ in astream(tasks(10_000), policy, slots=4, on_end=kept.append):
            pass

    async def cancelled() -> None:
        consumer = asyncio.create_task(consume())
        await asyncio.to_thread(policy.asked.wait, 100)
        for _ in range(times):
            consumer.cancel()
            while CountEnv.alive:
                await asyncio.sleep(0.02)
        policy.released.set()
        with pytest.raises(asyncio.CancelledError):
            await consumer

    asyncio.run(cancelled())
    assert [e.stop for e in kept].count(Stop.CANCELLED) == 4
    assert len(kept) > 4
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


def test_play_that_is_interrupted_while_it_starts_leaves_no_thread_behind(monkeypatch):
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        if thread.name == "milepost-driver":
            raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        play(tasks(40), Recorder(seconds=0.01), slots=3)
    assert threads_of_milepost() == []
    assert not CountEnv.alive
