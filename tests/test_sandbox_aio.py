"""Sandboxes for code that awaits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ClassVar

import pytest

from milepost.sandbox import aio
from milepost.sandbox.core import SandboxError
from milepost.sandbox.make import make
from milepost.sandbox.pool import Pool


def awaited(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


def pool(size: int) -> Pool:
    return Pool(lambda settings: make("local", settings), size)


@awaited
async def test_the_same_answers_are_awaited() -> None:
    async with await aio.make("local") as sandbox:
        assert sandbox.backend == "local"
        await sandbox.write("a/b", "hello\n")
        assert await sandbox.read("a/b") == b"hello\n"
        result = await sandbox.run("cat a/b; cat; exit 3", stdin=b"more")
        assert (result.exit_code, result.output) == (3, "hello\nmore")
        await sandbox.reset()
        with pytest.raises(ValueError, match="a/b"):
            await sandbox.read("a/b")
    with pytest.raises(SandboxError, match="closed"):
        await sandbox.run("true")


@awaited
async def test_more_wait_at_once_than_the_loop_has_threads() -> None:
    """64 commands of a second each, which all wait for the last: in turns of a few they would never end."""
    gate = threading.Barrier(64)

    class Waiter:
        backend, workspace = "none", "/"
        isolation: ClassVar[dict[str, str]] = {}

        def run(self, *_: Any, **__: Any) -> int:
            return gate.wait(timeout=60)

        def close(self) -> None:
            pass

    there: Any = Waiter
    sandboxes = [aio.AsyncSandbox(there()) for _ in range(64)]
    done: Any = await asyncio.gather(*(sandbox.run("") for sandbox in sandboxes))
    assert sorted(done) == list(range(64))
    await asyncio.gather(*(sandbox.close() for sandbox in sandboxes))


@awaited
async def test_cancelling_closes_the_sandbox_and_stops_not_the_loop(tmp_path: Any) -> None:
    sandbox = await aio.make("local")
    running = asyncio.create_task(sandbox.run(f"touch {tmp_path}/begun; sleep 600; touch {tmp_path}/ended"))
    while not (tmp_path / "begun").exists():
        await asyncio.sleep(0.01)
    queued = asyncio.create_task(sandbox.run(f"touch {tmp_path}/queued"))
    await asyncio.sleep(0.01)
    queued.cancel()
    running.cancel()
    for task in (queued, running):
        with pytest.raises(asyncio.CancelledError):
            await task
    with pytest.raises(SandboxError, match="closed"):
        await asyncio.wait_for(sandbox.run("true"), 60)
    await asyncio.wait_for(sandbox.close(), 60)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["begun"]


@awaited
async def test_what_closes_a_sandbox_after_a_cancelled_command_never_meets_who_has_it_next(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes late here, and the command ends by itself before that."""
    late, closed = threading.Event(), threading.Event()
    stop = aio.AsyncSandbox._stop

    def come_late(sandbox: aio.AsyncSandbox) -> None:
        late.wait(60)
        stop(sandbox)
        closed.set()

    monkeypatch.setattr(aio.AsyncSandbox, "_stop", come_late)
    with pool(1) as made:
        async with aio.take(made) as first:
            waits = f"touch {tmp_path}/begun; until [ -e {tmp_path}/end ]; do sleep 0.01; done"
            running = asyncio.create_task(first.run(waits))
            while not (tmp_path / "begun").exists():
                await asyncio.sleep(0.01)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            (tmp_path / "end").touch()
        async with aio.take(made) as second:
            late.set()
            assert await asyncio.to_thread(closed.wait, 60)
            assert (await second.run("echo ok")).output == "ok\n"


@awaited
async def test_a_pool_lends_to_tasks_and_gets_everything_back() -> None:
    with pool(2) as made:

        async def use() -> str:
            async with aio.take(made) as sandbox:
                return (await sandbox.run("ls; touch mine; echo ok")).output

        assert await asyncio.gather(*(use() for _ in range(5))) == ["ok\n"] * 5

        async def hold() -> None:
            async with aio.take(made) as sandbox:
                await sandbox.run("sleep 600")

        holding = [asyncio.create_task(hold()) for _ in range(3)]  # one of them waits for a sandbox
        await asyncio.sleep(0.5)
        for task in holding:
            task.cancel()
        await asyncio.gather(*holding, return_exceptions=True)
        assert list(await asyncio.wait_for(asyncio.gather(use(), use()), 60)) == ["ok\n"] * 2
