"""A run folder gives back what was written, joins what came later and refuses what is not its own."""

import json
import os

import numpy as np
import pytest

from milepost.envs import codec, files, runs
from milepost.envs.core import Action, Episode, Stop, Turn
from milepost.envs.runs import Run, read_episodes, read_metrics, read_newest, read_run, write_json


def episode(name="0", n_turns=2, **fields):
    turns = [Turn(f"observation {t}", Action(f"action {t}")) for t in range(n_turns)]
    return Episode(id=name, turns=turns, stop=Stop.TERMINATED, **fields)


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


def test_of_an_id_that_was_played_again_the_newest_record_alone_counts(tmp_path):
    cancelled = Episode(id="b", turns=[Turn("o", Action("a"))], stop=Stop.CANCELLED)
    with Run.open(tmp_path / "run", "evaluate") as run:
        for record in (episode("a"), cancelled, episode("c")):
            run.add(record)
        again = episode("b", 3)
        run.add(again)
        again.turns[2].put("gra", 0.5)
        run.write_credit("gra", [[again]], {})
    newest = list(read_newest(tmp_path / "run"))
    assert [(e.id, e.stop, len(e.turns)) for e in newest] == [
        ("a", Stop.TERMINATED, 2),
        ("c", Stop.TERMINATED, 2),
        ("b", Stop.TERMINATED, 3),
    ]
    assert newest[2].turns[2].credit == {"gra": 0.5}
    older = [e for e in read_episodes(tmp_path / "run") if e.id == "b"]
    assert [[turn.credit for turn in e.turns] for e in older] == [[{}], [{}, {}, {"gra": 0.5}]]


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
    seen = back.turns[0].observation
    assert isinstance(seen, dict)
    assert np.array_equal(seen["images"][1], image)
    (bare,) = read_episodes(tmp_path / "run", images=False)
    assert isinstance(bare.last, dict)
    assert list(bare.last["images"][0]) == ["$image"]
    assert codec.to_json(bare)["last"] == bare.last  # written again as it was read


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
    with Run.open(tmp_path / "run", "recipe") as zero, Run.open(tmp_path / "run", "recipe", rank=1) as one:
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
        assert (zero.resumed, one.resumed) == (False, False)
    assert ids(tmp_path / "run") == ["a", "b", "d"]
    assert [e.turns[0].credit for e in read_episodes(tmp_path / "run")] == [{}, {"gra": 1.0}, {}]
    with Run.open(tmp_path / "run", "recipe", resume=True), Run.open(tmp_path / "run", "recipe", rank=1) as one:
        assert one.resumed


def test_a_rank_needs_the_run_that_rank_0_began(tmp_path):
    with pytest.raises(ValueError, match="is no run folder"):
        Run.open(tmp_path / "run", "recipe", rank=1)


def test_labels_of_any_text_have_files_of_their_own(tmp_path):
    labels = ["r1-gra", "gra.r1", "../gra", "mine:My/Credit#2"]
    with Run.open(tmp_path / "run", "recipe") as run:
        played = episode()
        run.add(played)
        for number, label in enumerate(labels):
            played.turns[0].put(label, float(number))
            run.write_credit(label, [[played]], {})
    (back,) = read_episodes(tmp_path / "run")
    assert back.turns[0].credit == {label: float(number) for number, label in enumerate(labels)}
    assert len(os.listdir(tmp_path / "run" / "credit")) == 4


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
    two = {"name": "two", "entries": [{"name": "a", "n": 3}, {"name": "b", "n": 3}]}
    Run.open(tmp_path / "nested", "recipe", {"panel": two}).close()
    for entries, told in {
        (("a", 3), ("b", 4)): r"settings: panel\.entries\.b\.n was 3, is 4: give",
        (("a", 3),): r"settings: panel\.entries\.b was \{'name': 'b', 'n': 3\}, is None: give",
        (("b", 3), ("a", 3)): r"settings: panel\.entries was \[\{'name': 'a'.*, is \[\{'name': 'b'",
    }.items():
        panel = {"name": "two", "entries": [{"name": name, "n": n} for name, n in entries]}
        with pytest.raises(ValueError, match=told):
            Run.open(tmp_path / "nested", "recipe", {"panel": panel}, resume=True)


def test_of_settings_that_differ_only_the_parts_that_do_are_told(tmp_path):
    tasks = [f"task {n}" for n in range(2000)]
    panel = {"name": "p", "entries": [{"tasks": tasks, "attempts": 1}]}
    Run.open(tmp_path / "run", "evaluate", {"panel": panel}).close()
    for changed, told in (
        ({"tasks": tasks, "attempts": 2}, r"settings: panel\.entries\[0\]\.attempts was 1, is 2: give the same"),
        ({"tasks": ["a"], "attempts": 1}, r"panel\.entries\[0\]\.tasks was \['task 0', .{50,70}\.\.\., is \['a'\]:"),
        (
            {"tasks": tasks[::-1], "attempts": 1},
            r"\.tasks\[4\] was 'task 4', is 'task 1995'; and 1995 more: give the same",
        ),
    ):
        with pytest.raises(ValueError, match=told):
            Run.open(tmp_path / "run", "evaluate", {"panel": panel | {"entries": [changed]}}, resume=True)


def test_runs_with_the_same_settings_have_the_same_digest_wherever_they_are(tmp_path):
    digests = set()
    for out, lr in (("a", 1), ("b", 1), ("c", 2)):
        with Run.open(tmp_path / out, "recipe", {"lr": lr, "out": tmp_path / out, "resume": out == "b"}) as run:
            digests.add(run.info.digest)
    assert len(digests) == 2


def test_a_finished_run_is_recognised(tmp_path):
    with Run.open(tmp_path / "run", "recipe") as run:
        assert (run.resumed, run.finished) == (False, False)
        run.finish({})
    with Run.open(tmp_path / "run", "recipe", resume=True) as run:
        assert (run.resumed, run.finished) == (True, True)
    assert read_run(tmp_path / "run").status == "finished"


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
