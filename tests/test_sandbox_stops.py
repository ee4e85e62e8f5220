"""Sandboxes and those who use them, stopped in the midst of something: what is said next is true."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from milepost.sandbox.client import GuestSandbox
from milepost.sandbox.core import SandboxError
from tests.sandboxes import open_one


@pytest.fixture
def sandbox() -> Iterator[GuestSandbox]:
    with open_one("local") as made:
        yield made


def test_a_reset_that_was_interrupted_ends_the_guest_whose_answer_nobody_heard(
    sandbox: GuestSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: GuestSandbox) -> None:
        raise KeyboardInterrupt

    sandbox.write("old", b"")
    with monkeypatch.context() as patch:
        patch.setattr(GuestSandbox, "_ready", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sandbox.reset()
    with pytest.raises(SandboxError, match="a reset was interrupted"):
        sandbox.run("true")
    sandbox.reset()
    assert sandbox.run("ls; echo new").output == "new\n"
