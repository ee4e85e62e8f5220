"""The command line: one clear line for what the caller did wrong, and nothing heavy for what needs nothing heavy."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from milepost.recipes import cli

RECIPE = """
'''A recipe that ends as its flag says.'''
from dataclasses import dataclass
from milepost.recipes.console import parse

@dataclass
class Args:
    '''End as told.'''
    how: str = "well"
    '''The way it ends.'''

def main(args):
    if args.how == "value": raise ValueError("credit rows: expected 4,\\n got 3")
    if args.how == "disk": raise OSError(28, "No space left on device")
    if args.how == "bug": raise RuntimeError("a bug")
    if args.how == "ctrl-c": raise KeyboardInterrupt

if __name__ == "__main__":
    main(parse(Args))
"""


def milepost(*words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = cli.main(words)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "no command 'trian' (did you mean 'train'?)"),
        (["train", "lader_gra"], "no recipe 'lader_gra' (did you mean 'ladder_gra'?)"),
        (["check", "milepost/Lader-v0"], "milepost/Ladder-v0"),
        (["check", "milepost/Ladder-v0", "--option", "level"], "--option: expected name=value, got 'level'"),
        (["check", "milepost/Ladder-v0", "--option", "no_such_option=3"], "no_such_option"),
        (["show", "nowhere/at/all"], "nowhere/at/all"),
        (["plot", "nowhere/at/all"], "nowhere/at/all"),
        (["train", "ladder_gra", "--credit", "grra"], "did you mean 'gra'"),
    ],
)
def test_a_wrong_word_is_answered_by_one_line_and_exit_code_2(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = milepost(*words, capsys=capsys)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert said in err
    assert not list(tmp_path.glob("runs/*/*"))


def test_an_unknown_flag_exits_with_code_2(capsys):
    with pytest.raises(SystemExit) as error:
        cli.main(["envs", "--jsn"])
    assert error.value.code == 2
    assert "--json" in capsys.readouterr().err


def test_envs_lists_every_environment_of_ours_for_a_machine_to_read(capsys):
    code, out, _ = milepost("envs", "--json", capsys=capsys)
    rows = {row["id"]: row for row in json.loads(out)}
    assert code == 0
    assert rows["milepost/Ladder-v0"]["max_episode_steps"] > 0
    assert rows["milepost/Ladder-v0"]["about"]


def test_a_contract_that_is_kept_exits_with_0(capsys):
    code, out, _ = milepost("check", "milepost/Ladder-v0", "--json", capsys=capsys)
    report = json.loads(out)
    assert (code, report["ok"], report["failures"]) == (0, True, [])


def test_help_names_every_command_and_every_recipe(capsys):
    assert all(word in milepost("--help", capsys=capsys)[1] for word in ("train", "envs", "check", "show", "plot"))
    assert "ladder_gra" in milepost("train", "--help", capsys=capsys)[1]


def test_no_words_at_all_print_the_usage_and_exit_with_2(capsys):
    assert milepost(capsys=capsys)[0] == 2
    assert milepost("train", capsys=capsys)[0] == 2


def test_the_command_needs_no_torch_transformers_or_textworld():
    code = "import sys; from milepost.recipes.cli import main; main(['envs']); main(['--help']);" + (
        "sys.exit(','.join({'torch', 'transformers', 'textworld', 'matplotlib'} & set(sys.modules)) or 0)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


def recipe(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "my_recipe.py").write_text(RECIPE)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "my_recipe", *words]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}
    )


@pytest.mark.parametrize(
    ("how", "code", "line"),
    [
        ("value", 2, "milepost: credit rows: expected 4, got 3\n"),
        ("disk", 2, f"milepost: [Errno {errno.ENOSPC}] No space left on device\n"),
        (
            "ctrl-c",
            130,
            "stopped; what was finished is kept. Go on with: python -m my_recipe --how ctrl-c --resume\n",
        ),
        ("well", 0, ""),
    ],
)
def test_a_recipe_that_runs_by_itself_tells_its_end_in_one_line(how, code, line, tmp_path):
    ran = recipe(tmp_path, "--how", how)
    assert (ran.returncode, ran.stderr) == (code, line)


@pytest.mark.parametrize("words", [["--how", "bug"], ["--how", "value", "--debug"]])
def test_a_bug_and_debug_show_the_traceback(words, tmp_path):
    ran = recipe(tmp_path, *words)
    assert ran.returncode == 1
    assert "Traceback" in ran.stderr


def test_the_help_of_a_recipe_comes_from_the_strings_under_its_settings(tmp_path):
    assert "The way it ends." in recipe(tmp_path, "--help").stdout


def test_a_missing_package_is_named_with_the_extra_that_brings_it():
    told = cli.explain(ModuleNotFoundError("No module named 'torch'", name="torch.nn"), ["milepost"])
    assert told == ("milepost: this needs torch: pip install 'milepost[train]'", 2)


def test_a_missing_module_of_ours_is_a_bug():
    assert cli.explain(ModuleNotFoundError("No module named 'milepost.x'", name="milepost.x"), ["milepost"]) is None
