"""Leftovers: what crashed processes left goes, what living ones have stays."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

from milepost.recipes.cli import main
from milepost.sandbox import bases, folders, leftovers
from milepost.sandbox.leftovers import Owner


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def dead() -> Owner:
    """A process that was."""
    code = "from milepost.sandbox import leftovers; print(*leftovers.me())"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    return Owner(int(said[0]), int(said[1]), said[2], int(said[3]))


def test_a_mark_names_its_owner() -> None:
    me = leftovers.me()
    made = leftovers.folder("local")
    assert leftovers.owner_of(made.name) == me
    assert leftovers.owner_of(f"milepost-{me.mark}") == me
    assert me.alive is True
    for name in ("milepost-local-abc", "milepost-1-2", "other", f"x-{me.mark}"):
        assert leftovers.owner_of(name) is None


def test_only_what_dead_owners_left_is_removed(temporary: Path) -> None:
    gone, me = dead(), leftovers.me()
    owners = {
        "dead": gone,
        "recycled": me._replace(started=me.started - 1),  # another process had this id before
        "mine": me,
        "elsewhere": gone._replace(namespace=gone.namespace + 1),
        "rebooted": gone._replace(boot="0badb007"),
    }
    made = {word: temporary / f"milepost-{word}-{owner.mark}-x" for word, owner in owners.items()}
    for path in made.values():
        (path / "a" / "b").mkdir(parents=True)
    (temporary / "milepost-local-nobody").mkdir()
    (made["dead"] / "a").chmod(0)
    outside = temporary / "outside"
    outside.mkdir()
    (made["dead"] / "out").symlink_to(outside)
    (temporary / f"milepost-link-{gone.mark}").symlink_to(outside)
    assert set(leftovers.clean()) == {made["dead"], made["recycled"]}
    assert {word for word, path in made.items() if path.exists()} == {"mine", "elsewhere", "rebooted"}
    assert outside.exists()
    os.utime(made["rebooted"], (0, 0))  # as old as an earlier boot
    assert leftovers.clean() == [made["rebooted"]]


def test_the_command_removes_what_no_living_process_uses(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(folders, "_root", lambda: temporary)
    attacked = folders.state("attacks") / f"milepost-attacks-{dead().mark}-x"
    ours = folders.state("attacks") / f"milepost-attacks-{leftovers.me().mark}-x"
    crashed = temporary / f"milepost-local-{dead().mark}-x"
    base, copying = folders.state("bases") / "0123-1-1", folders.state("bases") / ".new-1-x"
    (temporary / "mine").mkdir()
    (temporary / "mine" / "file").touch()
    for path in (attacked, ours, crashed, base, copying):
        (path / "inner").mkdir(parents=True)
    mine = bases.prepare(temporary / "mine")
    assert main(["sandbox", "clean", "--json"]) == 0
    assert {str(attacked), str(crashed)} <= set(json.loads(capsys.readouterr().out))
    assert base.exists()
    assert main(["sandbox", "clean", "--days", "0"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert str(base) in said
    assert said[-1] == f"{len(said) - 1} removed"
    assert [path.exists() for path in (attacked, crashed, base)] == [False] * 3
    assert [path.exists() for path in (ours, copying, mine)] == [True] * 3


def test_what_is_mounted_in_a_leftover_is_not_removed_with_it(temporary: Path) -> None:
    if os.geteuid():
        pytest.skip("mounting takes root")
    path = temporary / f"milepost-x-{dead().mark}"
    kept = temporary / "kept"
    for made in (path, kept):
        made.mkdir()
    (kept / "file").touch()
    if subprocess.run(["mount", "--bind", kept, path], capture_output=True).returncode:
        pytest.skip("no mounting here")
    assert leftovers.clean() == [path]
    assert (kept / "file").exists()


def test_a_dead_owners_control_group_goes_with_what_runs_in_it(temporary: Path) -> None:
    root = next((p for p in map(Path, ("/sys/fs/cgroup/pids", "/sys/fs/cgroup")) if os.access(p, os.W_OK)), None)
    if root is None:
        pytest.skip("no control groups to write")
    ours, theirs = root / f"milepost-t-{leftovers.me().mark}", root / f"milepost-t-{dead().mark}"
    process = subprocess.Popen(["sleep", "60"])
    try:
        try:
            ours.mkdir()
            (theirs / "inner").mkdir(parents=True)
            (theirs / "inner" / "cgroup.procs").write_text(str(process.pid))
        except OSError as error:
            pytest.skip(f"no control groups: {error}")
        assert theirs in leftovers.clean(cgroups=[root])
        assert process.wait() == -9
        assert ours.exists()
        assert not theirs.exists()
    finally:
        process.kill()
        process.wait()
        for path in (ours, theirs / "inner", theirs):
            if path.exists():
                path.rmdir()


@pytest.mark.docker
def test_only_containers_of_dead_owners_are_removed() -> None:
    docker = pytest.importorskip("docker")
    try:
        engine = docker.from_env()
        engine.ping()
    except docker.errors.DockerException as error:
        pytest.skip(f"no engine: {error}")
    gone, me = dead(), leftovers.me()
    image = "milepost-test-leftovers:1"
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("empty"))
    engine.api.import_image_from_data(archive.getvalue(), repository="milepost-test-leftovers", tag="1")
    owners = {"dead": gone, "mine": me, "elsewhere": gone._replace(namespace=1)}
    made = {}
    try:
        for word, owner in owners.items():
            made[word] = engine.containers.create(image, ["/empty"], network_mode="none", labels=owner.labels)
        # One that belongs to another machine and never ran may still be started there.
        assert made["dead"].name in leftovers.clean_containers(engine)
        left = {found["Id"] for found in engine.api.containers(all=True)}
        assert {word for word, container in made.items() if container.id in left} == {"mine", "elsewhere"}
    finally:
        for container in made.values():
            with suppress(docker.errors.NotFound):
                container.remove(force=True)
        engine.images.remove(image, force=True)
