"""Landlock: what it refuses is possible where exactly that is left out, and what it cannot refuse it says."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from milepost.sandbox.client import GuestSandbox
from milepost.sandbox.core import Limits, SandboxError, Settings
from milepost.sandbox.guest import confine
from milepost.sandbox.landlock import LandlockHost, capabilities

pytestmark = pytest.mark.skipif(not capabilities()["available"], reason=f"landlock: {capabilities()['why']}")

UNENFORCED = frozenset(name for name, way in capabilities()["limits"].items() if way is None)
OPEN = ["/usr/bin/python3", "-c", "fs = [open('/dev/null') for _ in range(100)]"]
SOCKET = ["/usr/bin/python3", "-c", "import socket; socket.socket()"]


def sandbox(*without: str, **settings: Any) -> GuestSandbox:
    return GuestSandbox(LandlockHost(Settings(allow=UNENFORCED, **settings), without=without))


@pytest.fixture(scope="module")
def intact() -> Iterator[GuestSandbox]:
    with sandbox(limits=Limits(files=64)) as made:
        yield made


def test_the_size_of_the_workspace_goes_unlimited_only_where_that_is_allowed() -> None:
    with pytest.raises(ValueError, match=r"landlock cannot enforce the limit disk=268435456 here: allow="):
        LandlockHost(Settings(allow=UNENFORCED - {"disk"}))
    with pytest.raises(ValueError, match="limit network='loopback'"):
        LandlockHost(Settings(allow=UNENFORCED, limits=Limits(network="loopback")))
    with sandbox() as made:
        assert made.isolation["limits"]["disk"] is None


@pytest.mark.parametrize(
    ("name", "attempt"),
    [
        ("landlock", ["ls", "/"]),
        ("landlock", ["ls", "/etc"]),
        ("seccomp", ["bash", "-c", "sleep 5 & prlimit --pid $! --nofile=50:50"]),
        ("seccomp", ["bash", "-c", "sleep 5 & taskset -p 1 $!"]),
        ("seccomp", ["bash", "-c", "sleep 5 & renice 19 -p $!"]),
        ("seccomp", ["bash", "-c", "sleep 5 & ionice -c 3 -p $!"]),
        ("seccomp", ["bash", "-c", "sleep 5 & chrt --batch -p 0 $!"]),
        ("signals", ["bash", "-c", "kill -0 $PPID"]),
        ("userns", ["unshare", "--user", "true"]),
        ("network", SOCKET),
        ("files", OPEN),
    ],
)
def test_a_protection_refuses_what_is_possible_without_it(name: str, attempt: list[str], intact: GuestSandbox) -> None:
    if name == "signals" and capabilities()["version"] < 6:
        pytest.skip("the kernel cannot")
    assert intact.run(attempt).exit_code
    with sandbox(name, limits=Limits(files=64)) as without:
        assert without.run(attempt).exit_code == 0
        assert without.isolation != intact.isolation


def test_a_command_may_lower_its_own_limits_and_priority(intact: GuestSandbox) -> None:
    for own in ("prlimit --nofile=50:50", "taskset 1", "nice -n 19", "ionice -c 3", "chrt --batch 0"):
        assert intact.run(f"{own} echo lowered").output == "lowered\n"


def test_the_hosts_files_are_neither_read_nor_written(intact: GuestSandbox) -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to others
        secret = Path(folder, "secret")
        secret.write_text("secret")
        Path(folder).chmod(0o777)
        secret.chmod(0o666)
        said = intact.run(f"cat {secret}; echo x > {secret}; touch {folder}/x; ls {folder}; ln {secret} link").output
        assert said.count("Permission denied") + said.count("cross-device") == 5
        assert secret.read_text() == "secret"
        with sandbox("landlock") as without:
            assert without.run(f"cat {secret}").output == "secret"


def test_its_server_can_be_killed_only_by_commands_without_a_fence(intact: GuestSandbox) -> None:
    if capabilities()["version"] < 6:
        pytest.skip("the kernel cannot")
    intact.run("kill -9 $PPID; kill -9 -1")
    assert intact.run("echo there").output == "there\n"
    with sandbox("signals") as without:
        with pytest.raises(SandboxError):
            without.run("kill -9 $PPID; sleep 5")
        without.reset()
        assert without.run("echo there").output == "there\n"


def test_another_sandboxs_workspace_and_sockets_are_out_of_reach(intact: GuestSandbox) -> None:
    with sandbox() as other:
        other.write("mine", "x")
        assert intact.run(["cat", f"{other.workspace}/mine"]).exit_code
        if capabilities()["version"] >= 6:
            name = f"milepost-{os.getpid()}"
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(f"\0{name}")
                server.listen()
                call = f"import socket; socket.socket(socket.AF_UNIX).connect(chr(0) + '{name}')"
                assert "PermissionError" in intact.run(["/usr/bin/python3", "-c", call]).output


def test_what_would_outlive_it_cannot_be_had(intact: GuestSandbox) -> None:
    code = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
for deed in (
    lambda: libc.msgget(0x5151, 0o1666),
    lambda: libc.semget(0x5151, 1, 0o1666),
    lambda: libc.shmget(0x5151, 1, 0o1666),
    lambda: libc.syscall(MQ_OPEN, b"x", 0o102, 0o600, 0),
):
    print(deed(), errno.errorcode[ctypes.get_errno()])
"""
    number = confine.ARGUED["mq_open"][confine.ARCHITECTURES[os.uname().machine][1]]
    code = code.replace("MQ_OPEN", str(number))
    assert intact.run(["/usr/bin/python3", "-c", code]).output == "-1 ENOSYS\n" * 4


def test_closing_kills_what_it_cannot_ask_and_removes_its_folder() -> None:
    host = LandlockHost(Settings(allow=UNENFORCED))
    made = GuestSandbox(host)
    made.session().run("setsid sleep 600 &")
    assert host._process is not None
    pid, folder = host._process.pid, Path(made.workspace).parent
    assert folder.exists()
    made.close()
    assert not folder.exists()
    assert not Path(f"/proc/{pid}").exists()
