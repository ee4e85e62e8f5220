"""What is exported is what was recorded, in the form that the other tool reads."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import fine_tuning
import numpy as np
import pytest
import shapes

from milepost.envs.core import Action, Call, Episode, Stop, Turn, Usage
from milepost.envs.runs import Run
from milepost.recipes.cli import main
from milepost.recipes.report import export as module
from milepost.recipes.report.export import export

pytest.importorskip("pyarrow")


def earned() -> Episode:
    """Two turns: a judged zero and a number, then what nobody judged; a token credit; usage of the first alone."""
    sampled = shapes.tokens(0, [1], [2, 3])
    first = Turn("go", Action("left", tokens=sampled, usage=Usage(10, 4, 2, 1.5, 0.25)), reward=0.5, seconds=0.5)
    first.info = {"valid": False, "reward_components": {"rule": -1.0, "step": 0.0}}
    first.credit = {"zero": 0.0, "none": None, "per token": np.array([0.25, 0.0], np.float32)}
    first.advantage = 0.0
    second = Turn("on", Action("right", reasoning="hm"), info={"outcome": 0.0, "success": False}, seconds=0.25)
    fields: dict[str, Any] = {
        "env_kwargs": {"k": float("inf")},
        "seed": 7,
        "split": "test",
        "runtime": {"policy": "oracle"},
    }
    return Episode(id="earned", group="g", turns=[first, second], last="end", stop=Stop.TERMINATED, **fields)


def failed(name: str = "failed") -> Episode:
    return Episode(id=name, turns=[Turn("o", Action("a"))], stop=Stop.FAILED, failure="the container is gone")


def kept(folder: Path, *episodes: Episode) -> Path:
    with Run.open(folder, "evaluate") as run:
        for episode in episodes:
            run.add(episode)
    return folder


def rows(run: Path, **choice: Any) -> list[dict]:
    from pyarrow import parquet

    return parquet.read_table(export(run, "parquet", **choice).path).to_pylist()


def chats(run: Path, **choice: Any) -> list[dict]:
    return fine_tuning.checked(export(run, "openai-chat", **choice).path)


def test_tokens_that_no_answer_told_are_unknown_and_its_time_is_not(tmp_path):
    episode = earned()
    episode.turns[0].action.usage = Usage(seconds=1.5)
    (row,) = rows(kept(tmp_path / "run", episode))
    names = ("prompt_tokens", "cached_tokens", "completion_tokens", "cost")
    assert all(told[name] is None for name in names for told in (row, row["turns"][0]))
    assert (row["turns"][0]["seconds"], row["seconds"]) == (2.0, 2.25)


def test_datasets_reads_the_numbers_and_keeps_unknown_from_zero(tmp_path):
    datasets = pytest.importorskip("datasets")
    path = export(kept(tmp_path / "run", earned(), failed()), "parquet", tmp_path / "new" / "rows.parquet").path
    row, lost = datasets.load_dataset("parquet", data_files=str(path), cache_dir=str(tmp_path / "cache"))["train"]
    own = {"id": "earned", "task": None, "split": "test", "seed": 7, "attempt": 0, "policy": "oracle", "n_turns": 2}
    own |= {"stop": "terminated", "outcome": 0.0, "success": False, "failure": None, "agent": "agent"}
    own |= {"prompt_tokens": 10, "cached_tokens": 4, "completion_tokens": 2, "cost": 0.25, "seconds": 2.25}
    assert {key: row[key] for key in own} == own
    assert (json.loads(row["env_kwargs"]), json.loads(row["tools"])) == ({"k": {"$float": "inf"}}, [])
    first, second = row["turns"]
    assert (first["observation"], first["action"], first["reward"], first["valid"]) == ("go", "left", 0.5, False)
    assert first["components"] == [{"name": "rule", "value": -1.0}, {"name": "step", "value": 0.0}]
    assert first["credit"] == [
        {"label": "zero", "value": 0.0, "tokens": None},
        {"label": "none", "value": None, "tokens": None},
        {"label": "per token", "value": None, "tokens": [0.25, 0.0]},
    ]
    assert (first["advantage"], second["advantage"]) == (0.0, None)
    assert (second["credit"], second["components"], second["valid"]) == ([], [], None)
    assert (first["cost"], second["cost"], second["prompt_tokens"], second["reasoning"]) == (0.25, None, None, "hm")
    assert (lost["stop"], lost["outcome"], lost["success"], lost["cost"]) == ("failed", None, None, None)
    assert lost["failure"] == "the container is gone"


def test_the_messages_of_a_row_are_the_chat_and_its_pictures(tmp_path):
    pytest.importorskip("PIL")
    from PIL import Image

    by_id = {row["id"]: row for row in rows(kept(tmp_path / "run", *shapes.every()), agent="agent")}
    assert len(by_id) == len(shapes.every()) - 1
    messages = by_id["calls"]["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "tool", "assistant"]
    assert [call["function"]["arguments"] for call in messages[1]["tool_calls"]] == ['{"q": "x"}', '{"page": ']
    assert (messages[1]["reasoning_content"], messages[3]["tool_call_id"]) == ("where?", "c2")
    assert by_id["calls"]["turns"][1]["observation"] == "found\nnot JSON"
    page = by_id["pictures"]["messages"][0]
    assert page["content"] == "the page"
    (png,) = page["images"]
    assert np.asarray(Image.open(io.BytesIO(png)))[0, 0].tolist() == [255, 0, 0]
    assert json.loads(by_id["dropped"]["turns"][3]["view"]) == {"turns": [[2, 3]], "summary": "so far: a0, a1"}


def test_every_shape_of_an_episode_is_a_chat_that_a_service_takes(tmp_path):
    pytest.importorskip("PIL")
    run = kept(tmp_path / "run", *shapes.every(), failed())
    records = chats(run)
    # of the 7 shapes one was cancelled, and in one two agents act
    assert len(records) == 7
    assert export(run, "openai-chat").left_out == {"cancelled": 1, "failed": 1}
    pictures = records[1]["messages"][2]["content"]
    assert [part["type"] for part in pictures] == ["image_url"]


def test_the_tools_and_the_scaffolds_text_are_in_the_chat(tmp_path):
    episode = shapes.calls()
    episode.instructions = "Search."
    episode.runtime = {"scaffold": {"name": "react", "text": "Think first."}}
    (record,) = chats(kept(tmp_path / "run", episode))
    assert record["messages"][0] == {"role": "system", "content": "Search.\n\nThink first."}
    assert record["tools"] == episode.tools
    broken = json.dumps({"text": '{"page": '})  # services read arguments as JSON
    assert record["messages"][2] == {
        "role": "assistant",
        "content": "I look.",
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "search", "arguments": '{"q": "x"}'}},
            {"id": "c2", "type": "function", "function": {"name": "open", "arguments": broken}},
        ],
    }


def test_a_call_that_was_not_answered_is_answered_by_nothing_and_a_stray_result_is_read_by_the_user(tmp_path):
    pytest.importorskip("PIL")
    episode = shapes.calls()
    red = np.full((2, 2, 3), (255, 0, 0), np.uint8)
    seen = {"results": [{"id": "other", "text": "stray"}, {"id": "c2", "text": "two", "image": red}], "text": "more"}
    episode.turns[1].observation = seen
    episode.turns[1].action = Action("", calls=(Call("c3", "open", "{}"),))
    (record,) = chats(kept(tmp_path / "run", episode))
    one, two, picture, stray, user, last = record["messages"][2:]
    assert (one["tool_call_id"], one["content"]) == ("c1", "")
    assert (two["tool_call_id"], two["content"]) == ("c2", "two")
    assert [part["type"] for part in picture["content"]] == ["image_url"]
    assert (stray["content"], user["content"], last["tool_calls"][0]["id"]) == ("stray", "more", "c3")


def test_tools_that_the_scaffold_described_are_not_told_again(tmp_path):
    episode = shapes.calls()
    episode.turns = [Turn("Find x.", Action("open(page=1)"), info={"outcome": 1.0})]
    episode.runtime = {"scaffold": {"name": "act", "text": "These are the tools: open(page)"}}
    (record,) = chats(kept(tmp_path / "run", episode))
    assert record.keys() == {"messages"}


def test_each_agent_of_self_play_has_its_own_record(tmp_path):
    run = kept(tmp_path / "run", shapes.self_play())
    white, black = rows(run)
    assert [(r["agent"], r["outcome"], r["success"], r["n_turns"]) for r in (white, black)] == [
        ("white", 1.0, True, 2),
        ("black", 0.0, False, 2),
    ]
    (winner,) = chats(run, only="solved")
    assert [m["content"] for m in winner["messages"]] == ["You are white.", "w sees 0", "e4", "w sees 2", "Qh5"]
    (loser,) = chats(run, agent="black")
    assert loser["messages"][0]["content"] == "You are black."


def test_text_survives_and_what_is_no_text_does_not_spoil_the_file(tmp_path):
    text = "\u00e9\u4e2d\U0001f600\u2028\x00 \ud83d\ude00 \udc80."
    said = "\u00e9\u4e2d\U0001f600\u2028\x00 \U0001f600 \ufffd."
    turn = Turn(text, Action(text), info={"outcome": 1.0, "reward_components": {text: 1.0}}, credit={text: 1.0})
    run = kept(tmp_path / "run", Episode(id="t", turns=[turn], stop=Stop.TERMINATED))
    (record,) = chats(run)
    assert [message["content"] for message in record["messages"]] == [said, said]
    (row,) = rows(run)
    assert [message["content"] for message in row["messages"]] == [said, said]
    assert (row["turns"][0]["components"][0]["name"], row["turns"][0]["credit"][0]["label"]) == (said, said)


def test_an_episode_that_was_played_again_is_exported_once(tmp_path):
    run = kept(tmp_path / "run", failed("a"), Episode(id="a", turns=earned().turns, stop=Stop.TERMINATED))
    assert [row["stop"] for row in rows(run)] == ["terminated"]
    assert export(run, "openai-chat").left_out == {}


def test_many_row_groups_are_one_table(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "GROUP_BYTES", 1)
    episodes = [Episode(id=str(i), seed=i, turns=earned().turns, stop=Stop.TERMINATED) for i in range(5)]
    assert [row["seed"] for row in rows(kept(tmp_path / "run", *episodes))] == [0, 1, 2, 3, 4]


def test_the_command_says_what_it_wrote_and_what_it_left_out(tmp_path, capsys):
    run = kept(tmp_path / "run", earned(), failed(), shapes.fork())
    assert main(["export", str(run), "--to", "openai-chat", "--only", "solved", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    path = run / "openai-chat.jsonl"
    assert told == {"out": str(path), "n_records": 1, "left_out": {"not solved": 1, "failed": 1}}
    assert main(["export", str(run), "--to", "parquet"]) == 0
    assert capsys.readouterr().out == f"{run / 'episodes.parquet'}: 3 episodes\n"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--to", "parquet", "--split", "tets"], "{run} has no episode of the split 'tets' (did you mean 'test'?)"),
        (["--to", "openai-chat", "--agent", "black"], "{run} has no episode of the agent 'black'; it has: agent"),
        (["--to", "openai-chat", "--only", "solved"], "{run} has no episode to export: 1 not solved, 1 failed"),
        (["--to", "openai-chat", "--out", "."], "--out: expected a file to write, got the folder ."),
    ],
)
def test_where_nothing_can_be_written_one_line_says_why(tmp_path, capsys, words, line):
    run = kept(tmp_path / "run", earned(), failed())
    assert main(["export", str(run), *words]) == 2
    assert line.format(run=run) in capsys.readouterr().err
    assert {path.name for path in run.iterdir()} == {"run.json", "episodes", ".lock"}


def test_an_empty_run_is_one_line(tmp_path, capsys):
    assert main(["export", str(kept(tmp_path / "run")), "--to", "parquet"]) == 2
    assert capsys.readouterr().err == f"milepost: {tmp_path / 'run'} has no episode to export yet\n"


def test_without_pyarrow_the_line_names_the_extra(tmp_path, capsys, monkeypatch):
    run = kept(tmp_path / "run", earned())
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert main(["export", str(run), "--to", "parquet"]) == 2
    assert capsys.readouterr().err == "milepost: this needs pyarrow: pip install 'milepost[export]'\n"
    assert main(["export", str(run), "--to", "openai-chat"]) == 0


def test_an_error_while_writing_leaves_the_old_file(tmp_path):
    run = kept(tmp_path / "run", earned())
    before = export(run, "parquet").path.read_bytes()
    with Run.open(run, "evaluate", resume=True) as again:
        again.add(Episode(id="bad", seed=2**70, turns=earned().turns, stop=Stop.TERMINATED))
    with pytest.raises(OverflowError):
        export(run, "parquet")
    assert (run / "episodes.parquet").read_bytes() == before
    assert not [path for path in run.iterdir() if path.name.startswith(".episodes")]
