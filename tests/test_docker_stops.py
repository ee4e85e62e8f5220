"""A Docker engine that stops and starts again under its sandboxes: an error with a reason, never a hang."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from milepost.sandbox import docker, leftovers
from milepost.sandbox.attacks.engine import Engine
from milepost.sandbox.client import GuestSandbox
from milepost.sandbox.core import SandboxError, Settings
from milepost.sandbox.docker import DockerHost
from milepost.sandbox.make import make
from tests.sandboxes import need

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    need("docker")
    if os.geteuid():
        pytest.skip("starting an engine takes root")
    folder = Path(tempfile.mkdtemp(prefix="engine-"))
    made = Engine(folder, "--shutdown-timeout=1")
    made.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", made.host)
        yield made
    made.stop()
    assert leftovers.unmount(folder)  # one that was killed could not do it
    shutil.rmtree(folder)


@pytest.mark.parametrize("how", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL])
def test_an_engine_that_stops_is_a_sandbox_error_and_one_that_starts_again_serves(engine: Engine, how: int) -> None:
    idle, busy = make("docker"), make("docker")
    stopper = threading.Timer(1.0, engine.stop, [how])
    stopper.start()
    try:
        with pytest.raises(SandboxError, match="docker: ") as raised:
            busy.run("echo partial; sleep 100", timeout_s=120.0)
        said = [str(raised.value)]
        stopper.join()
        for call in (lambda: idle.run("true"), lambda: busy.run("true"), idle.reset, lambda: make("docker")):
            with pytest.raises(SandboxError, match="docker: ") as raised:
                call()
            said.append(str(raised.value))
        assert not any("\n" in text for text in said)
        assert "the Docker engine does not answer" in said[1]
        assert "the engine does not answer any more" in said[4]
        busy.close()
    finally:
        stopper.join()
        engine.start()
    with make("docker") as new:
        assert new.run("echo new").output == "new\n"
        idle.reset()
        assert idle.run("echo again").output == "again\n"
        there = {container.short_id for container in docker.engine().containers.list(all=True)}
        hosts: list[Any] = [new._host, idle._host]
        assert there == {host._container.short_id for host in hosts}
    idle.close()


@pytest.mark.slow
def test_an_engine_that_hangs_holds_up_nobody_for_ever(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker, "TIMEOUT_S", 2)
    monkeypatch.setattr("milepost.sandbox.client.GRACE_S", 2.0)
    daemon: Any = engine._process
    sandbox = GuestSandbox(DockerHost(Settings()))
    daemon.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(SandboxError, match="did not answer in time"):
            sandbox.run("true", timeout_s=1.0)
        with pytest.raises(SandboxError, match="the engine does not answer any more"):
            DockerHost(Settings())
        sandbox.close()
    finally:
        daemon.send_signal(signal.SIGCONT)
    for _ in range(100):
        if not docker.engine().containers.list(all=True):
            break
        time.sleep(0.1)
    with make("docker") as new:
        assert new.run("echo new").output == "new\n"
