"""Sandboxes by name: what ``auto`` chooses, and what is said where there is nothing to choose."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from milepost.sandbox import make as module
from milepost.sandbox.make import BACKENDS, capabilities, make, resolve
from tests.sandboxes import need


def there(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    def backend(name: str) -> Any:
        said = {"available": True} if name in names else {"available": False, "why": f"no {name} today"}
        return SimpleNamespace(capabilities=lambda: said)

    monkeypatch.setattr(module, "_module", backend)
    monkeypatch.setattr(module, "_chosen", {})


def test_auto_is_docker_else_bubblewrap_and_never_weaker(monkeypatch: pytest.MonkeyPatch) -> None:
    there(monkeypatch, *BACKENDS)
    assert resolve("auto") == "docker"
    there(monkeypatch, "bubblewrap", "landlock", "local")
    assert resolve("auto") == "bubblewrap"
    monkeypatch.setattr(module, "_module", None)  # the same as long as the process runs
    assert resolve("auto") == "bubblewrap"
    there(monkeypatch, "landlock", "local")
    with pytest.raises(ValueError, match="neither docker nor bubblewrap") as raised:
        make("auto")
    said = str(raised.value)
    assert "\n" not in said
    assert "apt install bubblewrap" in said
    assert "no docker today" in said
    assert "no bubblewrap today" in said


def test_an_unknown_backend_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(ValueError, match="did you mean 'bubblewrap'"):
        make("bubblewarp")
    with pytest.raises(ValueError, match=r"expected one of docker, bubblewrap, landlock, local or auto, got 'vm'$"):
        make("vm")


def test_every_backend_says_whether_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    there(monkeypatch, "local")
    assert {name: said["available"] for name, said in capabilities().items()} == {
        "docker": False,
        "bubblewrap": False,
        "landlock": False,
        "local": True,
    }


@pytest.mark.parametrize("backend", ["bubblewrap", "landlock"])
def test_a_backend_that_could_not_be_tried_is_tried_again(backend: str) -> None:
    need(backend)
    code = (
        f"import os, resource; from milepost.sandbox.{backend} import capabilities\n"
        "soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard)); print(capabilities()['available'])\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)); print(capabilities()['available'])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert said.stdout.split() == ["False", "True"], said.stderr
