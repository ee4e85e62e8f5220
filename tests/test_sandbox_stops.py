"""Sandboxes and those who use them, stopped in the midst of something: what is said next is true."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from milepost.sandbox import runtime
from milepost.sandbox.client import GuestSandbox
from milepost.sandbox.core import SandboxError
from tests.sandboxes import open_one


@pytest.fixture
def sandbox() -> Iterator[GuestSandbox]:
    with open_one("local") as made:
        yield made


def test_a_reset_that_was_interrupted_ends_the_guest_whose_answer_nobody_heard(
    sandbox: GuestSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: GuestSandbox) -> None:
        raise KeyboardInterrupt

    sandbox.write("old", b"")
    with monkeypatch.context() as patch:
        patch.setattr(GuestSandbox, "_ready", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sandbox.reset()
    with pytest.raises(SandboxError, match="a reset was interrupted"):
        sandbox.run("true")
    sandbox.reset()
    assert sandbox.run("ls; echo new").output == "new\n"


def test_a_command_for_a_shell_that_ended_while_its_guest_stood_still_is_run_by_a_new_one(
    sandbox: GuestSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, shell = sandbox._link, sandbox.session()
    send = link.send
    pid, server = map(int, shell.run("echo $$ $PPID").output.split())

    def wake(data: bytes | memoryview, end: float) -> None:
        send(data, end)
        os.kill(server, signal.SIGCONT)

    os.kill(server, signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)
    while b") Z" not in Path(f"/proc/{pid}/stat").read_bytes():
        threading.Event().wait(0.01)
    monkeypatch.setattr(link, "send", wake)
    told = shell.run("echo run > made; echo told")
    assert (told.exit_code, told.output) == (0, "[the session's shell had ended; this is a new one]\ntold\n")
    assert sandbox.read("made") == b"run\n"


def test_the_first_two_sandboxes_may_be_started_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    both, one_is_there = threading.Barrier(2), threading.Event()

    class Starter(ThreadPoolExecutor):
        """The second of two waits until the first has started a sandbox."""

        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            if both.wait(60):
                one_is_there.wait(60)

    def start() -> None:
        made.append(stack.enter_context(open_one("local")))
        one_is_there.set()

    made: list[GuestSandbox] = []
    monkeypatch.setattr(runtime, "_starters", {})
    monkeypatch.setattr(runtime, "ThreadPoolExecutor", Starter)
    threads = [threading.Thread(target=start) for _ in range(2)]
    with ExitStack() as stack:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [sandbox.run("echo there").output for sandbox in made] == ["there\n"] * 2
