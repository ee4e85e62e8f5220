"""Memory that commands filled: what they may not have is refused to them, and the guest still does what it is asked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from milepost.sandbox.core import Limits, Settings
from milepost.sandbox.docker import DockerHost
from milepost.sandbox.guest.wire import content
from milepost.sandbox.limits import LEAST
from tests.sandboxes import EACH, need, open_one

BOUNDED = [param for param in EACH if param.values[0] in ("docker", "bubblewrap")]
FILL = """
for at in (".", "/tmp", "/dev/shm"):
    try:
        with open(at + "/w", "wb", 0) as file:
            while True:
                file.write(bytes(1 << 16))
    except OSError as error:
        print(error.strerror)
"""
"""What is written to files in memory counts as memory."""
NAME = """
for at in (".", "/tmp", "/dev/shm"):
    try:
        for n in range(1_000_000):
            open(f"{at}/{n:0250}", "w").close()
    except OSError as error:
        print(error.strerror)
"""
FULL = "No space left on device\n" * 3


@pytest.mark.parametrize("backend", BOUNDED)
@pytest.mark.parametrize("memory", [3 << 24, 1 << 27])
def test_a_guest_whose_memory_is_full_of_files_still_answers(backend: str, memory: int, tmp_path: Path) -> None:
    (tmp_path / "base").write_bytes(b"b" * 1_000_000)
    with open_one(backend, Settings(tmp_path, limits=Limits(memory=memory, disk=memory))) as sandbox:
        assert sandbox.run(["/usr/bin/python3", "-c", FILL]).output == FULL
        size = int(sandbox.run(["stat", "-c", "%s", "w"]).output)
        assert size > memory // 5
        node = sandbox.diff()["w"]
        assert node is not None
        assert node.data.count(0) == len(node.data) == size
        assert sandbox.get_tree()["w"] == node
        assert sandbox.read("w", max_bytes=size) == node.data
        assert sandbox.run(["/usr/bin/python3", "-c", NAME]).output == FULL
        with pytest.raises(ValueError, match="larger than a tree may be"):
            sandbox.diff()
        assert sandbox.run("echo there").output == "there\n"
        sandbox.reset()
        assert set(sandbox.get_tree()) == {"base"}


def test_a_file_that_becomes_shorter_while_it_is_sent_is_as_long_as_was_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    assert b"".join(content(fd, 10)) == b"abc" + bytes(7)


@pytest.mark.docker
def test_a_base_that_would_leave_no_memory_is_refused(tmp_path: Path) -> None:
    need("docker")
    (tmp_path / "base").write_bytes(b"b" * 1_000_000)
    with pytest.raises(
        ValueError, match="limits: memory: expected at least 34939904 with a base of 1007616, got 33554432"
    ):
        DockerHost(Settings(tmp_path, limits=Limits(memory=int(LEAST["memory"]))))
