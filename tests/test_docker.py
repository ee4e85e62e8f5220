"""What is Docker's own: limits of the engine, images, and a container or an engine that goes away."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from milepost.sandbox import docker, skeleton
from milepost.sandbox.client import GuestSandbox
from milepost.sandbox.core import Limits, SandboxError, Settings
from milepost.sandbox.docker import DockerHost
from tests.sandboxes import need, open_one

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def engine() -> Any:
    need("docker")
    return docker.engine()


@pytest.fixture(scope="module")
def limited() -> Iterator[GuestSandbox]:
    limits = Limits(memory=128 << 20, processes=40, disk=8 << 20, files=64)
    with open_one("docker", Settings(limits=limits)) as sandbox:
        yield sandbox


def test_limits_hold_and_the_guest_lives_on(limited: GuestSandbox) -> None:
    bomb = ["/usr/bin/python3", "-c", "x = bytearray(250 << 20); print(len(x))"]
    assert limited.run(bomb).exit_code == -9
    forks = "n=0; while [ $n -lt 100 ]; do sleep 5 & n=$((n+1)); done 2>&1 | grep -c -i 'resource'; true"
    assert int(limited.run(forks).output.split()[-1]) > 0
    full = limited.run("head -c 20000000 /dev/zero > big; stat -c %s big; rm big")
    assert "No space left" in full.output
    assert "8388608" in full.output
    assert limited.run("ulimit -n").output == "64\n"
    assert limited.run("echo there").output == "there\n"


def test_the_guest_is_not_among_the_processes_that_are_counted(engine: Any) -> None:
    with open_one("docker", Settings(limits=Limits(processes=1))) as sandbox:
        assert sandbox.run(["/usr/bin/true"]).exit_code == 0
        assert sandbox.run("echo there").output == "there\n"
        assert sandbox.run("/usr/bin/true; /usr/bin/true").exit_code != 0


def test_a_container_is_as_hard_as_its_record_says(limited: GuestSandbox) -> None:
    status = limited.run("cat /proc/self/status").output
    said = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert {said[key].strip() for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert said["NoNewPrivs"] == "1"
    assert int(said["Seccomp_filters"]) >= 2  # the engine's own and ours
    assert said["Uid"].split()[0] == "1000"
    assert "Read-only" in limited.run("touch /usr/x /x /etc/x 2>&1").output
    assert limited.run("ls /sys/class/net").output == "lo\n"
    assert limited.isolation["seccomp"] is True
    assert limited.isolation["limits"]["memory"].startswith("cgroup")


def test_what_is_left_out_is_not_claimed_and_not_enforced(engine: Any) -> None:
    opened = "import socket; print(socket.socket(socket.AF_INET).family)"
    with open_one("docker") as sandbox:
        assert "OSError: [Errno 97]" in sandbox.run(["/usr/bin/python3", "-c", opened]).output
    weaker = GuestSandbox(DockerHost(Settings(), without={"seccomp"}))
    try:
        assert weaker.isolation["seccomp"] is False
        assert weaker.run(["/usr/bin/python3", "-c", opened]).output == "2\n"
    finally:
        weaker.close()


def test_a_container_that_is_killed_or_removed_from_outside_is_an_error_with_a_reason(engine: Any) -> None:
    for kill, reason in (("kill", "exit code 137"), ("remove", "removed from outside")):
        with open_one("docker") as sandbox:
            host: Any = sandbox._host
            container = engine.containers.get(host._container.id)
            container.kill() if kill == "kill" else container.remove(force=True)
            with pytest.raises(SandboxError, match=reason):
                sandbox.run("true")
            sandbox.reset()
            assert sandbox.run("echo again").output == "again\n"


def test_nothing_is_left_of_a_closed_sandbox(engine: Any) -> None:
    with open_one("docker") as sandbox:
        host: Any = sandbox._host
        name = host._container.id
        assert engine.containers.get(name).labels["milepost.pid"]
    assert name not in {container.id for container in engine.containers.list(all=True)}


def test_no_descriptor_outlives_its_sandbox(engine: Any) -> None:
    def least() -> int:
        """Count those that stay: another test's threads may have some for a moment."""
        counts = []
        for _ in range(20):
            counts.append(len(os.listdir("/proc/self/fd")))
            time.sleep(0.05)
        return min(counts)

    def use() -> None:
        with open_one("docker") as sandbox:
            sandbox.reset()
        with pytest.raises(ValueError, match="no image"):
            DockerHost(Settings(image="milepost/no-such:1"))

    use()
    before = least()
    for _ in range(3):
        use()
    assert least() <= before


def test_a_missing_image_is_one_line(engine: Any) -> None:
    with pytest.raises(ValueError, match=r"no image 'milepost/no-such:1' here: docker pull") as raised:
        DockerHost(Settings(image="milepost/no-such:1"))
    assert "\n" not in str(raised.value)


def test_an_image_without_python_is_one_line(engine: Any) -> None:
    engine.api.import_image_from_data(skeleton.files(), repository="milepost/bare", tag="1")
    with pytest.raises(SandboxError, match="python3") as raised:
        GuestSandbox(DockerHost(Settings(image="milepost/bare:1")))
    assert "\n" not in str(raised.value)


def test_no_engine_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    said = docker.capabilities()
    assert said["available"] is False
    assert "start a Docker engine" in said["why"]
    with pytest.raises(ValueError, match="use bubblewrap") as raised:
        DockerHost(Settings())
    assert "\n" not in str(raised.value)
