"""Which limits hold: control groups of both versions, and what is refused because nothing here enforces it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from milepost.sandbox import limits
from milepost.sandbox.core import Limits, Settings
from milepost.sandbox.limits import Groups, checked, find, in_force, rlimits
from milepost.sandbox.make import make
from tests.sandboxes import EACH, open_one

WAYS: dict[str, str | None] = dict.fromkeys(("memory", "processes", "cpus", "disk", "files", "network"), "somehow")


def process(folder: Path, cgroup: str, *mounts: tuple[str, Path, str, str]) -> Path:
    """Make a folder as of a process: its groups, and where hierarchies are mounted (root, place, kind, options)."""
    folder.mkdir()
    (folder / "cgroup").write_text(cgroup)
    rows = [f"30 1 0:30 {root} {at} rw - {kind} none {options}\n" for root, at, kind, options in mounts]
    (folder / "mountinfo").write_text("".join(rows))
    return folder


def group(folder: Path, **files: str) -> Path:
    """Make a folder as of a control group."""
    folder.mkdir(parents=True)
    for name, text in {"procs": "", **files}.items():
        (folder / f"cgroup.{name}").write_text(text)
    return folder


def test_of_version_1_the_callers_own_groups_are_used(tmp_path: Path) -> None:
    memory, cpu = group(tmp_path / "memory" / "job"), group(tmp_path / "cpu")
    mounts = [("/", tmp_path / "memory", "cgroup", "rw,memory"), ("/", tmp_path / "cpu", "cgroup", "rw,cpu,cpuacct")]
    own = process(tmp_path / "self", "4:memory:/job\n3:cpu,cpuacct:/\n0::/\n", *mounts)
    found = find(own)
    assert found == Groups(1, {"memory": memory, "cpu": cpu})
    assert found is not None
    made = found.make(Limits(memory=1 << 26, cpus=0.5))
    by_parent = {path.parent: path for path in made.paths}
    assert (by_parent[memory] / "memory.limit_in_bytes").read_text() == "67108864"
    assert not (by_parent[memory] / "memory.memsw.limit_in_bytes").exists()
    assert (by_parent[cpu] / "cpu.cfs_quota_us").read_text() == "50000"
    assert (by_parent[cpu] / "cpu.cfs_period_us").read_text() == "100000"


def test_in_a_container_the_mount_shows_a_part_of_the_hierarchy(tmp_path: Path) -> None:
    group(tmp_path / "memory" / "inner")
    mount = ("/docker/abc", tmp_path / "memory", "cgroup", "rw,memory")
    found = find(process(tmp_path / "self", "4:memory:/docker/abc/inner\n", mount))
    assert found is not None
    assert found.folders == {"memory": tmp_path / "memory" / "inner"}
    assert find(process(tmp_path / "other", "4:memory:/docker/abcd\n", mount)) is None


def test_of_version_2_a_delegated_group_is_divided(tmp_path: Path) -> None:
    own = group(tmp_path / "v2" / "mine", controllers="cpu io memory", subtree_control="", procs="12\n34\n")
    found = find(process(tmp_path / "self", "0::/mine\n", ("/", tmp_path / "v2", "cgroup2", "rw")))
    assert found is not None
    assert (found.version, found.folders) == (2, {"cpu": own, "memory": own})
    assert (own / "cgroup.subtree_control").read_text() == "+cpu +memory"
    made = found.make(Limits(memory=1 << 26, cpus=1.5))
    (path,) = made.paths
    assert (path / "memory.max").read_text() == "67108864"
    assert (path / "cpu.max").read_text() == "150000 100000"


@pytest.mark.skipif(os.geteuid() != 0, reason="for an ordinary user, what may be written is delegated")
def test_of_version_2_roots_own_group_is_divided_only_if_it_was_delegated(tmp_path: Path) -> None:
    def own(name: str, **files: str) -> Path:
        return group(tmp_path / "v2" / name, controllers="memory", subtree_control="", type="domain", **files)

    mount = ("/", tmp_path / "v2", "cgroup2", "rw")
    taken = own("taken", procs="12\n")
    assert find(process(tmp_path / "one", "0::/taken\n", mount)) is None
    assert (taken / "cgroup.subtree_control").read_text() == ""
    given = own("given", procs="12\n")
    os.setxattr(given, "user.delegate", b"1")
    # The kernel makes the files of a group with its folder; here they are there first.
    part = group(given / limits.PART)
    assert find(process(tmp_path / "two", "0::/given\n", mount)) is not None
    assert (part / "cgroup.procs").read_text() == "12"
    assert (given / "cgroup.subtree_control").read_text() == "+memory"
    again = find(process(tmp_path / "three", f"0::/given/{limits.PART}\n", mount))
    assert again is not None
    assert again.folders == {"memory": given}


def test_processes_that_end_or_start_others_while_they_move_hinder_no_division(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = group(tmp_path / "v2" / "mine", controllers="memory", subtree_control="", type="domain", procs="12\n34\n")
    part = group(own / limits.PART)
    if os.geteuid() == 0:
        os.setxattr(own, "user.delegate", b"1")
    write = Path.write_text

    def kernel(path: Path, text: str) -> int:
        """12 has ended, 34 has started 56; a group with processes is not divided."""
        if path == part / "cgroup.procs":
            write(own / "cgroup.procs", {"12": "34\n", "34": "56\n", "56": ""}[text])
            if text == "12":
                raise ProcessLookupError
        elif (own / "cgroup.procs").read_text():
            raise OSError
        return write(path, text)

    monkeypatch.setattr(Path, "write_text", kernel)
    found = limits._delegated(own)
    assert found == Groups(2, {"memory": own})
    assert (own / "cgroup.subtree_control").read_text() == "+memory"


def test_without_a_memory_controller_there_is_no_group(tmp_path: Path) -> None:
    group(tmp_path / "v2", controllers="hugetlb", subtree_control="")
    assert find(process(tmp_path / "self", "0::/\n", ("/", tmp_path / "v2", "cgroup2", "rw"))) is None
    assert find(tmp_path / "missing") is None


@pytest.mark.skipif(limits.groups() is None, reason="no control groups here")
def test_a_process_joins_by_writing_0_and_removal_kills_it() -> None:
    found = limits.groups()
    assert found is not None
    made = found.make(Limits(memory=1 << 26))
    fds = made.open()
    code = (
        f"for fd in {fds}; do echo 0 >&$fd; done; echo in; exec sleep 600".replace("[", "")
        .replace("]", "")
        .replace(",", "")
    )
    child = subprocess.Popen(["bash", "-c", code], stdout=subprocess.PIPE, pass_fds=fds, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "in\n"
    for fd in fds:
        os.close(fd)
    assert all((path / "cgroup.procs").read_text().split() == [str(child.pid)] for path in made.paths)
    made.remove()
    assert not any(path.exists() for path in made.paths)
    assert child.wait() == -9
    child.stdout.close()


def test_a_limit_that_nothing_enforces_is_refused_unless_it_is_allowed_to_be() -> None:
    ways = WAYS | {"cpus": None}
    assert checked("x", Settings(), ways)["cpus"] is None
    with pytest.raises(
        ValueError, match=r"x cannot enforce the limit cpus=2\.0 here: allow=\{'cpus'\} \(--allow cpus\)"
    ):
        checked("x", Settings(limits=Limits(cpus=2.0)), ways)
    allowed = Settings(limits=Limits(cpus=2.0), allow=frozenset({"cpus"}))
    how = checked("x", allowed, ways)
    assert how["cpus"] is None
    assert in_force(allowed.limits, how).cpus is None
    assert checked("x", Settings(), WAYS, without={"disk", "network"})["disk"] is None
    with pytest.raises(ValueError, match="limits: memory: expected at least 33554432, got 1000"):
        checked("x", Settings(limits=Limits(memory=1000)), ways)


def test_local_refuses_what_it_would_ignore_and_records_that_it_enforces_nothing() -> None:
    asked = Limits(memory=1 << 26, cpus=0.5)
    for settings, words in (
        (Settings(limits=asked, allow=frozenset({"cpus"})), "local cannot enforce the limit memory=67108864 here"),
        (Settings(limits=Limits(network="loopback")), "local cannot enforce the limit network='loopback' here"),
        (Settings(image="x"), "image: only docker has images, got 'x' for local"),
    ):
        with pytest.raises(ValueError, match=words):
            make("local", settings)
    for settings in (Settings(), Settings(limits=asked, allow=frozenset({"memory", "cpus"}))):
        with make("local", settings) as sandbox:
            assert set(sandbox.isolation["limits"].values()) == {None}


@pytest.mark.parametrize("backend", EACH)
def test_sessions_work_with_the_fewest_open_files_that_may_be_asked_for(backend: str) -> None:
    settings = Settings(limits=Limits(files=int(limits.LEAST["files"])), allow=frozenset({"files"}))
    with open_one(backend, settings) as sandbox:
        shell = sandbox.session()
        assert shell.run("X=1; true | cat").exit_code == 0
        result = shell.run("echo $X")
        assert (result.exit_code, result.output, result.ended) == (0, "1\n", False)


def test_memory_is_a_limit_of_each_process_only_where_no_group_counts_it() -> None:
    alone = checked("x", Settings(), WAYS | {"memory": limits.PER_PROCESS})
    assert rlimits(Limits(), alone) == {"CORE": 1, "AS": 1 << 30, "NPROC": 130, "NOFILE": 1024}
    assert "AS" not in rlimits(Limits(), WAYS)
