"""A run that is killed, resumed or out of disk space goes on from what was whole."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from milepost.envs import files, runs
from milepost.envs.core import Action, Episode, Stop, Turn
from milepost.envs.files import DiskFullError
from milepost.envs.runs import Run, read_episodes, read_metrics

HEADER = """
import os, resource, sys, time
from milepost.envs.core import Action, Episode, Stop, Turn
from milepost.envs.runs import Run
def episode(i, size=10): return Episode(id=str(i), turns=[Turn("o" * size, Action("a"))], stop=Stop.TERMINATED)
"""


def episode(name="0", n_turns=2, **fields):
    turns = [Turn(f"observation {t}", Action(f"action {t}")) for t in range(n_turns)]
    return Episode(id=name, turns=turns, stop=Stop.TERMINATED, **fields)


def script(tmp_path, body):
    file = tmp_path / "script.py"
    file.write_text(HEADER + textwrap.dedent(body))
    return [sys.executable, str(file), str(tmp_path / "run")]


def contents(folder):
    names = ["metrics.jsonl", *(f"{d}/{f}" for d in ("episodes", "credit") for f in os.listdir(folder / d))]
    return {name: (folder / name).read_bytes() for name in names}


def latest(run):
    folder = run.latest_checkpoint()
    assert folder is not None
    return folder.name


def ids(folder):
    return [e.id for e in read_episodes(folder)]


def test_a_second_writer_is_refused_until_the_first_is_dead(tmp_path):
    body = """
        run = Run.open(sys.argv[1], "recipe")
        if os.fork() == 0: time.sleep(20); os._exit(0)       # a child must not keep the lock
        print("open", flush=True)
        time.sleep(60)
    """
    process = subprocess.Popen(script(tmp_path, body), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    with pytest.raises(ValueError, match=rf"written by another live process \(pid {process.pid}\)"):
        Run.open(tmp_path / "run", "recipe", resume=True)
    process.kill()
    process.wait()
    with Run.open(tmp_path / "run", "recipe", resume=True) as run:
        assert run.resumed
    process.stdout.close()


def test_resuming_cuts_metrics_episodes_and_credit_back_byte_by_byte(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "SHARD_BYTES", 600)

    def work(run, updates):
        for update in updates:
            group = [episode(f"{update}:{i}") for i in range(2)]
            for e in group:
                run.add(e)
                e.turns[0].put("gra", 0.5)
            run.write_credit("gra", [group], {})
            run.log({"loss": 1 / (update + 1)}, update)
            if update == 3:
                run.checkpoint(update, lambda folder: (folder / "weights").write_bytes(b"w"))

    with Run.open(tmp_path / "straight", "recipe") as run:
        work(run, range(8))
    with Run.open(tmp_path / "broken", "recipe") as run:
        work(run, range(6))
        run.write_credit("late", [[episode("x")]], {})
    with Run.open(tmp_path / "broken", "recipe", resume=True) as run:
        assert run.rewind() == run.latest_checkpoint()
        assert (run.path / "checkpoints" / latest(run) / "weights").read_bytes() == b"w"
        work(run, range(4, 8))
    assert contents(tmp_path / "broken") == contents(tmp_path / "straight")


def test_without_a_checkpoint_the_run_starts_over(tmp_path):
    with Run.open(tmp_path / "run", "recipe") as run:
        run.add(episode())
        run.log({}, 0)
        assert run.rewind() is None
        assert run.position() == {}


def test_a_file_shorter_than_the_checkpoint_says_is_refused(tmp_path):
    with Run.open(tmp_path / "run", "recipe") as run:
        run.log({}, 0)
        run.checkpoint(0, lambda folder: None)
        os.truncate(tmp_path / "run" / "metrics.jsonl", 3)
        with pytest.raises(ValueError, match=r"metrics.jsonl: the checkpoint expects 13 bytes, got 3"):
            run.rewind()


def test_the_newest_two_checkpoints_are_kept(tmp_path):
    with Run.open(tmp_path / "run", "recipe") as run:
        for update in (9, 10, 11, 11):
            run.checkpoint(update, lambda folder: None)
        assert latest(run) == "000011"
    assert sorted(os.listdir(tmp_path / "run" / "checkpoints")) == ["000010", "000011"]


def test_a_checkpoint_that_fails_leaves_the_one_before(tmp_path):
    def fail(folder):
        (folder / "half").write_bytes(b"half")
        raise RuntimeError

    with Run.open(tmp_path / "run", "recipe") as run:
        run.checkpoint(1, lambda folder: None)
        with pytest.raises(RuntimeError):
            run.checkpoint(2, fail)
        assert latest(run) == "000001"


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint_and_whole_lines(tmp_path):
    body = """
        def write(folder):
            for name in ("a", "b"):
                with open(folder / name, "wb") as file:
                    for _ in range(20): file.write(bytes([update % 256]) * 10_000)
        run = Run.open(sys.argv[1], "recipe", resume=True)
        last = run.rewind()
        update = int(last.name) + 1 if last else 0
        if last:
            parts = (last / "a").read_bytes() + (last / "b").read_bytes()
            assert parts == bytes([int(last.name) % 256]) * 400_000, "half a checkpoint"
        print(update, flush=True)
        while True:
            run.add(episode(update, 100_000))
            run.log({}, update)
            run.checkpoint(update, write)
            update += 1
    """
    chance = random.Random(0)
    begun = []
    for _ in range(8):
        process = subprocess.Popen(script(tmp_path, body), stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        begun.append(int(process.stdout.readline()))
        time.sleep(chance.uniform(0.01, 0.25))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    assert begun == sorted(begun)
    assert begun[-1] > 8
    with Run.open(tmp_path / "run", "recipe", resume=True) as run:
        run.rewind()
        last = int(latest(run))
    assert ids(tmp_path / "run") == [str(i) for i in range(last + 1)]
    assert [row["update"] for row in read_metrics(tmp_path / "run")] == list(range(last + 1))


def test_a_full_disk_gives_one_clear_line_and_loses_nothing(tmp_path):
    body = """
        run = Run.open(sys.argv[1], "recipe")
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        try:
            for i in range(100): run.add(episode(i, 3000)); run.log({}, i)
        except OSError as error:
            print(type(error).__name__, error)
        try:
            run.checkpoint(1, lambda folder: (folder / "w").write_bytes(b"w" * 200_000))
        except OSError as error:
            print(type(error).__name__, error)
        run.close()
    """
    done = subprocess.run(script(tmp_path, body), capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first.startswith("DiskFullError cannot write ")
    assert "00000.jsonl: file too large; all that was written before is kept: free some space" in first
    assert second.startswith("DiskFullError cannot write ")
    n = len(read_metrics(tmp_path / "run"))
    assert 30 <= n < 40
    assert ids(tmp_path / "run") == [str(i) for i in range(n)]  # without a warning: no line is cut
    assert os.listdir(tmp_path / "run" / "checkpoints") == []
    with Run.open(tmp_path / "run", "recipe", resume=True) as run:
        run.add(episode("more"))
    assert ids(tmp_path / "run")[-1] == "more"


def test_a_full_disk_that_a_library_reports_is_clear_too(tmp_path):
    def save(folder):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")

    with (
        Run.open(tmp_path / "run", "recipe") as run,
        pytest.raises(DiskFullError, match="000003: no space left on dev"),
    ):
        run.checkpoint(3, save)


def test_a_device_without_room_is_named():
    with pytest.raises(DiskFullError, match="cannot write /dev/full: no space left on device"):
        files.append_line(Path("/dev/full"), b"{}")
