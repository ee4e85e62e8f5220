"""Models from folders: what is loaded, and what is refused in one line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from milepost.agents.local import models, tiny


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
