"""Bases: folders that workspaces begin with."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from milepost.sandbox import bases, folders


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder of the test's own."""
    monkeypatch.setattr(folders, "_root", lambda: tmp_path / "state")
    (tmp_path / "state").mkdir()
    return tmp_path / "state" / "bases"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "given"
    (made / "a" / "empty").mkdir(parents=True)
    (made / "a" / "run").write_text("#!/bin/sh\n")
    (made / "a" / "run").chmod(0o4750)
    (made / "link").symlink_to("/nowhere")
    (made / "up").symlink_to("a")
    (made / "ü\n").write_bytes(b"\xff")
    return made


def test_a_base_has_the_folders_content_for_the_sandboxes_user(folder: Path) -> None:
    base = bases.prepare(folder)
    found = sorted(path.relative_to(base).as_posix() for path in base.rglob("*"))
    assert found == ["a", "a/empty", "a/run", "link", "up", "ü\n"]
    assert (base / "ü\n").read_bytes() == b"\xff"
    assert os.readlink(base / "link") == "/nowhere"
    assert os.readlink(base / "up") == "a"
    # All may read; setuid is gone.
    assert stat.S_IMODE((base / "a" / "run").stat().st_mode) == 0o754
    assert {(s.st_uid, s.st_gid) for s in (p.lstat() for p in (base, *base.rglob("*")))} == {folders.owner()}
    assert bases.prepare(base) == base


def test_equal_folders_have_one_base_and_any_change_gives_another(folder: Path, tmp_path: Path) -> None:
    first = bases.prepare(folder)
    twin = tmp_path / "twin"
    subprocess.run(["cp", "-a", folder, twin], check=True)
    assert bases.prepare(twin) == first
    seen = {first}
    file, up = folder / "a" / "run", folder / "up"
    times = file.stat().st_mtime_ns

    def edit() -> None:
        file.write_text("#!/bin/zh\n")
        os.utime(file, ns=(times, times))

    def link(target: str) -> None:
        up.unlink()
        up.symlink_to(target)

    def file_for_link() -> None:
        up.unlink()
        up.write_text("b")

    changes: list[Callable[[], object]] = [
        edit,
        lambda: file.chmod(0o644),
        (folder / "a" / "empty").rmdir,
        lambda: link("b"),
        file_for_link,
        lambda: file.rename(folder / "a" / "ran"),
    ]
    for n, change in enumerate(changes, start=2):
        change()
        seen.add(bases.prepare(folder))
        assert len(seen) == n


def test_a_folder_that_was_settled_is_read_again_when_it_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bases, "SETTLED_S", -1.0)  # everything is old enough
    first = bases.prepare(folder)
    with monkeypatch.context() as patch:
        patch.setattr(bases, "_walk", None)  # reading it again would raise
        assert bases.prepare(folder) == first
    (folder / "a" / "run").write_text("#!/bin/zh\n")
    assert (bases.prepare(folder) / "a" / "run").read_text() == "#!/bin/zh\n"


def test_what_is_no_folder_of_files_is_refused_in_one_line(folder: Path, home: Path) -> None:
    os.mkfifo(folder / "a" / "fifo")
    for path, words in [(folder, "a/fifo"), (folder / "a" / "run", "expected a folder"), (folder / "up", "got")]:
        with pytest.raises(ValueError, match=words) as raised:
            bases.prepare(path)
        assert "\n" not in str(raised.value)
    assert [path.name for path in home.iterdir() if path.name.startswith(".new")] == []


def test_several_processes_at_once_make_one_whole_base(folder: Path, home: Path) -> None:
    for n in range(300):
        (folder / f"f{n}").write_text(str(n) * 1000)
    code = (
        "import sys; from pathlib import Path; from milepost.sandbox import bases, folders\n"
        "folders._root = lambda: Path(sys.argv[2]); base = bases.prepare(sys.argv[1])\n"
        "print(base, len(list(base.iterdir())))"
    )
    argv = [sys.executable, "-c", code, str(folder), str(home.parent)]
    running = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = {process.communicate()[0] for process in running}
    assert len(said) == 1
    assert said.pop().endswith(" 304\n")
    assert [path.name for path in home.iterdir() if path.name.startswith(".new")] == []


def test_cleaning_removes_what_no_living_process_uses(folder: Path, home: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from milepost.sandbox import bases, folders\n"
        "folders._root = lambda: Path(sys.argv[2]); print(bases.prepare(sys.argv[1]), flush=True); sys.stdin.read()"
    )
    (folder / "a").chmod(0o555)  # must not keep it from being removed
    argv = [sys.executable, "-c", code, str(folder), str(home.parent)]
    user = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert user.stdin
    assert user.stdout
    base = Path(user.stdout.readline().strip())
    (folder / "mine").touch()
    mine = bases.prepare(folder)
    assert bases.clean(0.0) == []
    assert base.is_dir()
    assert mine.is_dir()
    user.communicate()
    assert bases.clean(3600.0) == []  # used lately
    assert bases.clean(0.0) == [base]
    assert not base.exists()
    assert mine.is_dir()
    assert sorted(path.name for path in home.iterdir()) == sorted([".lock", "users", mine.name])


def test_a_folder_is_removed_however_deeply_closed_folders_are_nested_in_it(tmp_path: Path) -> None:
    script = "import os\nfor _ in range(1500): os.mkdir('d'); os.chdir('d')\n"
    script += "open('file', 'w')\nfor _ in range(1500): os.chdir('..'); os.chmod('d', 0)"
    (tmp_path / "nest").mkdir()
    (tmp_path / "nest" / "out").symlink_to(tmp_path / "kept")
    (tmp_path / "kept").mkdir(mode=0o750)
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path / "nest", check=True)
    bases.remove(tmp_path / "nest")
    bases.remove(tmp_path / "nest")
    assert [path.name for path in tmp_path.iterdir() if path.name != "state"] == ["kept"]
    assert stat.S_IMODE((tmp_path / "kept").stat().st_mode) == 0o750
