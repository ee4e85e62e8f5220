"""What the caller of an evaluation does wrong is one line and exit code 2, before anything is played."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from eval_agents import LADDER

from milepost.envs.runs import Run
from milepost.envs.scripted_endpoint import Fault, ScriptedEndpoint
from milepost.recipes.cli import main
from milepost.recipes.evaluate import evaluate

Refused = Callable[..., str]


@pytest.fixture(name="refused")
def one_line_and_nothing_played(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Refused:
    """Run ``milepost eval`` in this process; return the one line of its refusal."""
    monkeypatch.chdir(tmp_path)

    def refused(*words: str, code: int = 2) -> str:
        capfd.readouterr()
        assert main(["eval", *words]) == code
        out, err = capfd.readouterr()
        assert (out, err.count("\n")) == ("", 1), err
        assert not list(tmp_path.glob("**/episodes/*.jsonl"))
        assert not list(tmp_path.glob("runs/*"))
        return err.strip()

    return refused


def ladder(*flags: str, agent: str = "oracle") -> list[str]:
    return [LADDER, "--agent", agent, *flags]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["milepost/Lader-v0", "--agent", "oracle"], "(did you mean 'milepost/Ladder-v0'?)"),
        (["smok", "--agent", "oracle"], "no panel or environment 'smok' (did you mean 'smoke'?)"),
        (["tooldesk.toml", "--agent", "oracle"], "no panel tooldesk.toml: there is no such file"),
        (["--agent", "oracle"], "expected tasks: the id of an environment, or a panel: "),
        (ladder(agent="oracl"), "no agent 'oracl' (did you mean 'oracle'?)"),
        (ladder(agent="opnai:gpt"), "no module 'opnai'"),
        (ladder(agent="opnai:gpt"), "(did you mean 'openai:gpt'?)"),
        (ladder(agent="local:./absent"), "model ./absent: no such folder"),
        (ladder(agent="my_agent:absent"), "no module 'my_agent'"),
        (ladder("--concurrency", "0"), "--concurrency: expected 1 or more, got 0"),
        (ladder("--episodes", "0"), "--episodes: expected 1 or more, got 0"),
        (ladder("--attempts", "-2"), "--attempts: expected 1 or more, got -2"),
        (ladder("--max-turns", "0"), "--max-turns: expected 1 or more, got 0"),
        (ladder("--timeout-s", "0"), "--timeout-s: expected more than 0, got 0"),
        (ladder("--max-cost", "-1"), "--max-cost: expected more than 0, got -1"),
        (ladder("--seeds", "9-1"), "seeds: expected numbers and spans such as 0-9,20"),
        (ladder("--split", "tset"), "split: expected one of train, valid, test, got 'tset'"),
        (ladder("--tasks", "pear5"), "no task 'pear5' in milepost/Ladder-v0 (did you mean 'pear 5'?)"),
        (ladder("--option", "dusty=1"), "has no option 'dusty' (did you mean 'dust'?)"),
        (ladder("--episodes", "5"), "expected at most its 4 tasks, got 5 episodes"),
        (ladder("--credit", "grra"), "did you mean 'gra'?"),
        (ladder("--credit-option", "gra.gate=1"), "METHOD.OPTION=VALUE of a method in --credit; --credit has none"),
        (ladder("--credit", "gra", "--credit-option", "dra.terms={}"), "of a method in --credit; of gra"),
        (ladder("--credit", "gra", "--credit-option", "gra.gate"), "expected METHOD.OPTION=VALUE of"),
        (ladder("--credit", "gra", "--credit-option", "gra.gait=1"), "argument 'gait'; it takes gate, terms"),
        (
            ladder("--credit", "gra", "--credit-option", "gra.gate=no"),
            "credit 'gra' cannot be made: must be real number",
        ),
        (ladder("--credit", "gra", "--credit-option", "gra.profile=swee"), "profile 'swee' (did you mean 'swe'?)"),
        (ladder("--credit", "igpo"), "--credit igpo needs a scorer, made of a model in this process; oracle is none"),
        (ladder("--credit", "nous"), "credit 'nous' needs"),
        (ladder("--scaffold", "react"), "oracle looks into the environment: --scaffold and --context are for other"),
        (ladder("--context", "first:3", agent="eval_agents:slow"), "--context: expected last:8 (turns) or tokens:4000"),
        (ladder("--scaffold", "reakt", agent="eval_agents:slow"), "no scaffold 'reakt' (did you mean 'react'?)"),
        (ladder("--resume"), "--resume needs --out DIR"),
        (ladder("--max-cost", "1", agent="openai:scripted"), "--max-cost needs the price of scripted: give --prices"),
        (ladder("--max-cost", "1"), "--max-cost: oracle costs nothing that is known"),
    ],
)
def test_what_is_wrong_is_named(words: list[str], said: str, refused: Refused):
    assert said in refused(*words)


def test_an_unknown_setting_from_python_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"evaluate: no setting 'concurency' \(did you mean 'concurrency'\?\)"):
        evaluate(LADDER, "oracle", out=tmp_path / "run", concurency=3)


def test_a_model_that_the_endpoint_does_not_have_is_named_with_those_it_has(refused: Refused):
    with ScriptedEndpoint("climb", models=["qwen-3", "smollm2"]) as base_url:
        line = refused(*ladder("--base-url", base_url, agent="openai:smolm2"))
    assert line == f"milepost: {base_url} has no model 'smolm2' (did you mean 'smollm2'?); it has qwen-3, smollm2"


def test_a_missing_key_is_named_and_a_wrong_one_is_not_shown(refused: Refused, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert "set the environment variable OPENAI_API_KEY" in refused(*ladder(agent="openai:gpt-5"))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret-key")
    with ScriptedEndpoint("climb", faults=[Fault("status", 401, message="bad key sk-very-secret-key")]) as base_url:
        line = refused(*ladder("--base-url", base_url, agent="openai:scripted"))
    assert "401" in line
    assert "secret" not in line


def test_no_server_at_all_is_one_line_and_leaves_nothing_in_the_way(refused: Refused):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        base_url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    words = ladder("--base-url", base_url, "--out", "run", agent="openai:scripted")
    assert base_url in refused(*words, code=1)
    assert base_url in refused(*words, code=1)  # the same line again: no run is in the way


def test_a_folder_of_another_run_is_refused_and_left_alone(refused: Refused, tmp_path: Path, capfd):
    Run.open(tmp_path / "training", "ladder_gra").close()
    assert "holds a run of ladder_gra, expected one of evaluate" in refused(*ladder("--out", "training"))
    assert evaluate(LADDER, "oracle", out=tmp_path / "done", watch="nothing").complete
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for words, said in (
        (ladder("--out", "done"), "already holds a run (finished): go on with --resume"),
        (ladder("--out", "done", "--resume", agent="random"), "agent was 'oracle', is 'random'"),
        (ladder("--out", "done", "--resume", "--seed", "1"), "seed was 0, is 1"),
    ):
        assert main(["eval", *words]) == 2
        assert said in capfd.readouterr().err
        assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}, said


def test_a_function_that_cannot_be_an_agent_is_named(refused: Refused, tmp_path: Path):
    (tmp_path / "my_wrong_agent.py").write_text("def agent(messages, history): return 'climb'\n")
    assert "expected function(messages)" in refused(*ladder(agent="my_wrong_agent:agent"))


def test_a_program_that_is_not_there_or_dies_at_once_is_one_line(refused: Refused):
    assert "expected a program, got 'no-such-program'" in refused(*ladder(agent="exec:no-such-program"))
    assert "agent program 'false'" in refused(*ladder(agent="exec:false"))


def test_a_full_disk_is_one_line_and_resume_goes_on(tmp_path: Path):
    """A limit on the size of files stands for the disk: the error is of the same kind."""
    words = [sys.executable, "-m", "milepost.recipes.cli", "eval", *ladder("--attempts", "40", "--out", "run")]
    run = {"cwd": tmp_path, "capture_output": True, "text": True, "check": False}
    limited = subprocess.run(
        words, **run, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    )
    (line,) = [line for line in limited.stderr.splitlines() if " done, " not in line]
    assert limited.returncode == 2
    assert line.startswith("milepost: cannot write run/episodes/00000.jsonl: file too large; all that was written")
    assert "Go on with: milepost eval milepost/Ladder-v0 --agent oracle" in line
    again = subprocess.run([*words, "--resume"], **run)
    assert again.returncode == 0, again.stderr
