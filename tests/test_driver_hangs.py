"""Environments that hang: the driver goes on without them, and what wakes later disturbs nobody."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
from driver_envs import COUNT, CountEnv, tasks, wake
from recorders import Recorder, choose, played

from milepost.agents.core import Request, episode_id
from milepost.agents.driver import play
from milepost.agents.threads import Worker
from milepost.envs.core import Stop, Task


@pytest.fixture(autouse=True)
def _hanging() -> Iterator[None]:
    CountEnv.awake.clear()
    CountEnv.hung.clear()
    yield
    wake()


def test_a_step_that_hangs_fails_its_episode_and_its_neighbours_are_played_again():
    bad = episode_id(0, "g0", 1)
    answer = lambda r: "hang" if r.episode == bad and len(r.messages) > 3 else choose(r)  # noqa: E731
    expected = played(play(tasks(9), Recorder(choose)))
    episodes = play(tasks(9), Recorder(answer), slots=4, n_threads=1, step_timeout_s=3.0)
    assert not CountEnv.awake.is_set()
    assert episodes[1].stop is Stop.FAILED
    assert "the environment took longer than 3 s" in str(episodes[1].failure)
    assert [p for i, p in enumerate(played(episodes)) if i != 1] == [p for i, p in enumerate(expected) if i != 1]
    wake()  # the lost thread closes what it made
    assert not CountEnv.alive


@pytest.mark.parametrize(
    "hanging", [Task(COUNT, task="hang", group="g0"), Task(COUNT, {"hangs": True}, group="g0")], ids=["reset", "make"]
)
def test_an_environment_that_hung_while_it_was_opened_wakes_without_touching_the_next_episode(hanging):
    def answer(request: Request) -> str:
        if len(request.messages) > 4:
            wake()
        return "wait"

    started = [hanging, Task(COUNT, group="g1"), Task(COUNT, group="g2")]
    episodes = play(started, Recorder(answer), slots=1, step_timeout_s=3.0)
    assert [e.id for e in episodes] == [episode_id(0, f"g{i}", 0) for i in range(3)]
    assert [(e.stop, len(e.turns)) for e in episodes] == [(Stop.FAILED, 0), (Stop.MAX_TURNS, 12), (Stop.MAX_TURNS, 12)]
    assert not CountEnv.alive


def test_a_thread_that_is_given_up_as_it_comes_back_ends_and_closes_what_it_has():
    closed: list[str] = []

    async def main() -> None:
        worker = Worker("milepost-env")
        worker.closing.append(lambda: closed.append("its environment"))
        job = worker.run(time.sleep, 0.0)
        await job
        await asyncio.sleep(0.05)
        worker._busy = time.monotonic() - 60.0, job  # as it was read before the job came back
        assert worker.give_up_after(1.0)
        await worker.join(30.0)

    asyncio.run(main())
    assert closed == ["its environment"]
