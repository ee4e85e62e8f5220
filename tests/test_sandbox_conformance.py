"""What every backend does alike: commands, files, differences, resets, and what is said when the guest is gone."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from milepost.sandbox.client import GuestSandbox
from milepost.sandbox.core import Node, SandboxError, Settings
from tests.sandboxes import EACH, open_one, repository


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return repository(tmp_path_factory.mktemp("base") / "repository")


@pytest.fixture(scope="module", params=EACH)
def shared(request: pytest.FixtureRequest, base: Path) -> Iterator[GuestSandbox]:
    mounts = {"/opt/given": base / "README", "/opt/again": base / "README"}
    with open_one(request.param, Settings(base=base, mounts=mounts, env={"GIVEN": "by settings"})) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(shared: GuestSandbox) -> GuestSandbox:
    shared.reset()
    return shared


LOOP = "while :; do date +%s.%N > $HOME/new; mv $HOME/new $HOME/alive; sleep 0.03; done"
BEGUN = "until [ -s $HOME/alive ]; do sleep 0.02; done"


def lives(sandbox: GuestSandbox) -> bool:
    """Whether something still writes the time into a file."""
    look = "cat $HOME/alive; sleep 0.3; cat $HOME/alive"
    first, second = sandbox.run(look).output.split()
    return first != second


def test_exit_codes_and_signals_are_told_apart(sandbox: GuestSandbox) -> None:
    assert sandbox.run("exit 3").exit_code == 3
    assert sandbox.run("true").exit_code == 0
    assert sandbox.run("kill -TERM $$").exit_code == -signal.SIGTERM
    assert sandbox.run(["no-such-program"]).exit_code == 127
    assert "not found" in sandbox.run(["no-such-program"]).output
    assert sandbox.run([f"{sandbox.workspace}/README"]).exit_code == 126
    assert sandbox.run(["./run.sh"]).output == "ran\n"


def test_a_command_whose_time_is_over_is_killed_with_its_children(sandbox: GuestSandbox) -> None:
    result = sandbox.run(f"echo begun; ({LOOP}) & sleep 60", timeout_s=2)
    assert (result.exit_code, result.timed_out, result.output) == (None, True, "begun\n")
    assert result.seconds < 20
    assert not lives(sandbox)


@pytest.mark.parametrize("how", ["setsid sh LOOP &", "nohup sh LOOP >/dev/null 2>&1 &", "(setsid sh LOOP &) & :"])
def test_nothing_that_a_command_started_outlives_it(sandbox: GuestSandbox, how: str) -> None:
    sandbox.write("LOOP", LOOP)
    assert sandbox.run(f"{how}\n{BEGUN}; echo done").output == "done\n"
    assert not lives(sandbox)


def test_long_output_keeps_its_beginning_and_end(sandbox: GuestSandbox) -> None:
    result = sandbox.run("echo first; head -c 3000000 /dev/zero; echo last", max_output=1000)
    assert result.head.startswith(b"first\n\0")
    assert result.tail.endswith(b"\0last\n")
    assert len(result.head) + len(result.tail) == 1000
    assert result.n_omitted == 3_000_000 + 6 + 5 - 1000
    assert f"[... {result.n_omitted} bytes left out ...]" in result.output


def test_bytes_that_are_no_text_survive(sandbox: GuestSandbox) -> None:
    every = bytes(range(256))
    result = sandbox.run(["cat"], stdin=every * 1000, max_output=1 << 20)
    assert result.head + result.tail == every * 1000
    sandbox.write("every", every)
    assert sandbox.read("every") == every
    assert sandbox.run(["printf", r"a\377b"]).output == r"a\xffb"


def test_input_that_is_not_read_hinders_nothing(sandbox: GuestSandbox) -> None:
    assert sandbox.run("exec 0<&-; echo over", stdin=b"x" * 10_000_000).output == "over\n"
    assert sandbox.run("exec 1>&- 2>&-; sleep 0.1; exit 4").exit_code == 4


def test_names_beyond_ascii_work_everywhere(sandbox: GuestSandbox) -> None:
    name = "caf\u00e9 \u4e2d\U0001f600 'q\"/new\nline"
    sandbox.write(name, "text")
    assert sandbox.read(name) == b"text"
    assert sandbox.run(["cat", name]).output == "text"
    assert name in sandbox.get_tree()
    assert name in sandbox.diff()


def test_environment_folder_and_mounts_are_as_asked(sandbox: GuestSandbox) -> None:
    os.environ["MILEPOST_HOST_SECRET"] = "secret"
    try:
        assert sandbox.run("echo $GIVEN, $OWN, $MILEPOST_HOST_SECRET.", env={"OWN": "one's"}).output == (
            "by settings, one's, .\n"
        )
    finally:
        del os.environ["MILEPOST_HOST_SECRET"]
    assert sandbox.run("pwd").output.strip() == sandbox.workspace
    assert sandbox.run("pwd", cwd="pkg/sub").output.strip() == f"{sandbox.workspace}/pkg/sub"
    assert sandbox.run(["cat", sandbox.place("/opt/given")]).output == "read\n"
    assert sandbox.run(["cat", sandbox.place("/opt/again")]).output == "read\n"


def test_files_are_read_and_written_below_the_workspace_alone(sandbox: GuestSandbox) -> None:
    sandbox.write("new/er/file", "x", mode=0o755)
    assert sandbox.run("stat -c %a new/er/file").output == "755\n"
    assert sandbox.read(f"{sandbox.workspace}/new/er/file") == b"x"
    sandbox.run("ln -s /etc/passwd out; ln -s / root; mkfifo pipe; ln -s ../../etc up; ln -s /proc/self/environ magic")
    for path in ("out", "root/etc/passwd", "up/passwd", "magic", "pipe", "pkg", "missing"):
        with pytest.raises(ValueError):
            sandbox.read(path)
    for path in ("../x", "/etc/passwd", "a/../../x", "nul\0"):
        with pytest.raises(ValueError, match="path: expected"):
            sandbox.read(path)
        with pytest.raises(ValueError, match="path: expected"):
            sandbox.write(path, "x")
    with pytest.raises(ValueError):
        sandbox.write("root/tmp/x", "x")
    sandbox.write("out", "replaced")
    assert sandbox.run("cat out; test -L out || echo a file").output == "replaceda file\n"
    with pytest.raises(ValueError, match="at most 3 bytes"):
        sandbox.read("README", max_bytes=3)


def test_bad_requests_are_one_line_and_hurt_nothing(sandbox: GuestSandbox) -> None:
    for call in (
        lambda: sandbox.run("echo \0"),
        lambda: sandbox.run([]),
        lambda: sandbox.run("true", env={"A=B": "c"}),
        lambda: sandbox.run("true", cwd="nowhere"),
        lambda: sandbox.run("true", timeout_s=0),
        lambda: sandbox.put_tree({"../x": Node()}),
        lambda: sandbox.put_tree({"/x": Node()}),
        lambda: sandbox.place("/nowhere"),
        lambda: sandbox.get_tree("README/x"),
    ):
        with pytest.raises(ValueError) as raised:
            call()
        assert "\n" not in str(raised.value)
    assert sandbox.run("echo well").output == "well\n"


def test_trees_travel_whole(sandbox: GuestSandbox) -> None:
    tree = {
        "t/file": Node(data=b"\0\xff"),
        "t/program": Node(data=b"#!/bin/sh\n", mode=0o755),
        "t/empty": Node("folder", mode=0o750),
        "t/link": Node("link", b"../nowhere"),
        "t/deep/er/file": Node(data=b""),
    }
    sandbox.put_tree(tree)
    found = sandbox.get_tree("t")
    for name, node in tree.items():
        got = found[name.removeprefix("t/")]
        assert (got.kind, got.data) == (node.kind, node.data)
        assert node.kind == "link" or got.mode == node.mode
    sandbox.put_tree({"file": Node(data=b"over")}, "t")
    assert sandbox.read("t/file") == b"over"
    sandbox.run("ln -s $HOME t/out")
    sandbox.put_tree({"t/out/file": Node(data=b"1")})
    assert sandbox.run("test -L t/out && echo link; ls $HOME").output == ""


def test_a_difference_has_every_kind_of_change(sandbox: GuestSandbox) -> None:
    assert sandbox.diff() == {}
    sandbox.run(
        "echo more >> README; rm pkg/sub/b.py; mv pkg/a.py pkg/c.py; chmod 644 run.sh; ln -sf README link; "
        "mkdir -p new/folder; echo x > new/file; mkfifo pipe"
    )
    assert sandbox.diff() == {
        "README": Node(data=b"read\nmore\n"),
        "pkg/sub/b.py": None,
        "pkg/a.py": None,
        "pkg/c.py": Node(data=b"A = 1\n"),
        "run.sh": Node(data=b"#!/bin/sh\necho ran\n", mode=0o644),
        "link": Node("link", b"README", mode=0o777),
        "new": Node("folder", mode=0o755),
        "new/folder": Node("folder", mode=0o755),
        "new/file": Node(data=b"x\n"),
    }


def test_a_change_with_forged_times_is_seen_and_undone(sandbox: GuestSandbox) -> None:
    script = """
import mmap, os
was = os.stat("README")
with open("README", "r+b") as file, mmap.mmap(file.fileno(), 0) as data:
    data[:4] = b"READ"
os.utime("README", ns=(was.st_atime_ns, was.st_mtime_ns))
"""
    assert sandbox.run(["/usr/bin/python3", "-c", script]).exit_code == 0
    assert sandbox.diff() == {"README": Node(data=b"READ\n")}
    sandbox.reset()
    assert sandbox.read("README") == b"read\n"


def test_reset_is_as_new(sandbox: GuestSandbox) -> None:
    before = sandbox.get_tree()
    session = sandbox.session()
    session.run(f"X=old; cd pkg; (sh -c '{LOOP}') & {BEGUN}")
    assert lives(sandbox)
    sandbox.run(
        "rm -rf pkg README link; mkdir -p a/b/c; chmod 000 a/b; echo x > $HOME/left; "
        " echo bad > run.sh; chmod 000 run.sh"
    )
    sandbox.reset()
    assert sandbox.get_tree() == before
    assert sandbox.diff() == {}
    assert session.run("echo $X; pwd").output == f"\n{sandbox.workspace}\n"
    assert sandbox.run("ls $HOME").output == ""
    sandbox.run("echo 1 > $HOME/alive")
    assert not lives(sandbox)


MARK = """
import os, sys
for path in sys.argv[2:]:
    if sys.argv[1]:
        try:
            os.setxattr(path, sys.argv[1], b"of the episode before")
        except OSError:  # a file system without
            pass
    print(*(name for name in os.listxattr(path) if name.startswith("user.")))
"""


def test_reset_leaves_no_extended_attributes(sandbox: GuestSandbox) -> None:
    places = [".", "README", "pkg", "pkg/a.py", sandbox.run("echo $HOME").output.strip()]
    sandbox.run(["/usr/bin/python3", "-c", MARK, "user.note", *places])
    sandbox.reset()
    assert sandbox.run(["/usr/bin/python3", "-c", MARK, "", *places]).output == "\n" * len(places)
    assert sandbox.diff() == {}


def test_files_move_between_folders_and_keep_other_names(sandbox: GuestSandbox) -> None:
    script = "import os; os.mkdir('new'); os.rename('pkg/a.py', 'new/a.py'); os.link('new/a.py', 'pkg/again')"
    assert sandbox.run(["/usr/bin/python3", "-c", script]).output == ""
    assert (
        sandbox.run("mv pkg/sub new/sub; echo x > /dev/stderr; echo y > /dev/fd/1; echo z > /dev/null").output
        == "x\ny\n"
    )
    assert set(sandbox.diff()) == {
        "new",
        "new/a.py",
        "new/sub",
        "new/sub/b.py",
        "pkg/a.py",
        "pkg/again",
        "pkg/sub",
        "pkg/sub/b.py",
    }


def test_sessions_keep_what_one_shot_commands_do_not(sandbox: GuestSandbox) -> None:
    one, two = sandbox.session("one"), sandbox.session("two")
    assert one.run("cd pkg; X=1; f() { echo f $X; }; export Y=2").exit_code == 0
    assert one.run("pwd; f; sh -c 'echo $Y'; false").output == f"{sandbox.workspace}/pkg\nf 1\n2\n"
    assert one.run("false").exit_code == 1
    assert two.run("echo $X; pwd").output == f"\n{sandbox.workspace}\n"
    assert one.run("(until [ -e ../go ]; do sleep 0.01; done; echo later) & echo now").output == "now\n"
    assert sandbox.run("echo between").output == "between\n"
    sandbox.write("go", "")
    assert one.run("wait").output == "later\n"
    assert one.run("exit 7").exit_code == 7
    assert one.run("echo $X").output == "\n"
    assert one.run("X=3; sleep 60", timeout_s=0.3).timed_out
    assert one.run("echo [$X]").output == "[]\n"
    assert one.run("cat").output == ""
    one.close()
    assert one.run("echo begun anew").output == "begun anew\n"
    big = one.run("head -c 1000000 /dev/zero | tr '\\0' x", max_output=100)
    assert (big.n_omitted, big.exit_code) == (1_000_000 - 100, 0)


def test_threads_take_turns_and_get_their_own_answers(sandbox: GuestSandbox) -> None:
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda n: sandbox.run(f"echo {n}").output, range(40)))
    assert answers == [f"{n}\n" for n in range(40)]


def test_a_command_may_kill_everything_but_the_guest(sandbox: GuestSandbox) -> None:
    sandbox.session().run("X=1")
    if sandbox.backend != "local":  # there it would be everything of this user
        sandbox.run("kill -9 -1; kill -9 1")
    assert sandbox.run("echo there").output == "there\n"


@pytest.mark.parametrize("backend", EACH)
def test_a_guest_that_is_killed_is_a_sandbox_error_and_reset_begins_anew(backend: str, base: Path) -> None:
    with open_one(backend, Settings(base=base)) as sandbox:
        assert sandbox.run("echo before").output == "before\n"
        killer = threading.Timer(0.5, sandbox._host.stop)
        killer.start()
        start = time.monotonic()
        with pytest.raises(SandboxError, match=backend):
            sandbox.run("echo partial; sleep 60")
        assert time.monotonic() - start < 20
        with pytest.raises(SandboxError, match=backend):
            sandbox.run("true")
        killer.join()
        sandbox.reset()
        assert sandbox.run("cat README").output == "read\n"
        sandbox.close()
        sandbox.close()
        with pytest.raises(SandboxError, match="closed"):
            sandbox.run("true")
        with pytest.raises(SandboxError, match="closed"):
            sandbox.reset()


@pytest.mark.parametrize("backend", EACH)
def test_several_at_once_do_not_see_each_other(backend: str, base: Path) -> None:
    with open_one(backend, Settings(base=base)) as one, open_one(backend, Settings(base=base)) as two:
        one.run("echo one > README; echo one > $HOME/one")
        assert two.run("cat README; cat $HOME/one 2>/dev/null").output == "read\n"
        if backend not in ("local", "landlock"):
            with ThreadPoolExecutor(2) as threads:
                listed = threads.submit(two.run, "sleep 0.3; cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
                threads.submit(one.run, "sleep 0.54321")
                assert "54321" not in listed.result().output


def test_what_comes_and_goes_while_it_is_looked_at_hides_nothing_else(sandbox: GuestSandbox) -> None:
    sandbox.write("kept", "1")
    churn = (
        "mkdir -p log; while :; do for n in 1 2 3 4 5 6; do echo x > log/$n; ln -s x log/l$n; done; rm -f log/*; done"
    )
    sandbox.session().run(f"({churn}) > /dev/null 2>&1 &")
    for _ in range(150):
        assert "kept" in sandbox.diff()
        assert "kept" in sandbox.get_tree()
