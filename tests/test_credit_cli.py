"""The command ``milepost credit``: what is listed, checked and computed, and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from milepost.credit.methods import TABLE
from milepost.recipes import cli

EXAMPLE = """
id: COM-1
given: {group_rewards: [1, 0, 0.5, 0]}
expect:
  center: [0.625, -0.375, %s, -0.375]
  rloo: [0.833333, -0.5, 0.166667, -0.5]
"""


def milepost(*words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = cli.main(["credit", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_every_method_of_the_table_is_listed_for_a_person_and_for_a_machine(capsys):
    code, out, _ = milepost("list", "--json", capsys=capsys)
    rows = {row["id"]: row for row in json.loads(out)}
    assert (code, list(rows)) == (0, list(TABLE))
    assert rows["gra"] == {
        "id": "gra",
        "kind": "reward",
        "level": "turn",
        "needs": ["outcome", "reward_components"],
        "channel": "gate",
        "paper": "arXiv 2508.10548",
        "trains": False,
        "batch": False,
    }
    code, out, _ = milepost("list", capsys=capsys)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:]] == list(TABLE), (
        "one line each, however narrow the terminal"
    )


def test_the_list_and_a_check_need_no_torch():
    code = (
        "import sys; from milepost.recipes.cli import main; main(['credit', 'list']); main(['credit', 'check', 'gra'])"
    )
    code += "; sys.exit(','.join({'torch', 'transformers', 'yaml', 'textworld'} & set(sys.modules)) or 0)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.endswith("gra: keeps the contract\n")


def test_a_method_that_breaks_a_rule_exits_with_1_and_names_it(capsys):
    code, out, _ = milepost("check", "broken_credits:Peeks", capsys=capsys)
    assert code == 1
    assert out.startswith("FAIL  needs: its numbers change with 'answer', attempt 0, turn 3: 1.35 and 0.35")
    assert out.endswith("broken_credits:Peeks: breaks the contract\n")


def test_options_reach_the_method_that_is_checked(capsys):
    code, out, _ = milepost("check", "dense", "--option", "term=dust", "--json", capsys=capsys)
    report = json.loads(out)
    assert (code, report["ok"], report["options"]) == (0, True, {"term": "dust"})
    (farming,) = [note["text"] for note in report["notes"] if note["rule"] == "farming"]
    assert "the shortest way up earns 0, the best of those that lose, eight turns of dusting, 2.4" in farming


def test_examples_that_come_out_exit_with_0(capsys, tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text(EXAMPLE % "0.125")
    code, out, _ = milepost("vectors", str(file), capsys=capsys)
    assert code == 0
    assert out.splitlines()[1].split() == ["COM-1", "2", "of", "2", "ok"]


def test_the_first_entry_that_differs_is_told(capsys, tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text(EXAMPLE % "0.25" + "  nothing: 1\n")
    code, out, _ = milepost("vectors", str(file), capsys=capsys)
    assert code == 1
    assert "FAIL  COM-1: center[2]: expected 0.25, got 0.125\n" in out
    assert "FAIL  COM-1: nothing: not computed: nothing computes this key\n" in out
    code, out, _ = milepost("vectors", str(file), "--json", capsys=capsys)
    told = json.loads(out)
    assert (code, told["ok"], [key["ok"] for key in told["keys"]]) == (1, False, [False, True, False])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lst"], "no command 'credit lst' (did you mean 'list'?)"),
        (["check", "progres"], "did you mean 'progress'?"),
        (["check", "gra", "--option", "gat=1"], "credit 'gra': got an unexpected keyword argument 'gat'"),
        (["check", "turn"], "credit 'turn' is an estimator (advantage:turn_rtg)"),
        (["vectors", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["vectors", "bad.yaml"], "bad.yaml: is not YAML"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yaml").write_text("id: [")
    code, out, err = milepost(*words, capsys=capsys)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err


def test_a_missing_yaml_is_named_with_the_extra_that_brings_it():
    told = cli.explain(ModuleNotFoundError("No module named 'yaml'", name="yaml"), ["milepost"])
    assert told == ("milepost: this needs yaml: pip install 'milepost[vectors]'", 2)


def test_no_words_print_the_usage(capsys):
    assert milepost(capsys=capsys)[0] == 2
    code, out, _ = milepost("--help", capsys=capsys)
    assert code == 0
    assert all(word in out for word in ("list", "check", "vectors"))
