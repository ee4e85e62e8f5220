"""Attacks are refused where they are to be, and succeed where exactly one protection is missing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from milepost.recipes.cli import main
from milepost.sandbox.attacks import suite
from milepost.sandbox.attacks.core import AttackError, Control
from milepost.sandbox.attacks.stage import Stage
from tests.sandboxes import need

QUICK = ("fork-bomb", "memory-bomb", "disk-fill", "mount", "unshare", "ptrace", "tcp", "leftover-process")
TWICE_REFUSED = {
    *("disk-fill", "inode-fill", "server-descriptors", "host-write", "mount-write", "hostname"),
    *("host-processes", "other-processes", "other-memory"),
}
"""On bubblewrap a second protection refuses these as well, so that leaving out one does not let them through."""


def test_there_are_at_least_thirty_attacks_with_names_of_their_own() -> None:
    names = [attack.name for attack in suite.ATTACKS]
    assert len(names) == len(set(names)) >= 30
    assert set(QUICK) <= set(names)
    for attack in suite.ATTACKS:
        assert isinstance(attack.control, Control) or len(attack.control) > 20, attack.name


@pytest.mark.parametrize("backend", [pytest.param("docker", marks=pytest.mark.docker), "bubblewrap"])
def test_the_command_tells_of_each_attack_what_came_of_it(backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    need(backend)
    assert main(["sandbox", "attack", "--backend", backend, "--json", "--only", *QUICK]) == 0
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(QUICK)
    assert all(row["refused"] is True and row["detail"] for row in rows)


def test_leaving_out_the_one_protection_lets_an_attack_through(capsys: pytest.CaptureFixture[str]) -> None:
    need("bubblewrap")
    chosen = ["fork-bomb", "memory-bomb", "unshare", "ptrace", "leftover-process"]
    argv = ["sandbox", "attack", "--backend", "bubblewrap", "--controls", "--json", "--only", *chosen]
    assert main(argv) == 0
    assert [row["refused"] for row in json.loads(capsys.readouterr().out)] == [False] * len(chosen)


def test_bad_words_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (
        ["attack", "--backend", "local"],
        ["attack", "--backend", "bubblewrap", "--only", "fork-bom"],
        ["atack"],
    ):
        assert main(["sandbox", *argv]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_a_payload_that_crashes_has_no_verdict() -> None:
    need("bubblewrap")

    def broken() -> str:
        raise KeyError("a defect of the payload")

    with Stage("bubblewrap") as stage, pytest.raises(AttackError, match="no verdict"):
        stage.inside(broken)


@pytest.mark.slow
@pytest.mark.parametrize("backend", [pytest.param("docker", marks=pytest.mark.docker), "bubblewrap"])
def test_every_attack_is_refused(backend: str) -> None:
    need(backend)
    assert [(row.name, row.detail) for row in suite.play(backend) if not row.refused] == []


@pytest.mark.slow
def test_landlock_refuses_all_but_its_known_holes() -> None:
    need("landlock")
    holes = {attack.name for attack in suite.ATTACKS if attack.hole}
    assert {row.name for row in suite.play("landlock") if not row.refused} == holes


@pytest.mark.slow
def test_every_control_on_bubblewrap_succeeds_but_for_what_is_refused_twice() -> None:
    need("bubblewrap")
    played = [suite.control("bubblewrap", attack) for attack in suite.ATTACKS]
    rows = [row for row in played if isinstance(row, suite.Row)]
    assert {row.name for row in rows if row.refused} == TWICE_REFUSED
    assert len(rows) >= 50
