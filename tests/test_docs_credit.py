"""The tables of docs/credit.md are what the code says."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

PATH = Path(__file__).parent.parent / "docs" / "generate.py"


@pytest.fixture(name="generate", scope="module")
def the_generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["docs_generate"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_page_is_what_the_code_says(generate: ModuleType):
    text = generate.PAGE.read_text(encoding="utf-8")
    assert generate.page(text) == text, "run python docs/generate.py"


def test_a_page_without_its_marks_is_refused(generate: ModuleType, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(generate, "SECTIONS", {"bias": lambda: "text"})
    with pytest.raises(ValueError, match="expected <!-- bias --> and <!-- end of bias --> once, found 0"):
        generate.page("<!-- bias -->\n")
