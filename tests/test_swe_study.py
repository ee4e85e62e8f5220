"""The study of three methods: what it runs first, and that results of other settings never stand side by side."""

from __future__ import annotations

import importlib.util
import json
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from milepost.recipes.guide import plain
from milepost.recipes.swe_gra import Args

PATH = Path(__file__).parents[1] / "benchmarks" / "swe_gra.py"
SHORT = "--model tiny --packages voluptuous --n-train 1 --n-test 0 --n-probe 0 --games 1 --group 2 --updates 1"
WARMUP = "--warmup-updates 1 --warmup-demos 1"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("swe_gra_study", PATH)
    assert spec
    assert spec.loader
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


study: Any = load()


def kept(folder: Path, method: str, seed: int = 0, **changed: Any) -> None:
    settings = plain(Args(method=method, seed=seed, **changed))  # type: ignore[arg-type]
    update = {"update": 0, "stepwise": 0.75, "outcome": 0.5, "completion": 1.0, "modification": 1.0, "resolution": 0.5}
    told = {"updates": [update], "test": {"warmup": {}, "trained": {}}, "seconds": {}, "settings": settings}
    study.write_json(folder / f"{method}-s{seed}.json", {"method": method, "seed": seed, **told})


def planned(folder: Path, *methods: str, seeds: tuple[int, ...] = (0,), weight: float = 0.1) -> list[str]:
    asked = [study.Arm(method, seed, weight) for method in methods for seed in seeds]
    return [arm.name for arm in study.plan(asked, folder / "runs", folder)]


def test_the_run_that_makes_a_seeds_warm_up_comes_first_and_is_run_where_it_is_missing(tmp_path: Path):
    assert planned(tmp_path, "dra") == ["gra-s0", "dra-s0"]
    assert planned(tmp_path, "dra", weight=0.5) == ["gra-s0", "dra-w0.5-s0"]
    assert planned(tmp_path, "dra", "gra", seeds=(0, 1)) == ["gra-s0", "gra-s1", "dra-s0", "dra-s1"]
    (tmp_path / "runs" / "gra-s0" / "warmup").mkdir(parents=True)
    assert planned(tmp_path, "dra", seeds=(0, 1)) == ["gra-s1", "dra-s0", "dra-s1"]


def test_what_is_kept_is_not_run_again_but_for_a_warm_up_that_others_need(tmp_path: Path):
    kept(tmp_path, "gra")
    assert planned(tmp_path, "gra") == []
    assert planned(tmp_path, "gra", "dra") == ["gra-s0", "dra-s0"]


def test_results_of_other_settings_are_refused_in_one_line_before_anything_runs(tmp_path: Path):
    kept(tmp_path, "gra", updates=16)
    args = study.Args(runs=tmp_path / "runs", keep=tmp_path, methods=("dra",), seeds=(1,))
    with pytest.raises(ValueError, match=r"gra-s0.json has other settings: updates is 16 there, 4 here; .*--keep"):
        study.main(args, ["--updates", "4"])
    assert not (tmp_path / "runs").exists()


def test_a_setting_that_a_kept_result_does_not_know_was_the_default(tmp_path: Path):
    kept(tmp_path, "gra")
    file = tmp_path / "gra-s0.json"
    result = json.loads(file.read_text())
    del result["settings"]["max_lines"]
    file.write_text(json.dumps(result))
    study.refuse_others(tmp_path, plain(Args()))
    with pytest.raises(ValueError, match="max_lines is 10 there, 5 here"):
        study.refuse_others(tmp_path, plain(Args(max_lines=5)))


def test_results_that_were_kept_before_they_told_what_was_paid_are_in_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    kept(tmp_path, "gra")
    study.main(study.Args(keep=tmp_path), [])
    assert "| - " in capsys.readouterr().out.replace("\u2502", "|")


@pytest.mark.slow
def test_one_method_alone_runs_from_a_warm_up_that_was_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    args = study.Args(runs=tmp_path / "runs", keep=tmp_path / "kept", methods=("dra",), seeds=(0,))
    study.main(args, shlex.split(f"{SHORT} {WARMUP}"))
    assert sorted(file.name for file in (tmp_path / "kept").iterdir()) == ["dra-s0.json", "gra-s0.json", "swe_gra.png"]
    told = capsys.readouterr().out
    assert "dra" in told
    assert " - " not in told
    file = tmp_path / "kept" / "dra-s0.json"
    whole = json.loads(file.read_text())
    assert "paid" in whole["updates"][0]
    study.write_json(file, whole | {"updates": []})
    study.main(args, shlex.split("--updates 7"))  # read anew from the finished run
    assert json.loads(file.read_text()) == whole
    for one in (tmp_path / "kept").glob("*.json"):
        one.unlink()
    (tmp_path / "runs").rename(tmp_path / "moved")
    args.runs = tmp_path / "moved"
    with pytest.raises(ValueError, match=r"dra-s0 was run with other settings: updates is 1 there, 7 here; .*--runs"):
        study.main(args, shlex.split(f"{SHORT.replace('--updates 1', '--updates 7')} {WARMUP}"))
    study.main(args, shlex.split(f"{SHORT} {WARMUP}"))  # a finished run without a result is kept, not run again
    assert json.loads(file.read_text()) == whole
