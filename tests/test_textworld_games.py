"""The cache of compiled games: filled by several processes, killed at any moment, never half full."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import psutil
import pytest

pytest.importorskip("textworld")

from milepost.envs import textworld_games
from milepost.envs.textworld_games import Level, compile_games, game_file
from milepost.envs.textworld_interpreter import Game
from milepost.sandbox.core import MachineError

LEVEL = Level.parse("w2-o3-q2")
COMPILE = """
import sys
from pathlib import Path
from milepost.envs.textworld_games import Level, compile_games
if __name__ == "__main__":
    compile_games(Level.parse("w2-o3-q2"), sys.argv[2:], folder=Path(sys.argv[1]))
"""


def compiler(cache: Path, *names: str, stderr: int | None = None) -> subprocess.Popen[bytes]:
    """Start a process that fills the cache."""
    script = cache / "fill.py"
    script.write_text(COMPILE)
    return subprocess.Popen([sys.executable, str(script), str(cache), *names], stderr=stderr)


def games(cache: Path) -> list[str]:
    """Return the names of everything in the cache's folder of the level."""
    return sorted(path.name for path in (cache / str(LEVEL)).iterdir())


def wins(file: Path) -> bool:
    """Play a game by its plan."""
    game = Game(file)
    return game.after(game.after(()).plan).won


def until(holds, timeout_s: float = 60.0) -> None:
    """Wait for something."""
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.005)


def test_a_half_written_game_is_compiled_again(tmp_path):
    (tmp_path / str(LEVEL)).mkdir()
    (tmp_path / str(LEVEL) / "50001.json").write_text("{")
    assert wins(game_file(LEVEL, "50001", tmp_path))
    assert games(tmp_path) == ["50001.json", "50001.z8"]


def test_two_processes_may_fill_one_cache(tmp_path):
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        files = [pool.submit(game_file, LEVEL, "50002", tmp_path) for _ in range(2)]
        assert {f.result() for f in files} == {tmp_path / str(LEVEL) / "50002.z8"}
    assert games(tmp_path) == ["50002.json", "50002.z8"]
    assert wins(tmp_path / str(LEVEL) / "50002.z8")


def test_a_killed_generation_takes_its_workers_along_and_leaves_no_half_game(tmp_path):
    parent = compiler(tmp_path, *map(str, range(50001, 50021)))
    until(lambda: list(tmp_path.glob("*/.*-*/*.json")))  # Inform is at work on one
    workers = psutil.Process(parent.pid).children(recursive=True)
    assert workers
    parent.kill()
    parent.wait()
    until(lambda: not any(w.is_running() and w.status() != psutil.STATUS_ZOMBIE for w in workers))
    whole = [name for name in games(tmp_path) if name.endswith(".z8")]
    assert all((tmp_path / str(LEVEL) / name).with_suffix(".json").exists() for name in whole)

    for scratch in (tmp_path / str(LEVEL)).glob(".*"):
        os.utime(scratch, (0, 0))  # as if it happened yesterday
    assert wins(game_file(LEVEL, "50001", tmp_path))
    assert not list((tmp_path / str(LEVEL)).glob(".*"))


def test_progress_is_shown_where_someone_watches(tmp_path):
    ours, theirs = pty.openpty()
    process = compiler(tmp_path, "50001", "50002", stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 4096):
            shown += chunk
    except OSError:  # the other side is closed
        pass
    os.close(ours)
    assert process.wait() == 0
    assert b"games" in shown
    assert b"2/2" in shown
    assert games(tmp_path) == ["50001.json", "50001.z8", "50002.json", "50002.z8"]


def test_a_worker_that_dies_is_told_in_one_line(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(textworld_games, "_begin_worker", os._exit)
    with pytest.raises(
        MachineError, match=r"^a process that compiles games of w2-o3-q2 died; the finished ones are kept$"
    ):
        compile_games(LEVEL, ["50001", "50002"], folder=tmp_path)


def test_a_task_that_is_no_seed_stops_the_generation_at_once(tmp_path):
    start = time.monotonic()
    with pytest.raises(ValueError, match="expected a seed such as 50001, got 'first'"):
        compile_games(LEVEL, ["first", *map(str, range(50001, 50101))], folder=tmp_path)
    assert time.monotonic() - start < 30  # a hundred games take minutes


def test_what_the_cache_has_starts_no_process(tmp_path, monkeypatch: pytest.MonkeyPatch):
    game_file(LEVEL, "50001", tmp_path)
    monkeypatch.setattr(textworld_games, "ProcessPoolExecutor", None)
    compile_games(LEVEL, ["50001", "50001"], folder=tmp_path)
