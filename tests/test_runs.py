"""A run folder loses nothing: not by a kill, not by a full disk, not by a second writer."""

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from milepost.envs import files, runs
from milepost.envs.core import Action, Episode, Stop, Turn
from milepost.envs.files import DiskFullError
from milepost.envs.runs import Run, read_episodes, read_metrics, read_run, write_json

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


def ids(folder):
    return [e.id for e in read_episodes(folder)]


def test_a_run_comes_back_as_it_was_written(tmp_path):
    with Run.open(tmp_path / "run", "recipe", {"lr": 0.1, "out": tmp_path}) as run:
        first, second = episode("a"), episode("b", info={"answer": "42"})
        run.add(first)
        run.add(second)
        run.log({"outcome/mean": 0.5, "loss": float("inf")}, update=0)
        run.finish({"success": 0.5})
    assert list(read_episodes(tmp_path / "run")) == [first, second]
    assert read_metrics(tmp_path / "run") == [{"update": 0, "outcome/mean": 0.5, "loss": float("inf")}]
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == {"success": 0.5}
    info = read_run(tmp_path / "run")
    assert (info.kind, info.status, info.settings["lr"], info.schema) == ("recipe", "finished", 0.1, 1)


def test_credit_assigned_later_is_joined_by_episode_and_turn(tmp_path):
    with Run.open(tmp_path / "run", "recipe") as run:
        group = [episode("a", 2), episode("b", 3)]
        group[0].turns[0].credit["live"] = 7.0
        for e in group:
            run.add(e)
        for t, value in enumerate([0.25, None, 0.0]):
            group[1].turns[t].put("gra#2", value)
            group[1].turns[t].advantage = value
        run.write_credit("gra#2", [group], {"gate": 0.0})
        run.write_credit("advantage", [group], {"estimator": "rloo"})
    a, b = read_episodes(tmp_path / "run")
    assert [t.credit for t in a.turns] == [{"live": 7.0}, {}]
    assert [t.credit for t in b.turns] == [{"gra#2": 0.25}, {"gra#2": None}, {"gra#2": 0.0}]
    assert [t.advantage for t in b.turns] == [0.25, None, 0.0]
    head = json.loads((tmp_path / "run" / "credit" / "gra#2.jsonl").read_text().splitlines()[0])
    assert head == {"schema": 1, "label": "gra#2", "lineage": {"gate": 0.0}}
    assert all(
        not t.credit or "live" in t.credit for e in read_episodes(tmp_path / "run", credit=False) for t in e.turns
    )


def test_credit_of_one_agent_lands_on_that_agents_turns(tmp_path):
    game = episode("g", 4)
    for turn, agent in zip(game.turns, ["white", "black"] * 2, strict=True):
        turn.agent = agent
    with Run.open(tmp_path / "run", "recipe") as run:
        run.add(game)
        for agent, sign in (("white", 1.0), ("black", -1.0)):
            part = game.part(agent)
            for turn in part.turns:
                turn.put("win", sign)
            run.write_credit("win", [[part]], {})
    (back,) = read_episodes(tmp_path / "run")
    assert [t.credit["win"] for t in back.turns] == [1.0, -1.0, 1.0, -1.0]


def test_pictures_are_kept_once_beside_the_episodes(tmp_path):
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    shown = Episode(
        id="e", turns=[Turn({"text": "see", "images": [image, image]}, Action("a"))], last={"images": [image]}
    )
    with Run.open(tmp_path / "run", "recipe") as run:
        run.add(shown)
    assert len(list((tmp_path / "run" / "images").iterdir())) == 1
    (back,) = read_episodes(tmp_path / "run")
    assert np.array_equal(back.turns[0].observation["images"][1], image)
    (bare,) = read_episodes(tmp_path / "run", images=False)
    assert list(bare.last["images"][0]) == ["$image"]


def test_a_picture_name_cannot_leave_the_folder(tmp_path):
    with pytest.raises(ValueError, match=r"named <digest>\.png"):
        files.Images(tmp_path).load("../../secret.png")


def test_shards_hold_whole_lines_and_stay_below_their_size(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "SHARD_BYTES", 400)
    with Run.open(tmp_path / "run", "recipe") as run:
        for i in range(9):
            run.add(episode(str(i)))
    shards = sorted((tmp_path / "run" / "episodes").iterdir())
    assert len(shards) > 2
    assert all(s.stat().st_size <= 400 and s.read_bytes().endswith(b"}\n") for s in shards)
    assert ids(tmp_path / "run") == list("012345678")


def test_every_rank_appends_to_files_of_its_own(tmp_path):
    with Run.open(tmp_path / "run", "recipe") as zero, Run.open(tmp_path / "run", "recipe", resume=True, rank=1) as one:
        zero.add(episode("a"))
        other = episode("b")
        one.add(other)
        one.log({"loss": 1.0}, 0)
        other.turns[0].put("gra", 1.0)
        one.write_credit("gra", [[other]], {})
        position = zero.position()
        assert set(position) == {"episodes/00000.jsonl", "episodes/r1-00000.jsonl", "credit/gra.r1.jsonl"}
        one.add(episode("c"))
        zero.rewind(position)
        one.add(episode("d"))
    assert ids(tmp_path / "run") == ["a", "b", "d"]


@pytest.mark.parametrize("cut", [1, 5, 60])
def test_a_line_cut_off_at_the_end_is_left_out_with_a_warning(tmp_path, cut):
    with Run.open(tmp_path / "run", "recipe") as run:
        for i in range(3):
            run.add(episode(str(i)))
    shard = tmp_path / "run" / "episodes" / "00000.jsonl"
    os.truncate(shard, shard.stat().st_size - cut)
    with pytest.warns(UserWarning, match="the last line is cut off after .* bytes; the 2 whole lines are read"):
        assert ids(tmp_path / "run") == ["0", "1"]
    with (
        pytest.warns(UserWarning, match="removed a last line"),
        Run.open(tmp_path / "run", "recipe", resume=True) as run,
    ):
        run.add(episode("3"))
    assert ids(tmp_path / "run") == ["0", "1", "3"]


@pytest.mark.parametrize("whole", [b"", b"x" * 200_000 + b"\n", b"a\nb\n"])
@pytest.mark.parametrize("rest", [b"", b"y", b"y" * 70_000])
def test_cutting_removes_the_rest_and_nothing_else(tmp_path, whole, rest):
    file = tmp_path / "lines"
    file.write_bytes(whole + rest)
    assert files.cut_off(file) == len(rest)
    assert file.read_bytes() == whole


def test_a_broken_line_in_the_middle_is_an_error_with_its_number(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b'{"update":0}\n{"upd\n{"update":2}\n')
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 2: expected a line of JSON"):
        read_metrics(tmp_path)


def test_a_newer_schema_is_refused(tmp_path):
    write_json(tmp_path / "run.json", {"schema": 2, "kind": "recipe"})
    for use in (read_run, lambda p: list(read_episodes(p)), lambda p: Run.open(p, "recipe", resume=True)):
        with pytest.raises(ValueError, match="has schema 2, this version reads up to 1: install a newer milepost"):
            use(tmp_path)


def test_what_is_no_run_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"is no run folder: expected a run\.json"):
        list(read_episodes(tmp_path / "nothing"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file: expected a folder"):
        Run.open(tmp_path / "file", "recipe")
    (tmp_path / "model").mkdir()
    with pytest.raises(ValueError, match=r"holds model but no run.json"):
        Run.open(tmp_path, "recipe")


def test_a_folder_is_not_written_twice_by_mistake(tmp_path):
    Run.open(tmp_path / "run", "recipe", {"lr": 1}).close()
    with pytest.raises(ValueError, match="holds a run of recipe, expected one of other"):
        Run.open(tmp_path / "run", "other", resume=True)
    with pytest.raises(ValueError, match=r"already holds a run \(stopped\): go on with --resume"):
        Run.open(tmp_path / "run", "recipe", {"lr": 1})
    with pytest.raises(ValueError, match=r"begun with other settings: lr was 1, is 2"):
        Run.open(tmp_path / "run", "recipe", {"lr": 2, "resume": True}, resume=True)


def test_a_finished_run_is_recognised(tmp_path):
    with Run.open(tmp_path / "run", "recipe") as run:
        assert (run.resumed, run.finished) == (False, False)
        run.finish({})
    with Run.open(tmp_path / "run", "recipe", resume=True) as run:
        assert (run.resumed, run.finished) == (True, True)
    assert read_run(tmp_path / "run").status == "finished"


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
        assert (run.rewind() / "weights").read_bytes() == b"w"
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
        assert run.latest_checkpoint().name == "000011"
    assert sorted(os.listdir(tmp_path / "run" / "checkpoints")) == ["000010", "000011"]


def test_a_checkpoint_that_fails_leaves_the_one_before(tmp_path):
    def fail(folder):
        (folder / "half").write_bytes(b"half")
        raise RuntimeError

    with Run.open(tmp_path / "run", "recipe") as run:
        run.checkpoint(1, lambda folder: None)
        with pytest.raises(RuntimeError):
            run.checkpoint(2, fail)
        assert run.latest_checkpoint().name == "000001"


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
        last = int(run.rewind().name)
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


def test_a_device_without_room_is_named():
    from pathlib import Path

    with pytest.raises(DiskFullError, match="cannot write /dev/full: no space left on device"):
        files.append_line(Path("/dev/full"), b"{}")


def test_a_document_is_replaced_whole_or_not_at_all(tmp_path):
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(ValueError, match="expected plain JSON"):
        write_json(tmp_path / "a.json", {"a": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_what_a_run_cannot_record_leaves_the_folder_as_it_was(tmp_path):
    with Run.open(tmp_path / "run", "recipe") as run:
        with pytest.raises(ValueError, match="expected plain JSON"):
            run.add(Episode(id="e", turns=[Turn("o", Action("a"), info={"x": {1}})], stop=Stop.TERMINATED))
        assert run.position() == {}
