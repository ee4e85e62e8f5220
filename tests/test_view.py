"""What the viewer's files hold: everything once, nothing as markup, all or none of the pages."""

import base64
import hashlib
import json
import re
import resource
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
import three_methods
import view_runs

from milepost.credit.made import episode
from milepost.envs.core import Stop
from milepost.envs.runs import Run
from milepost.recipes import cli
from milepost.recipes.report import embed, pages
from milepost.recipes.report.view import view


def blocks(file):
    found = re.findall(rb'<script type="text/plain" id="([a-z0-9-]+)">([A-Za-z0-9+/=]*)</script>', file.read_bytes())
    return {name.decode(): base64.b64decode(data) for name, data in found}


def inflated(file, name="index"):
    return json.loads(zlib.decompress(blocks(file)[name]))


def test_the_index_has_the_numbers_of_the_run(tmp_path):
    (file,) = view(view_runs.doors(tmp_path / "run", "101x", "random"))
    index = inflated(file)
    (about,) = index["runs"]
    # 2 of 3 solved, z = 1.96: center (2 + 1.9207) / 6.8415, half 1.96 sqrt(2 / 3 + 0.9604) / 6.8415
    assert about["whole"] | {"low": 0, "high": 0} == {
        "policy": None,
        "split": "",
        "entry": "",
        "episodes": 4,
        "counted": 3,
        "solved": 2,
        "failed": 1,
        "turns": 12,
        "success": 2 / 3,
        "low": 0,
        "high": 0,
    }
    assert (about["whole"]["low"], about["whole"]["high"]) == pytest.approx((0.2077, 0.9385), abs=1e-4)
    assert [t["entry"] for t in about["tallies"]] == ["door", "gate"]
    row = index["rows"][0][0]
    assert (row["outcome"], row["success"], row["stop"], row["turns"]) == (1.0, True, "terminated", 3)
    assert (row["tokens"], row["cost"], row["reward"]) == (630, pytest.approx(0.003), 0)
    assert row["credit"] == [["gain", 0.0], ["kl", -1.5], ["late", 0.0]]
    failed = index["rows"][0][3]
    assert (failed["outcome"], failed["success"], failed["stop"]) == (None, None, "failed")


def test_a_record_has_the_sum_of_token_credit_and_tells_none_from_zero(tmp_path):
    (file,) = view(view_runs.doors(tmp_path / "run", "1", "random"))
    record = inflated(file, "chunk-0")["episodes"][0]
    assert [turn["credit"][1] for turn in record["turns"]] == [["kl", {"sum": -0.5, "n": 2}]] * 3
    assert [turn["credit"][2] for turn in record["turns"]] == [["late", 0.0], ["late", None], ["late", None]]
    assert "tokens" not in record["turns"][0]["act"]


def test_no_text_of_an_episode_is_markup(tmp_path):
    (file,) = view(view_runs.hostile(tmp_path / "</script><b>run"))
    text = file.read_text()
    assert not re.search("pwned|onerror|__proto__|\u2028|\u2029|\x1b|\0", text)
    assert "<b>run" not in text
    head, script = text[: text.index("<style>")], re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(script) == 1
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert "default-src 'none'" in head
    assert f"script-src 'sha256-{digest}'" in head
    assert "innerHTML" not in script[0]
    record = inflated(file, "chunk-0")["episodes"][0]
    assert [turn["observation"] for turn in record["turns"][:5]] == view_runs.HOSTILE


def test_a_page_refers_to_nothing_outside_itself(tmp_path):
    (file,) = view(view_runs.doors(tmp_path / "run", "1", "random"))
    text = re.sub(r'<script type="text/plain".*?</script>', "", file.read_text())
    addresses = set(re.findall(r"""(?:https?:)?//[a-z0-9.]+[^\s"']*|url\([^)]*\)|@import[^;]*""", text))
    assert addresses == {"http://www.w3.org/2000/svg"}, "the name of a namespace, which nobody asks for"


def test_a_picture_is_kept_once_and_a_missing_one_is_named(tmp_path):
    run = view_runs.hostile(tmp_path / "run")
    (picture,) = (run / "images").iterdir()
    (file,) = view(run)
    assert blocks(file)[f"picture-{picture.stem}"] == picture.read_bytes()
    assert file.read_bytes().count(b'id="picture-') == 1
    picture.unlink()
    with pytest.warns(UserWarning, match=f"{picture.name}: No such file"):
        (file,) = view(run)
    assert picture.name in inflated(file)["runs"][0]["notes"][0]


def test_many_episodes_are_split_into_linked_files(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "PAGE_EPISODES", 5)
    monkeypatch.setattr(pages, "CHUNK_EPISODES", 2)
    run = view_runs.doors(tmp_path / "run", "1" * 12, "random")
    files = view(run)
    assert [file.name for file in files] == ["view.html", "view-2.html", "view-3.html"]
    assert [len(inflated(file)["rows"][0]) for file in files] == [5, 5, 2]
    assert [row["number"] for file in files for row in inflated(file)["rows"][0]] == list(range(12))
    assert [inflated(file)["page"] for file in files] == [0, 1, 2]
    assert [page["file"] for page in inflated(files[2])["pages"]] == [file.name for file in files]
    assert inflated(files[1])["runs"][0]["whole"]["episodes"] == 12, "the header is of the whole run"
    assert [name for name in blocks(files[0]) if name.startswith("chunk")] == ["chunk-0", "chunk-1", "chunk-2"]
    monkeypatch.setattr(pages, "PAGE_EPISODES", 100)
    view(run)
    assert [file.name for file in sorted(run.glob("*.html"))] == ["view.html"], "pages of the longer view are gone"


def test_a_page_is_full_at_its_bytes_too(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "PAGE_BYTES", 1)
    assert len(view(view_runs.doors(tmp_path / "run", "111", "random"))) == 3


def test_two_runs_are_paired_by_task_whatever_ended_first(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "PAGE_EPISODES", 4)  # two pairs a page
    first = view_runs.doors(tmp_path / "first", "10100", "random")
    with Run.open(tmp_path / "second", "evaluate") as second:
        for number in (3, 0, 2, 1, 7):
            env = "Gate" if number % 3 == 2 else "Door"
            second.add(view_runs.played(number, won=number != 3, policy="oracle", env=env))
    files = view(first, second.path)
    tasks = []
    for file in files:
        theirs = inflated(file)["rows"][1]
        for row in inflated(file)["rows"][0]:
            like = theirs[row["pair"]]["task"] if "pair" in row else None
            tasks.append((row["task"], like))
    houses = [f"house-{n}" for n in range(5)]
    assert tasks == [*zip(houses[:4], houses[:4], strict=True), ("house-4", None)]
    # both count on 0..3: house-1 won, none lost; 1 of 4 more
    assert inflated(files[0])["paired"].startswith("+25.0 points")
    assert "won 1, lost 0" in inflated(files[0])["paired"]


def test_an_episode_played_again_takes_the_place_of_the_one_that_failed(tmp_path):
    with Run.open(tmp_path / "run", "evaluate") as run:
        run.add(view_runs.played(0, won=False, policy="a", stop=Stop.FAILED))
        run.add(view_runs.played(1, won=False, policy="a"))
        run.add(again := view_runs.played(0, won=True, policy="a", n_turns=4))
        for turn in again.turns:
            turn.credit["gra"] = 0.25
        run.write_credit("gra", [[again]], {})
    index = inflated(view(run.path)[0])
    assert [(row["number"], row["success"]) for row in index["rows"][0]] == [(0, False), (1, True)]  # as in show
    assert index["rows"][0][1]["credit"][-1] == ["gra", 1.0]
    assert index["runs"][0]["notes"] == []
    assert (index["runs"][0]["whole"]["episodes"], index["runs"][0]["whole"]["failed"]) == (2, 0)


def test_what_is_whole_of_a_damaged_run_is_shown_and_the_rest_named(tmp_path):
    run = view_runs.doors(tmp_path / "run", "101", "random")
    shard = run / "episodes" / "00000.jsonl"
    lines = shard.read_bytes().splitlines(keepends=True)
    shard.write_bytes(b"".join([lines[0], b"{broken\n", b'{"schema":1,"id":"half"}\n', lines[2], lines[1][:100]]))
    (run / "credit").mkdir()
    (run / "credit" / "gra.jsonl").write_text(
        '{"schema":1,"label":"gra"}\n{"episode":"random:0","values":[1,2,3,4]}\nbroken\n{"episode":"random:2","values":[1,2,3]}\n'
    )
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        (file,) = view(run)
    index = inflated(file)
    assert [row["id"] for row in index["rows"][0]] == ["random:0", "random:2"]
    assert index["rows"][0][1]["credit"][-1] == ["gra", 6.0]
    notes = " ".join(str(warning.message) for warning in told)
    for part in ("line 2: expected a line of JSON", "KeyError: 'turns'", "cut off", "4 values do not fit the 3 turns"):
        assert part in notes
    assert len(index["runs"][0]["notes"]) == len(told) == 5


def test_the_command_tells_what_is_damaged_in_a_line_each(tmp_path):
    run = view_runs.doors(tmp_path / "run", "11", "random")
    shard = run / "episodes" / "00000.jsonl"
    shard.write_bytes(shard.read_bytes()[:-9])
    words = [sys.executable, "-m", "milepost.recipes.cli", "view", str(run)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"warning: {shard}: the last line is cut off after ")


def test_an_earlier_view_survives_a_failure(tmp_path, monkeypatch):
    run = view_runs.doors(tmp_path / "run", "11", "random")
    (run / "view.html").write_text("earlier")
    monkeypatch.setattr(embed, "record", lambda episode, share: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        view(run)
    assert [file.name for file in run.iterdir() if "view" in file.name] == ["view.html"]
    assert (run / "view.html").read_text() == "earlier"


@pytest.mark.parametrize("n_bytes", [1_000, 100_000])
def test_a_full_disk_is_one_line_and_leaves_no_half_of_a_view(tmp_path, n_bytes):
    """A limit on the size of files stands for the disk: it is met in the head of the page, or in the data."""
    run = view_runs.hostile(tmp_path / "run")
    for number in range(3):
        noise = np.random.default_rng(number).bytes(40_000).hex()
        shard = run / "episodes" / "00000.jsonl"
        shard.write_text(
            shard.read_text() + json.dumps({"schema": 1, "id": f"n{number}", "turns": [], "last": noise}) + "\n"
        )
    done = subprocess.run(
        [sys.executable, "-m", "milepost.recipes.cli", "view", str(run)],
        capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes)),
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert done.stderr.startswith(f"milepost: cannot write {run / 'view.html'}: file too large; ")
    assert not list(run.glob("*view*"))
    assert not list(run.glob(".view*"))


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda path: path.mkdir(), "is no run folder: expected a run.json in it"),
        (lambda path: None, "is no run folder: expected a run.json in it"),
        (lambda path: Run.open(path, "evaluate").close(), "has no episodes yet"),
    ],
)
def test_what_cannot_be_viewed_is_one_line(tmp_path, capsys, make, line):
    make(tmp_path / "run")
    assert cli.main(["view", str(tmp_path / "run")]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == f"milepost: {tmp_path / 'run'} {line}\n"
    assert not list(tmp_path.glob("run/*view*"))


def test_the_command_prints_the_file(tmp_path, capsys):
    run = three_methods.write(tmp_path / "run")
    assert cli.main(["view", str(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'view.html'}\n"


def test_methods_disagree_where_their_shares_are_furthest_apart():
    # shares of its own largest: a 0.5, 1, -0.5; b (token sums 4, -2, 2) 1, -0.5, 0.5; c judged the last turn alone
    rows = {"a": [1.0, 2.0, -1.0], "b": [np.array([1.0, 3.0], np.float32), -2.0, 2.0], "c": [None, None, 9.0]}
    found = embed.gap(episode(credit={"a": rows["a"], "b": [4.0, -2.0, 2.0], "c": rows["c"]}))
    assert found == embed.Gap(1, 1.5, "a", "b"), "a 1 and b -0.5 at turn 1; a -0.5 and c 1 at turn 2 come later"
    assert embed.gap(episode(n_tokens=[2, 0, 0], credit={"a": rows["a"], "b": rows["b"]})) == found


def test_methods_that_say_the_same_on_other_scales_do_not_disagree():
    assert embed.gap(episode(credit={"a": [1.0, 2.0], "b": [100.0, 200.0]})) is None
    assert embed.gap(episode(credit={"a": [1.0, -2.0]})) is None
    assert embed.gap(episode(n_turns=2)) is None
    assert embed.gap(episode(credit={"a": [1.0, None], "b": [None, -1.0]})) is None
    assert embed.gap(episode(credit={"a": [1.0, float("nan")], "b": [1.0, -1.0]})) is None


def test_the_view_of_three_methods_marks_the_turn_at_which_they_disagree(tmp_path):
    (file,) = view(three_methods.write(tmp_path / "run"))
    turn, size, high, low = inflated(file)["rows"][0][0]["gap"]
    assert (turn, high, low) == (three_methods.DISAGREE, "gra", "progress")
    assert size == pytest.approx(1 + 0.5 / 1.1)
