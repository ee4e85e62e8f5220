"""What commands cannot do to their server on any backend: hide from it, hold it up, or have it killed for memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from milepost.sandbox.client import GuestSandbox
from milepost.sandbox.core import Node, Settings
from milepost.sandbox.guest import landlock
from milepost.sandbox.hosts import PROC_OPEN
from tests.sandboxes import EACH, open_one, repository


@pytest.fixture(scope="module", params=EACH)
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuestSandbox]:
    base: Path = repository(tmp_path_factory.mktemp("base") / "repository")
    with open_one(request.param, Settings(base=base)) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(shared: GuestSandbox) -> GuestSandbox:
    shared.reset()
    return shared


def test_looking_at_what_is_closed_changes_nothing(sandbox: GuestSandbox) -> None:
    sandbox.run("echo B = 3 > pkg/sub/b.py; ln -s b.py pkg/sub/to; chmod 000 pkg/sub/b.py pkg/sub; chmod 444 pkg")
    differs = {
        "pkg": Node("folder", mode=0o444),
        "pkg/sub": Node("folder", mode=0),
        "pkg/sub/b.py": Node(data=b"B = 3\n", mode=0),
        "pkg/sub/to": Node("link", b"b.py", mode=0o777),
    }
    assert sandbox.diff() == differs
    assert differs.items() <= sandbox.get_tree().items()
    assert sandbox.diff() == differs
    assert sandbox.run("stat -c %a pkg").output == "444\n"


SCORE = """
import os
for value in (b"0", b"500"):
    try:
        os.write(os.open("/proc/self/oom_score_adj", os.O_WRONLY), value)
    except OSError as error:
        print(error.strerror)
print(open("/proc/self/oom_score_adj").read())
"""


def test_commands_are_killed_first_when_memory_is_short_and_cannot_change_that(sandbox: GuestSandbox) -> None:
    told = sandbox.run(["/usr/bin/python3", "-c", SCORE]).output.split("\n")
    if sandbox.backend == "local":
        assert told[-3:] == ["500", "", ""]
    elif landlock.version() >= 2:
        assert told == ["Permission denied", "Permission denied", "1000", "", ""]
    else:
        assert sandbox.isolation["proc"] == PROC_OPEN
    assert sandbox.run("cat /proc/self/oom_score_adj").output == "1000\n"
    assert sandbox.session().run("cat /proc/self/oom_score_adj").output == "1000\n"


SHARED = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
libc.shmget.argtypes = [ctypes.c_int, ctypes.c_size_t, ctypes.c_int]
for deed in (
    lambda: libc.shmget(0, 4096, 0o1600),
    lambda: libc.shmget(0, 4097, 0o1600),
    lambda: libc.shmget(0, 1 << 32, 0o1600),
    lambda: libc.semget(0, 1, 0o1600),
    lambda: libc.msgget(0, 0o1600),
):
    print("had" if deed() >= 0 else errno.errorcode[ctypes.get_errno()])
"""


def test_little_memory_may_outlive_its_command_and_only_where_there_is_a_namespace(sandbox: GuestSandbox) -> None:
    if sandbox.backend == "local":
        pytest.skip("nothing is refused")
    told = sandbox.run(["/usr/bin/python3", "-c", SHARED]).output.split()
    counted = str(sandbox.isolation["limits"]["memory"]).startswith("cgroup") and sandbox.backend != "landlock"
    assert told == [*(["had", "EINVAL", "EINVAL"] if counted else ["ENOSYS"] * 3), "ENOSYS", "ENOSYS"]


def test_a_closed_workspace_is_neither_empty_nor_gone(sandbox: GuestSandbox) -> None:
    before = sandbox.get_tree()
    for mode in ("0", "400", "600"):
        sandbox.run(f"chmod {mode} pkg")
        assert sandbox.diff() == {"pkg": Node("folder", mode=int(mode, 8))}
        assert sandbox.get_tree().keys() == before.keys()
        sandbox.run("chmod 400 pkg")
        assert sandbox.get_tree("pkg").keys() == {"a.py", "sub", "sub/b.py"}
        sandbox.run(f"chmod 755 pkg; chmod {mode} .")
        assert sandbox.diff() == {}
        assert sandbox.get_tree() == before


def test_a_workspace_that_a_session_closes_meanwhile_is_never_taken_for_empty(sandbox: GuestSandbox) -> None:
    before = sandbox.get_tree().keys()
    sandbox.session().run("(while true; do chmod 0 .; chmod 400 .; done) &")
    for _ in range(200):
        with suppress(ValueError):  # it was closed between two looks
            assert sandbox.diff() == {}
        with suppress(ValueError):
            assert sandbox.get_tree().keys() == before


CLOSED = """
import os
for n in range(400):
    os.mkdir("d")
    os.chdir("d")
for n in range(600):
    with open(str(n), "w") as file:
        file.write(str(n))
    os.chmod(str(n), 0 if n % 2 else 0o644)
for n in range(400):
    os.chdir("..")
    os.chmod("d", 0)
"""


def test_no_nest_of_closed_folders_outlasts_the_guest(sandbox: GuestSandbox) -> None:
    assert sandbox.run(["/usr/bin/python3", "-c", CLOSED]).exit_code == 0
    here = "/".join(["d"] * 400)
    found = sandbox.diff()
    assert len(found) == 1000
    assert found[f"{here}/599"] == Node(data=b"599", mode=0)
    assert found["d/d"] == Node("folder", mode=0)
    assert found.items() <= sandbox.get_tree().items()
    assert sandbox.run("stat -c %a d").output == "0\n"
    sandbox.reset()
    assert sandbox.diff() == {}
