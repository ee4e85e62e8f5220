"""What a caller does wrong is told in one line, with exit code 2, and nothing is lost."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from guide_runs import train, weights, words
from safetensors.torch import load_file, save_file

from milepost.agents.local import tiny
from milepost.envs.core import Stop
from milepost.envs.runs import Run, read_episodes, read_run
from milepost.recipes.cli import main

Refused = Callable[..., str]
SHORT = ["--warmup-updates", "1", "--updates", "1", "--n-test", "1"]


@pytest.fixture(name="refused")
def one_line_and_exit_code_2(capfd: pytest.CaptureFixture[str]) -> Refused:
    """Run ``milepost`` in this process; return the one line of its refusal."""

    def refused(*argv: str) -> str:
        capfd.readouterr()
        assert main(argv) == 2
        out, err = capfd.readouterr()
        assert err.count("\n") == 1, err
        assert "Traceback" not in out + err
        return err.strip()

    return refused


@pytest.fixture(scope="module", name="finished")
def a_finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "finished"
    assert train(out, *SHORT) == 0
    return out


@pytest.fixture(name="stopped")
def a_run_that_stopped_in_rl(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, as it was when its last checkpoint had been written."""
    out = tmp_path / "stopped"
    shutil.copytree(finished, out)
    for name in ("summary.json", "model", "curve.png"):
        shutil.rmtree(out / name) if (out / name).is_dir() else (out / name).unlink()
    text = (out / "run.json").read_text()
    (out / "run.json").write_text(text.replace('"finished"', '"stopped"'))
    return out


@pytest.fixture(name="my_env")
def an_environment_to_break(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """Write an environment whose step is the given lines; return the flags that name it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_broken", raising=False)

    def write(step: str, first: str = "'Go.'") -> list[str]:
        body = textwrap.indent(textwrap.dedent(step).strip(), " " * 8)
        Path("my_broken.py").write_text(
            f"""
import gymnasium as gym
from milepost.envs.core import Utf8

class BrokenEnv(gym.Env):
    observation_space = action_space = Utf8()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return {first}, {{"task_id": "0", "potential": -1.0, "actions": ["a"]}}

    def step(self, text):
{body}

    oracle = lambda self: ["a"]

gym.register("my/Broken-v0", f"{{__name__}}:BrokenEnv", max_episode_steps=2)
"""
        )
        return ["--env", "my_broken:my/Broken-v0"]

    return write


def test_what_does_not_exist_is_named_with_what_was_meant(refused: Refused, tmp_path: Path):
    out = tmp_path / "run"
    assert "no recipe 'textworld_guid' (did you mean 'textworld_guide'?)" in refused("train", "textworld_guid")
    assert "no command 'trian' (did you mean 'train'?)" in refused("trian")
    line = refused(*words(out, env=["--env", "milepost/Lader-v0"]))
    assert "no environment 'milepost/Lader-v0' (did you mean 'milepost/Ladder-v0'?)" in line
    assert "did you mean 'progress'?" in refused(*words(out, "--credit", "progess"))
    assert "has no option 'dusty' (did you mean 'dust'?)" in refused(*words(out, "--option", "dusty=1"))
    assert "no module 'my_absent'" in refused(*words(out, env=["--env", "my_absent:my/Env-v0"]))
    assert "expected a name like" in refused(*words(out, "--level", "easy", env=[]))
    assert "no such folder" in refused(*words(out, "--model", "./absent"))
    assert train(out, *SHORT) == 0  # none of these left anything in the way


def test_an_unknown_flag_or_value_ends_with_2(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    for flags in (["--updtes", "3"], ["--updates", "many"], ["--dtype", "fp8"]):
        with pytest.raises(SystemExit) as ended:
            main(words(tmp_path / "run", *flags))
        assert ended.value.code == 2
        assert flags[0] in capfd.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_unknown_estimator_is_guessed(refused: Refused, tmp_path: Path):
    line = refused(*words(tmp_path / "run", "--estimator", "bilevel"))
    assert "no credit method 'bilevel': did you mean 'bilevel_gae'?" in line
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_model_without_a_chat_template_is_refused(refused: Refused, tmp_path: Path):
    folder = tiny.build(tmp_path / "model")
    (folder / "chat_template.jinja").unlink()
    line = refused(*words(tmp_path / "run", "--model", str(folder)))
    assert "its tokenizer has no chat template; an instruct model has one" in line


def test_a_gpu_that_is_not_there_is_named(refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    line = refused(*words(tmp_path / "run", "--device", "cuda"))
    assert "this machine has no GPU that torch can use; expected 'cpu'" in line


def test_training_all_weights_in_bf16_is_refused(refused: Refused, tmp_path: Path):
    assert "--lora 0 trains the weights themselves" in refused(
        *words(tmp_path / "run", "--lora", "0", "--dtype", "bf16")
    )


def test_a_folder_with_a_run_is_not_written_over(refused: Refused, finished: Path):
    before = weights(finished)
    assert "already holds a run (finished): go on with --resume" in refused(*words(finished, *SHORT))
    assert set(weights(finished)) == set(before)


def test_a_finished_run_says_so_and_succeeds(finished: Path, capfd: pytest.CaptureFixture[str]):
    before = (finished / "summary.json").read_bytes()
    assert train(finished, *SHORT, "--resume") == 0
    assert f"{finished} is finished; nothing to do" in capfd.readouterr().out
    assert (finished / "summary.json").read_bytes() == before
    assert read_run(finished).status == "finished"


def test_resuming_what_has_no_checkpoint_starts_over_and_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    assert train(tmp_path / "run", *SHORT, "--resume") == 0
    assert f"{tmp_path / 'run'} has no checkpoint; starting over" in capfd.readouterr().out


def test_a_run_of_another_recipe_or_with_other_settings_is_not_gone_on_with(
    refused: Refused, stopped: Path, tmp_path: Path
):
    Run.open(tmp_path / "other", "ladder_gra").close()
    line = refused(*words(tmp_path / "other", "--resume"))
    assert "holds a run of ladder_gra, expected one of textworld_guide: choose another folder" in line
    line = refused(*words(stopped, *SHORT, "--resume", "--lr", "0.5"))
    assert "was begun with other settings: lr was" in line
    assert "is 0.5" in line


def test_a_second_writer_is_refused(refused: Refused, stopped: Path):
    settings = read_run(stopped).settings
    with Run.open(stopped, "textworld_guide", settings, resume=True):
        assert "is being written by another live process (pid " in refused(*words(stopped, *SHORT, "--resume"))
    assert train(stopped, *SHORT, "--resume") == 0


@pytest.mark.parametrize("name", ["trainer.safetensors", "state.json", "credits.pt"])
def test_a_truncated_checkpoint_is_refused_and_kept(refused: Refused, stopped: Path, name: str):
    newest = max((stopped / "checkpoints").iterdir())
    whole = (newest / name).read_bytes()
    (newest / name).write_bytes(whole[: len(whole) // 2])
    line = refused(*words(stopped, *SHORT, "--resume"))
    assert "is not a whole checkpoint" in line
    assert str(newest) in line
    (newest / name).write_bytes(whole)
    assert train(stopped, *SHORT, "--resume") == 0


def test_a_checkpoint_of_another_model_is_refused(refused: Refused, stopped: Path, finished: Path, tmp_path: Path):
    file = max((stopped / "checkpoints").iterdir()) / "trainer.safetensors"
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        meta = opened.metadata()
    save_file({key: value[:1].contiguous() for key, value in load_file(file).items() if value.dim()}, file, meta)
    assert "is a checkpoint of another model" in refused(*words(stopped, *SHORT, "--resume"))
    line = refused(*words(tmp_path / "run", *SHORT, "--warmup-of", str(finished), "--lora", "8"))
    assert "was run with other settings: lora is 4 there, 8 here" in line
    line = refused(*words(tmp_path / "run", *SHORT, "--warmup-of", str(tmp_path)))
    assert "expected a run folder of this recipe that finished its warm-up" in line


def test_a_truncated_episode_file_is_read_and_gone_on_with(stopped: Path, finished: Path):
    file = stopped / "episodes" / "00000.jsonl"
    with open(file, "ab") as end:
        end.write(file.read_bytes()[:100])
    with pytest.warns(UserWarning, match="last line is cut off"):
        assert len(list(read_episodes(stopped))) == len(list(read_episodes(finished)))
    with pytest.warns(UserWarning, match="removed a last line that was cut off"):
        assert train(stopped, *SHORT, "--resume") == 0
    assert [e.id for e in read_episodes(stopped)] == [e.id for e in read_episodes(finished)]


def test_an_episode_file_shorter_than_its_checkpoint_says_is_refused(refused: Refused, stopped: Path):
    (stopped / "episodes" / "00000.jsonl").write_bytes(b"")
    assert "the folder was changed since" in refused(*words(stopped, *SHORT, "--resume"))


def test_rewards_and_observations_that_are_none_are_refused(
    refused: Refused, my_env: Callable[[str], list[str]], tmp_path: Path
):
    for i, (step, expected) in enumerate(
        {
            "return 'x', float('nan'), True, False, {'outcome': 1.0}": "expected a finite reward, got nan",
            "return 7, 0.0, True, False, {'outcome': 1.0}": "expected a text, or a dict of text",
        }.items()
    ):
        sys.modules.pop("my_broken", None)
        line = refused(*words(tmp_path / f"run{i}", env=my_env(step)))
        assert "my/Broken-v0: step, turn 0: " + expected in line.replace("my_broken:", "")


@pytest.mark.parametrize(
    ("flag", "value", "expected"),
    [
        ("--noise", "2", "a share of 0..1, below 1, got 2.0"),
        ("--gamma", "2", "a share of 0..1, got 2.0"),
        ("--lr", "nan", "a positive number, got nan"),
        ("--loss-constant", "0", "a positive number, got 0.0"),
        ("--updates", "-1", "0 or more, got -1"),
        ("--seed", "-1", "0 or more, got -1"),
        ("--max-turns", "0", "1 or more, got 0"),
    ],
)
def test_a_number_that_means_nothing_is_refused_by_its_flag(
    flag: str, value: str, expected: str, refused: Refused, tmp_path: Path
):
    assert f"milepost: {flag}: expected {expected}" in refused(*words(tmp_path / "run", flag, value))
    assert not (tmp_path / "run").exists()


def test_a_first_prompt_longer_than_the_context_is_refused(refused: Refused, tmp_path: Path):
    line = refused(*words(tmp_path / "run", "--max-context", "20"))
    assert "its first prompt has " in line
    assert "the context holds 20" in line


def test_credit_rows_of_the_wrong_length_are_refused(refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_credit", raising=False)
    (tmp_path / "my_credit.py").write_text(
        "from milepost.credit.core import Credit\n"
        "class Short(Credit):\n"
        "    name = 'short'\n"
        "    def on_group(self, group):\n"
        "        return [[0.0] for episode in group]\n"
    )
    line = refused(*words(tmp_path / "run", *SHORT, "--credit", "my_credit:Short"))
    assert "short: episode '0:rl/0/" in line
    assert "expected 5 values, one a turn, got 1" in line
    assert any(e.group.startswith("rl/") for e in read_episodes(tmp_path / "run"))


def test_a_run_stops_when_its_first_three_episodes_raise(
    refused: Refused, my_env: Callable[[str], list[str]], tmp_path: Path
):
    flags = my_env("raise KeyError('a bug of mine')")
    line = refused(*words(tmp_path / "run", "--n-test", "4", env=flags))
    assert "3 of the first 3 episodes ended by an exception in their environment" in line
    assert "KeyError: 'a bug of mine'" in line
    failed = [e for e in read_episodes(tmp_path / "run") if e.stop is Stop.FAILED]
    assert len(failed) >= 3
    assert all("my_broken.py" in (e.failure or "") and "Traceback" in (e.failure or "") for e in failed)


def test_a_run_stops_when_more_than_5_percent_of_its_episodes_raise(
    refused: Refused, my_env: Callable[[str], list[str]], tmp_path: Path
):
    flags = my_env(
        """
        if self.np_random.random() < 0.3: raise KeyError('a rare bug of mine')
        return 'Done.', 0.0, True, False, {'outcome': 1.0, 'potential': 0.0}
        """
    )
    line = refused(*words(tmp_path / "run", "--updates", "9", "--warmup-updates", "9", env=flags))
    assert " episodes ended by an exception in my_broken:my/Broken-v0; the last, 0:" in line
    episodes = list(read_episodes(tmp_path / "run"))
    n_raised = sum(e.runtime.get("raised") == "KeyError" for e in episodes)
    assert f"{n_raised} of {len(episodes)} episodes" in line
    assert 20 <= len(episodes) <= 24


@pytest.mark.parametrize("what", [pytest.param("checkpoint", marks=pytest.mark.slow), "model"])
def test_a_full_disk_stops_the_run_and_it_goes_on_later(what: str, finished: Path, tmp_path: Path):
    out, flags = tmp_path / "run", [*SHORT, "--model", str(tiny.build(tmp_path / "tiny"))]
    room = 40_000 if what == "checkpoint" else (finished / "model" / "model.safetensors").stat().st_size - 1
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, resource.RLIM_INFINITY)); "
    code = f"{limit}from milepost.recipes.cli import main; raise SystemExit(main({words(out, *flags)!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert "file too large; all that was written before is kept: free some space and go on with --resume" in done.stderr
    assert what in done.stderr
    assert train(out, *flags, "--resume") == 0
    ours, theirs = weights(out), weights(finished)
    assert all((ours[name] == theirs[name]).all() for name in theirs)


def test_ctrl_c_keeps_what_was_finished_and_says_how_to_go_on(finished: Path, tmp_path: Path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "milepost.recipes.cli", *words(out, *SHORT)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (out / "checkpoints" / "000003").exists() and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.strip().splitlines()[-1].startswith("stopped; what was finished is kept. Go on with: milepost train ")
    assert err.strip().endswith("--resume")
    assert "Traceback" not in err
    assert read_run(out).status == "stopped"
    assert sum(e.split == "test" and e.stop is not Stop.CANCELLED for e in read_episodes(out)) >= 3
    assert train(out, *SHORT, "--resume") == 0
    assert all((weights(out)[name] == tensor).all() for name, tensor in weights(finished).items())
