"""``milepost swe verify``: tasks that the oracle solves and nobody else, and those of which that is not so."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sandboxes import need
from swe_envs import EASY, HARD, MIDDLE, TASK, TWO, tiny_tasks

from milepost.envs.swe import verify as verified
from milepost.envs.swe.env import SweEnv
from milepost.envs.swe.tasks import write
from milepost.recipes.cli import main

THIRD = "tiny-1.0:tiny.py:medium:5"
WRONG = replace(EASY, id=THIRD, level="medium", fail_to_pass=(MIDDLE, "test_tiny.py::test_that_is_not_there"))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with tiny_tasks(tmp_path_factory.mktemp("swe"), EASY, HARD) as path:
        yield path


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*words: str) -> tuple[int, str, str]:
        code = main(["swe", "verify", "--backend", need("bubblewrap"), *words])
        out, error = capsys.readouterr()
        return code, out, error

    return run


def test_tasks_that_the_oracle_alone_solves_are_right(file: Path, said: Any, tmp_path: Path):
    code, out, _ = said("--tasks", str(file), "--json")
    report = json.loads(out)
    assert code == 0
    assert (report["n"], report["oracle_resolved"], report["idle_resolved"], report["wrong"]) == (2, 2, 0, [])
    code, out, _ = said("--tasks", str(file), "--split", "train", "--packages", "tiny")
    assert code == 0
    assert "backend bubblewrap" in out


def test_a_task_that_the_oracle_does_not_solve_is_named(file: Path, said: Any, tmp_path: Path):
    write(tmp_path / "wrong.jsonl", [EASY, WRONG])
    code, out, _ = said("--tasks", str(tmp_path / "wrong.jsonl"), "--jobs", "1")
    assert code == 1
    assert f"WRONG  {THIRD}: oracle patch, idle empty_patch" in out
    assert TASK not in out


def test_a_task_that_cannot_be_begun_is_named_with_the_reason(file: Path, said: Any, tmp_path: Path):
    edit = replace(EASY.edits[0], before="//2")
    write(tmp_path / "wrong.jsonl", [replace(EASY, edits=(edit,)), HARD])
    code, out, _ = said("--tasks", str(tmp_path / "wrong.jsonl"), "--json")
    (wrong,) = json.loads(out)["wrong"]
    assert (code, wrong["id"], wrong["oracle"]) == (1, TASK, "none")
    assert f"the patch does not apply: expected '//2' at byte {edit.begin}, got '// 2'" in wrong["why"]


def test_a_run_that_was_stopped_goes_on_with_what_is_not_right_yet(
    file: Path, said: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    begun: list[str] = []
    real = SweEnv.reset

    def reset(self: SweEnv, **kwargs: Any) -> Any:
        begun.append(kwargs["options"]["task"])
        return real(self, **kwargs)

    monkeypatch.setattr(SweEnv, "reset", reset)
    out = tmp_path / "some" / "results.jsonl"
    write(tmp_path / "some" / "tasks.jsonl", [EASY, HARD, WRONG])
    words = "--tasks", str(tmp_path / "some" / "tasks.jsonl"), "--out", str(out), "--jobs", "1"
    assert said("--tasks", str(file), "--out", str(out), "--jobs", "1")[0] == 0
    assert begun == [TASK, TASK, TWO, TWO]
    rows = out.read_text().splitlines(keepends=True)
    out.write_text(rows[0] + rows[1][:20])  # killed while it wrote
    begun.clear()
    assert said(*words)[0] == 1
    assert begun == [TWO, TWO, THIRD, THIRD]
    begun.clear()
    assert said(*words)[0] == 1
    assert begun == [THIRD, THIRD]
    out.write_text("{}\n")
    code, _, error = said(*words)
    assert (code, error.count("\n")) == (2, 1)
    assert "results.jsonl, line 1: expected a result of milepost swe verify" in error


def test_another_task_of_the_same_id_is_played(file: Path, said: Any, tmp_path: Path):
    out, other = tmp_path / "results.jsonl", tmp_path / "other.jsonl"
    assert said("--tasks", str(file), "--out", str(out))[0] == 0
    write(other, [replace(EASY, fail_to_pass=WRONG.fail_to_pass), HARD])
    code, told, _ = said("--tasks", str(other), "--out", str(out))
    assert code == 1
    assert f"WRONG  {TASK}: oracle patch" in told


@pytest.mark.parametrize("text", ["my notes", '{"id": "mine"}\nmy notes', "a\nb"])
def test_a_file_of_something_else_is_refused_and_left_as_it_is(file: Path, said: Any, tmp_path: Path, text: str):
    out = tmp_path / "notes.txt"
    out.write_text(text)
    code, _, error = said("--tasks", str(file), "--out", str(out))
    assert (code, error.count("\n")) == (2, 1)
    assert "notes.txt, line 1: expected a result of milepost swe verify" in error
    assert out.read_text() == text
    assert said("--tasks", str(file), "--out", str(tmp_path))[2] == (
        f"milepost: {tmp_path}: expected a file for results, got a folder\n"
    )


def test_a_limit_that_cannot_be_enforced_is_refused_before_anything_is_played(
    file: Path, capsys: pytest.CaptureFixture[str]
):
    need("landlock")
    assert main(["swe", "verify", "--tasks", str(file), "--backend", "landlock"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert "landlock cannot enforce the limit disk=268435456 here: allow={'disk'} (--allow disk) lets it" in told.err


def test_a_sandbox_that_breaks_once_is_replaced(file: Path, said: Any, monkeypatch: pytest.MonkeyPatch):
    real, n = verified._result, 0

    def broken(env: SweEnv, moves: list[str]) -> str:
        nonlocal n
        n += 1
        if n == 1:
            assert env._sandbox is not None
            env._sandbox._host.stop()  # type: ignore[attr-defined]
        return real(env, moves)

    monkeypatch.setattr(verified, "_result", broken)
    assert said("--tasks", str(file), "--jobs", "1")[0] == 0
    assert n == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["verfy"], "no command 'swe verfy' (did you mean 'verify'?); there is build, verify"),
        (["build", "--out", "tasks.parquet"], "--out tasks.parquet: expected a file that ends in .jsonl"),
        (["verify", "--jobs", "0"], "--jobs: expected at least 1, got 0"),
        (["verify", "--tasks", "nowhere"], "tasks: no file nowhere"),
        (["verify", "--split", "tset"], "SWE split: expected one of train, valid, test, got 'tset'"),
        (["verify", "--split", "test", "--packages", "inflection"], "the default list: there is no such task"),
    ],
)
def test_a_wrong_word_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    assert main(["swe", *words]) == 2
    assert capsys.readouterr().err == f"milepost: {message}\n"


def test_a_broken_line_of_a_file_of_tasks_is_named(file: Path, said: Any, tmp_path: Path):
    (tmp_path / "broken.jsonl").write_bytes(file.read_bytes() + b'{"id": 3}\n')
    code, _, error = said("--tasks", str(tmp_path / "broken.jsonl"))
    assert code == 2
    assert error.startswith(f"milepost: {tmp_path}/broken.jsonl, line 3: expected id, package, version")


def test_importing_the_environments_loads_no_sandbox():
    code = "import sys, milepost.envs; print([m for m in sys.modules if 'sandbox.' in m or m.endswith('swe.env')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(eval(done.stdout))
    assert loaded <= {"milepost.sandbox.core", "milepost.sandbox.names", "milepost.sandbox.process"}
