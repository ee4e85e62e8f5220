"""How play ends where nobody ends it: with the process, or with the garbage collector."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest


def ended(code: str) -> str:
    """Run ``code`` beside the tests' modules; it must end well, and in silence but for what is returned."""
    command = [sys.executable, "-c", dedent(code)]
    here = Path(__file__).parent
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_stream_that_is_kept_ends_with_the_process_and_in_silence():
    code = """
        import sys
        import torch
        import milepost.envs
        from milepost.agents.driver import stream
        from milepost.agents.scripted import ScriptedPolicy
        from milepost.envs.core import Task

        numbers = torch.ones(300, 300)
        tasks = (Task("milepost/Ladder-v0", seed=i, group=str(i)) for i in range(10_000))
        playing = stream(tasks, ScriptedPolicy(lambda request: str((numbers @ numbers).sum())), slots=4)
        next(playing)
        sys.modules["kept"] = playing
    """
    assert ended(code) == ""


def test_a_stream_that_is_kept_closes_its_environments_when_the_process_ends():
    code = """
        import atexit
        import sys
        import threading
        import time
        from driver_envs import CountEnv, tasks
        from recorders import Recorder

        atexit.register(lambda: print(len(CountEnv.alive), "open at last"))  # after the driver's, which comes later
        from milepost.agents.driver import stream

        ending = threading.Event()
        atexit.register(ending.set)  # before the driver's

        def answer(request):
            if len(request.messages) > 2:  # its neighbour has ended
                ending.wait(100)
            return "stop" if request.group == "g0" else "wait"

        close = CountEnv.close
        CountEnv.close = lambda env: (time.sleep(0.5), close(env))  # it is waited for
        playing = stream(tasks(2, group=1), Recorder(answer), slots=2)
        next(playing)
        print(len(CountEnv.alive), "open")
        sys.modules["kept"] = playing
    """
    assert ended(code) == "2 open\n0 open at last\n"


def test_a_stream_that_is_kept_ends_with_the_process_also_where_its_policy_used_the_loops_executor():
    code = """
        import asyncio
        import atexit
        import sys
        import threading
        from driver_envs import tasks
        from recorders import AsyncRecorder
        from milepost.agents.driver import stream

        def refuse(thread):
            raise RuntimeError("can't create new thread at interpreter shutdown")

        atexit.register(lambda: setattr(threading.Thread, "start", refuse))  # as Python 3.12 does by itself

        class Resolving(AsyncRecorder):
            async def act(self, requests):
                await asyncio.to_thread(len, requests)  # as a look-up of a host does
                return await super().act(requests)

        playing = stream(tasks(10_000), Resolving(), gather="greedy", slots=4)
        next(playing)
        sys.modules["kept"] = playing
    """
    assert ended(code) == ""


@pytest.mark.parametrize("recorder", ["Recorder", "AsyncRecorder", "Aside"])
def test_the_garbage_collector_may_close_a_stream_in_the_threads_that_play_it(recorder):
    code = f"""
        import asyncio
        import gc
        import threading
        from driver_envs import tasks
        from recorders import AsyncRecorder, Recorder, threads_of_milepost
        from milepost.agents.driver import stream

        gc.disable()
        dropped, collected = threading.Event(), threading.Event()
        ended = []

        class Aside(AsyncRecorder):
            async def act(self, requests):
                await asyncio.to_thread(answer, requests[0])
                return await super().act(requests)

        class Consumer:
            def __init__(self):
                self.me = self
                policy = {recorder}(answer)
                self.playing = stream(tasks(1000, group=1), policy, gather="greedy", slots=1, on_end=ended.append)

        def answer(request):
            if request.group == "g1" and dropped.wait(100) and gc.collect():
                assert "milepost-driver" in threads_of_milepost(), "it waits for this answer"
                print("collected")
                collected.set()
            return "stop"

        consumer = Consumer()
        next(consumer.playing)
        driver = next(thread for thread in threading.enumerate() if thread.name == "milepost-driver")
        del consumer
        dropped.set()
        collected.wait(100)
        driver.join(100)
        print(*(episode.stop for episode in ended))
    """
    assert ended(code) == "collected\nterminated cancelled\n"


def test_an_act_that_outlives_its_cancel_is_waited_for_no_longer_than_others():
    code = """
        import asyncio
        import logging
        from driver_envs import CountEnv, tasks
        from recorders import AsyncRecorder
        from milepost.agents import rollout
        from milepost.agents.driver import stream

        logging.disable()  # asyncio tells of a task that is left
        rollout.GRACE_S = 0.2

        class Stubborn(AsyncRecorder):
            async def act(self, requests):
                try:
                    await asyncio.sleep(0.0 if requests[0].group == "g0" else 3600.0)
                finally:
                    await asyncio.sleep(0.0 if requests[0].group == "g0" else 3600.0)
                return await super().act(requests)

        playing = stream(tasks(2, group=1), Stubborn(lambda request: "stop"), gather="greedy", slots=2)
        next(playing)
        playing.close()
        print(len(CountEnv.alive), "open")
    """
    assert ended(code) == "0 open\n"
