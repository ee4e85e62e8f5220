"""What a report says is what the run folder holds, with the right interval."""

import io
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from milepost.envs.core import Action, Call, Episode, Stop, Turn
from milepost.envs.runs import Run, read_episodes
from milepost.recipes.report.plot import curve, plot
from milepost.recipes.report.show import clean, show
from milepost.recipes.report.stats import mcnemar, paired, wilson
from milepost.recipes.report.table import compare, stage, stages_of, table


def game(seed, won, policy="warmup", valid=(True, False), stop=Stop.TERMINATED):
    turns = [Turn(f"You see door {t}.", Action("open door"), info={"valid": v}) for t, v in enumerate(valid)]
    turns[-1].info["outcome"] = float(won)
    return Episode(
        id=f"{policy}:{seed}",
        env_id="Door",
        seed=seed,
        split="test",
        turns=turns,
        stop=stop,
        runtime={"policy": policy},
    )


def printed(*args, width=200, **kwargs):
    file = io.StringIO()
    show(*args, console=Console(file=file, width=width, highlight=False, markup=False, emoji=False), **kwargs)
    return file.getvalue()


@pytest.fixture
def run(tmp_path):
    with Run.open(tmp_path / "doors", "doors_gra", {"lr": 0.1}) as run:
        for seed, (before, after) in enumerate([(1, 1), (0, 1), (0, 1), (1, 0), (0, 1), (0, 0)]):
            run.add(game(seed, before))
            run.add(game(seed, after, "trained"))
        for update, share in enumerate([0.25, 0.5, 0.75]):
            run.log({"outcome/mean": 0.1, "probe/success": share, "probe/n": 100}, update)
        run.log({"outcome/mean": 0.2}, 3)
        run.finish({"games": 6})
    return run.path


def test_wilson_by_hand():
    # z = 2, k = 8, n = 10: center (8 + 2) / 14, half 2 sqrt(1.6 + 1) / 14
    low, high = wilson(8, 10, z=2.0)
    assert (low, high) == pytest.approx((10 / 14 - 2 * math.sqrt(2.6) / 14, 10 / 14 + 2 * math.sqrt(2.6) / 14))
    # k = 0: (0, z^2 / (n + z^2)); z = 1.96: 3.8415 / 13.8415
    assert wilson(0, 10) == pytest.approx((0.0, 0.27753), abs=1e-5)
    assert wilson(10, 10) == pytest.approx((0.72247, 1.0), abs=1e-5)
    assert wilson(0, 0) == (0.0, 1.0)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_contains_the_share_and_mirrors(counts):
    k, n = counts
    low, high = wilson(k, n)
    assert 0.0 <= low <= k / n <= high <= 1.0
    assert wilson(n - k, n) == pytest.approx((1 - high, 1 - low))


def test_more_wins_than_games_is_refused():
    with pytest.raises(ValueError, match="expected 0 <= k <= n, got k = 3, n = 2"):
        wilson(3, 2)


def test_mcnemar_by_hand():
    assert mcnemar(1, 5) == mcnemar(5, 1) == 2 * (1 + 6) / 64
    assert mcnemar(0, 10) == 2 / 1024
    assert mcnemar(3, 3) == 1.0
    assert mcnemar(0, 0) == 1.0
    # 2 (1 + 12 + 66 + 220) / 4096
    assert mcnemar(3, 9) == 598 / 4096


def test_mcnemar_of_thousands_of_games_is_a_number():
    assert 0.0 < mcnemar(900, 1100) < 1e-4


def test_a_paired_gain_by_hand():
    before = [True, False, False, True, False, False]
    after = [True, True, True, False, True, False]
    result = paired(before, after)
    assert (result.games, result.won, result.lost) == (6, 3, 1)
    assert result.gain == pytest.approx(2 / 6)
    assert result.p == 2 * (1 + 4) / 16
    # half a game more in each cell: won 3.5, lost 1.5, of 8 games
    half = 1.959964 * math.sqrt((5 - 4 / 8) / 64)
    assert (result.low, result.high) == pytest.approx((2 / 8 - half, 2 / 8 + half), abs=1e-6)


def test_games_played_by_one_policy_alone_are_not_compared():
    with pytest.raises(ValueError, match="expected the same games twice, got 1 and 2"):
        paired([True], [True, False])
    both = compare(stage("a", [game(0, 0), game(1, 0)]), stage("b", [game(1, 1), game(2, 1)]))
    assert both is not None
    assert (both.games, both.won) == (1, 1)
    assert compare(stage("a", [game(0, 0)]), stage("b", [game(1, 1)])) is None


def test_a_stage_counts_games_turns_and_invalid_moves():
    row = stage("x", [game(0, 1), game(1, 0, valid=(True, True)), game(2, 0, stop=Stop.FAILED)]).to_json()
    low, high = wilson(1, 2)
    assert row == {
        "policy": "x",
        "games": 2,
        "failed": 1,
        "wins": 1,
        "success": 0.5,
        "low": low,
        "high": high,
        "invalid": 0.25,
        "turns": 2.0,
    }


def test_a_stage_without_games_has_no_share():
    assert stage("x", []).to_json()["success"] is None


def test_a_game_counted_twice_is_refused():
    with pytest.raises(ValueError, match="x played Door 0 #0 twice"):
        stage("x", [game(0, 1), game(0, 0)])


def test_the_table_compares_on_the_same_games(run):
    file = io.StringIO()
    Console(file=file, width=200).print(table(stages_of(read_episodes(run)), against="warmup"))
    text = file.getvalue()
    assert "warmup" in text
    assert "+33.3 points [-27.0, +77.0], won 3, lost 1, p = 0.62" in text
    with pytest.raises(ValueError, match="no stage 'oracle' to compare with; there are: warmup, trained"):
        table(stages_of(read_episodes(run)), against="oracle")


def test_the_curve_shows_the_probe_games_with_their_interval(run):
    drawn = curve(run)
    assert (drawn.metric, drawn.updates, drawn.values) == ("probe/success", [0, 1, 2], [0.25, 0.5, 0.75])
    assert (drawn.low[1], drawn.high[1]) == wilson(50, 100)


def test_the_curve_falls_back_to_the_training_games(tmp_path):
    with Run.open(tmp_path / "run", "recipe") as run:
        for update, value in enumerate([0.1, float("nan"), None, 0.4]):
            run.log({"outcome/mean": value}, update)
    drawn = curve(tmp_path / "run")
    assert (drawn.metric, drawn.updates, drawn.values, drawn.low) == ("outcome/mean", [0, 3], [0.1, 0.4], [])
    with pytest.raises(ValueError, match="has no metric kl; it has: outcome/mean"):
        curve(tmp_path / "run", metric="kl")


def test_several_runs_are_drawn_into_one_picture(run, tmp_path):
    from PIL import Image

    file = plot([run, run], tmp_path / "pictures" / "both.png")
    with Image.open(file) as picture:
        assert picture.format == "PNG"
        assert picture.width > 600
    assert plot(run) == run / "curve.png"
    with pytest.raises(ValueError, match="expected at least one run folder"):
        plot([])


def test_a_picture_without_matplotlib_says_what_to_install(run, monkeypatch):
    from gymnasium.error import DependencyNotInstalled

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(DependencyNotInstalled, match=r"pip install 'milepost\[train\]'"):
        plot(run)


def test_a_run_is_shown_with_its_table_and_episodes(run):
    text = printed(run)
    assert "doors_gra, finished" in text
    assert "won 3, lost 1" in text
    assert "the newest 12 of 12 episodes" in text


def test_a_transcript_tells_what_every_turn_earned(tmp_path):
    with Run.open(tmp_path / "run", "recipe") as run:
        played = game(7, 1, valid=(True, False, True))
        run.add(played)
        for turn, value in zip(played.turns, [0.5, None, np.zeros(0, np.float32)], strict=True):
            turn.put("gra", None if isinstance(value, np.ndarray) else value)
            turn.advantage = -1.25
        run.write_credit("gra", [[played]], {})
        run.write_credit("advantage", [[played]], {})
    text = printed(tmp_path / "run", episode=0)
    assert "episode 0: warmup:7  Door" in text
    assert "You see door 0.\n> open door\n  gra +0.5   advantage -1.25" in text
    assert "gra -   advantage -1.25   not executed" in text
    assert "terminated, outcome 1, solved, 3 turns" in text


def test_the_end_counts_from_the_last_episode_and_a_missing_one_is_named(run):
    assert "episode 11: trained:5" in printed(run, episode=-1)
    for number in (12, -13):
        with pytest.raises(ValueError, match=rf"has 12 episodes: expected a number of 0..11, got {number}"):
            show(run, episode=number)


def test_a_machine_reads_the_same(run):
    document = json.loads(printed(run, as_json=True))
    assert (document["kind"], document["status"], document["summary"]) == ("doors_gra", "finished", {"games": 6})
    assert [e["outcome"] for e in document["episodes"]][:4] == [1.0, 1.0, 0.0, 1.0]
    one = json.loads(printed(run, episode=2, as_json=True))
    assert (one["number"], one["id"], len(one["turns"])) == (2, "warmup:1", 2)


def test_an_empty_run_is_shown(tmp_path):
    Run.open(tmp_path / "run", "recipe").close()
    assert "no episodes yet" in printed(tmp_path / "run")
    with pytest.raises(ValueError, match="has no episodes yet"):
        show(tmp_path / "run", episode=0)


def test_self_play_and_pictures_are_shown(tmp_path):
    turns = [
        Turn({"text": "board", "images": [np.zeros((2, 2, 3), np.uint8)]}, Action("e4"), agent="white"),
        Turn("board", Action("e5"), agent="black", info={"outcome": {"white": 1.0, "black": 0.0}}),
    ]
    with Run.open(tmp_path / "run", "recipe") as run:
        run.add(Episode(id="g", turns=turns, stop=Stop.TERMINATED))
    text = printed(tmp_path / "run", episode=0)
    assert "[picture " in text
    assert "outcome white 1  black 0" in text
    assert "white 1  black 0" in printed(tmp_path / "run")
    assert '"$image"' in printed(tmp_path / "run", episode=0, as_json=True)


def test_a_text_cannot_command_the_terminal(tmp_path):
    assert clean("a\x1b[2J\u202eb\ud800\n\u4e2d") == "a\\x1b[2J\\u202eb\\ud800\n\u4e2d"
    with Run.open(tmp_path / "run", "recipe") as run:
        run.add(Episode(id="\x1b]0;x", turns=[Turn("\x1b[2J", Action("\x1b[31m"))], stop=Stop.TERMINATED))
    assert "\x1b" not in printed(tmp_path / "run", episode=0) + printed(tmp_path / "run")


def test_reports_load_neither_torch_nor_matplotlib():
    code = (
        "import sys; from milepost.recipes.report import plot, show, stats, table; "
        "assert not {'torch', 'matplotlib', 'transformers', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_transcript_shows_calls_the_scaffold_and_what_was_not_shown(tmp_path):
    calls = (Call("a", "stock", '{"item": "chair"}'), Call("b", "stok", '{"item": 3'))
    turns = [Turn(f"room {t}", Action("", calls=calls)) for t in range(5)]
    turns[4].view = {"turns": [[0, 1], [2, 4]], "summary": "[1 earlier turn is not shown]"}
    episode = Episode(id="e", env_id="Shop", turns=turns, stop=Stop.TERMINATED)
    episode.runtime["scaffold"] = {"name": "react", "text": "Think first.", "context": "last:2"}
    with Run.open(tmp_path / "run", "evaluate", {"panel": {"name": "my panel", "entries": []}, "context": None}) as run:
        run.add(episode)
    text = printed(tmp_path / "run", episode=0)
    assert "scaffold react" in text
    assert "Think first." in text
    assert text.count('> stock {"item": "chair"}  [call a]\n> stok {"item": 3  [call b]\n') == 5
    assert text.count("of the turns before, shown: 0, 2-3; [1 earlier turn is not shown]") == 1
    assert "move:" not in text
    assert "panel=my panel\n" in printed(tmp_path / "run")
