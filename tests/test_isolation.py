"""What records claim: each protection that is left out is seen in them, and shown to matter by an attack or a test."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from milepost.sandbox.attacks import suite
from milepost.sandbox.attacks.core import Control
from milepost.sandbox.client import GuestSandbox
from milepost.sandbox.core import Limits, Settings
from milepost.sandbox.hosts import GUEST, PROC_OPEN
from milepost.sandbox.limits import LEAST
from tests.sandboxes import need

ISOLATED = [pytest.param("docker", marks=pytest.mark.docker), "bubblewrap", "landlock"]
SHARE = 0.1
BUSY = """
import os, time
start = time.monotonic()
for _ in range(2):
    if os.fork() == 0:
        while time.monotonic() < start + 1.0:
            pass
        os._exit(0)
for _ in range(2):
    os.wait()
print(sum(os.times()[2:4]), time.monotonic() - start)
"""


def module(backend: str) -> Any:
    return importlib.import_module(f"milepost.sandbox.{need(backend)}")


def host(backend: str, *without: str) -> Any:
    settings = Settings(limits=Limits(cpus=SHARE), allow=frozenset(LEAST))
    return getattr(module(backend), f"{backend.capitalize()}Host")(settings, without=without)


@pytest.mark.parametrize("backend", ISOLATED)
def test_leaving_out_any_protection_changes_what_is_claimed(backend: str) -> None:
    whole = dict(host(backend).isolation)
    missing = {name for name, way in whole["limits"].items() if way is None}
    if backend == "landlock" and not module(backend).own_users():
        missing.add("user")
    for name in {*module(backend).PROTECTIONS, *GUEST} - missing:
        claimed = dict(host(backend, name).isolation)
        assert claimed.pop("without") == [name]
        assert claimed != {key: claim for key, claim in whole.items() if key != "without"}, name


@pytest.mark.parametrize("backend", ISOLATED)
def test_what_the_kernel_cannot_keep_from_commands_is_claimed_no_more_once_the_guest_said_so(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = host(backend)
    assert made.isolation["proc"] != PROC_OPEN
    config = made._config() | {"fence": None}  # as on a kernel without Landlock
    monkeypatch.setattr(made, "_config", lambda: config)
    with GuestSandbox(made) as sandbox:
        assert sandbox.isolation == {**made.isolation, "proc": PROC_OPEN}


@pytest.mark.parametrize("backend", ISOLATED)
def test_every_protection_but_the_share_of_processors_is_what_refuses_an_attack(backend: str) -> None:
    controls = [attack.control_on(need(backend)) for attack in suite.ATTACKS]
    shown = {part for control in controls if isinstance(control, Control) for part in control.parts}
    missing = {name for name, way in host(backend).isolation["limits"].items() if way is None}
    assert {*module(backend).PROTECTIONS, *GUEST} - shown - missing == {"cpus"} - missing


@pytest.mark.parametrize("backend", ISOLATED)
def test_busy_commands_have_no_more_than_their_share_of_processors(backend: str) -> None:
    if host(backend).isolation["limits"]["cpus"] is None:
        pytest.skip("nothing limits it here")

    def within(made: GuestSandbox) -> bool:
        used, seconds = map(float, made.run(["/usr/bin/python3", "-c", BUSY]).output.split())
        return used <= SHARE * seconds + 0.1  # what was left of a period at the beginning

    with GuestSandbox(host(backend)) as whole:
        assert within(whole)
    with GuestSandbox(host(backend, "cpus")) as without:
        assert not all(within(without) for _ in range(10))  # others may want the processors
